"""The heatmap over the slices, and the segmentation that the threshold makes of it."""

from __future__ import annotations

from slicer.i18n import tr as _

from ToNNOSlicerLib import ask, plots
from ToNNOSlicerLib.logic.errors import EditedByHandError


class ResultSection:
    """panel: the Panel. `onSegment` of the panel is called when a segment was written."""

    def __init__(self, panel) -> None:
        self._panel, self._ui = panel, panel.ui
        self._shown = None  # the heatmap whose numbers the slider has
        self._overlaid: tuple = ()
        self._histogram = None
        self._updating = False
        ui = self._ui
        self._modelTip = ui.modelThresholdButton.toolTip
        ui.heatmapSelector.addAttribute("vtkMRMLScalarVolumeNode", "ToNNO.Record")
        ui.thresholdSlider.connect("valueIsChanging(double)", self.onDragging)
        ui.thresholdSlider.connect("valueChanged(double)", self.onThreshold)
        ui.smallestBox.connect("valueChanged(double)", self._onSmallest)
        ui.modelThresholdButton.connect("clicked(bool)", lambda _on: self._setTo(self._panel.logic.modelThreshold))
        ui.otsuButton.connect("clicked(bool)", lambda _on: self._setTo(self._panel.logic.otsu))
        ui.newSegmentButton.connect("clicked(bool)", self._onNewSegment)
        ui.undoButton.connect("clicked(bool)", self._onUndo)
        ui.show3DButton.connect("toggled(bool)", self._on3D)

    @property
    def heatmap(self):
        """The selected heatmap, None where there is none or it is no heatmap (any more)."""
        node = self._panel.parameters.heatmap if self._panel.parameters else None
        inScene = node is not None and node.GetScene() is self._panel.logic.scene
        return node if inScene and node.GetAttribute("ToNNO.Record") else None

    @property
    def segment(self) -> tuple | None:
        """(segmentation node, segment ID) of the heatmap, or None."""
        return self._panel.logic.segmentOf(self.heatmap) if self.heatmap is not None else None

    # --- showing what there is

    def update(self) -> None:
        """Follow the parameters: another heatmap, opacity, on and off."""
        heatmap = self.heatmap
        if heatmap is not self._shown:
            self._shown = heatmap
            self._overlaid = ()
            if heatmap is not None:
                self._loadHeatmap(heatmap)
        self._overlay()
        self.enable()

    def enable(self) -> None:
        ui, there = self._ui, self.heatmap is not None and self._panel.controller.state == "idle"
        for widget in (ui.thresholdSlider, ui.otsuButton, ui.smallestBox, ui.newSegmentButton):
            widget.enabled = there
        ui.modelThresholdButton.enabled = there and self._panel.logic.modelThreshold(self.heatmap) is not None
        ui.modelThresholdButton.toolTip = self._modelTip + self._whatItIsFor()
        ui.undoButton.enabled = self._panel.logic.canUndo
        ui.show3DButton.enabled = there and self.segment is not None

    def _whatItIsFor(self) -> str:
        """What the model's threshold is not made for."""
        if self.heatmap is None or not self._panel.logic.isZoomed(self.heatmap):
            return ""
        return _("; calibrated for the whole volume, not for a finer region: look, and tune it")

    def forget(self) -> None:
        """The scene has closed."""
        self._shown, self._overlaid, self._histogram = None, (), None
        self._ui.histogramLabel.clear()

    def _loadHeatmap(self, heatmap) -> None:
        logic = self._panel.logic
        edges, counts = logic.histogram(heatmap)
        self._histogram = (edges, counts, logic.modelThreshold(heatmap), logic.noiseFloor(heatmap))
        known = self.segment
        threshold = logic.thresholdOf(*known) if known else None
        if threshold is None:
            threshold = logic.modelThreshold(heatmap) or float(edges[-1]) / 2
        top = max(float(edges[-1]), threshold) * 1.05 or 1.0
        slider = self._ui.thresholdSlider
        self._updating = True
        slider.minimum, slider.maximum = min(0.0, float(edges[0])), top
        slider.singleStep = top / 500
        slider.value = threshold
        self._updating = False
        self._panel.parameters.threshold = threshold
        self._drawHistogram(threshold)

    def _overlay(self) -> None:
        parameters, heatmap = self._panel.parameters, self.heatmap
        if heatmap is None:
            return
        now = (heatmap.GetID(), self._ui.thresholdSlider.value, parameters.opacity, parameters.overlayVisible)
        if now != self._overlaid:
            self._overlaid = now
            self._panel.logic.setOverlay(heatmap, now[1], now[2], now[3])

    def _drawHistogram(self, threshold) -> None:
        if self._histogram is None:
            return
        edges, counts, model, floor = self._histogram
        label = self._ui.histogramLabel
        label.setPixmap(plots.histogramPixmap(edges, counts, threshold, model, floor, max(label.width, 200), 90))

    # --- the threshold

    def onDragging(self, value) -> None:
        """While the slider moves: the outline and the overlay, no segment yet."""
        heatmap = self.heatmap
        if self._updating or heatmap is None:
            return
        with self._panel.telling():
            self._panel.logic.previewMask(heatmap, value, self._panel.parameters.minMm3)
        self._drawHistogram(value)

    def onThreshold(self, value) -> None:
        """The slider was let go, or a number typed: the segment is written."""
        if self._updating or self.heatmap is None:
            return
        self._panel.parameters.threshold = value
        self._drawHistogram(value)
        self._overlay()
        self.write()

    def write(self) -> None:
        """The segment of the present threshold; asks before it overwrites what was painted."""
        with self._panel.telling():
            try:
                written = self._write(overwrite=False)
            except EditedByHandError as error:
                answer = ask.aboutHandWork(error)
                if answer == "overwrite":
                    written = self._write(overwrite=True)
                elif answer == "new":
                    written = self._writeNew()
                else:
                    self._panel.logic.hidePreview()
                    self._backToWritten()
                    return
            self._select(written)

    def _write(self, overwrite) -> tuple:
        threshold, smallest = self._ui.thresholdSlider.value, self._panel.parameters.minMm3
        return self._panel.logic.writeSegment(self.heatmap, threshold, smallest, overwrite=overwrite)

    def _writeNew(self) -> tuple:
        known = self.segment
        node = self._panel.parameters.segmentation or (known[0] if known else None)
        threshold, smallest = self._ui.thresholdSlider.value, self._panel.parameters.minMm3
        return self._panel.logic.newSegment(self.heatmap, threshold, smallest, node)

    def _select(self, written) -> None:
        parameters = self._panel.parameters
        parameters.segmentation, parameters.segmentId = written[0], written[1] or ""
        self._panel.onSegment()

    def _backToWritten(self) -> None:
        known = self.segment
        threshold = self._panel.logic.thresholdOf(*known) if known else None
        if threshold is not None:
            self._updating = True
            self._ui.thresholdSlider.value = threshold
            self._updating = False
            self._panel.parameters.threshold = threshold
            self._drawHistogram(threshold)
            self._overlay()

    def _setTo(self, source) -> None:
        with self._panel.telling():
            value = source(self.heatmap)
            if value == self._ui.thresholdSlider.value:
                self.onThreshold(value)
            else:
                self._ui.thresholdSlider.value = value

    def _onSmallest(self, _value) -> None:
        if not self._updating and self._ui.smallestBox.enabled and self.segment is not None:
            self._panel.parameters.minMm3 = self._ui.smallestBox.value
            self.write()

    # --- buttons

    def _onNewSegment(self, _on) -> None:
        with self._panel.telling():
            self._select(self._writeNew())

    def _onUndo(self, _on) -> None:
        with self._panel.telling():
            try:
                undone = self._panel.logic.undo()
            except EditedByHandError as error:
                if ask.aboutHandWork(error) != "overwrite":
                    return
                undone = self._panel.logic.undo(overwrite=True)
            if undone is not None:
                self._backToWritten()
                self._panel.onSegment()

    def _on3D(self, on) -> None:
        known = self.segment
        if known is not None:
            with self._panel.telling():
                self._panel.logic.show3D(known[0], on)
