"""The shown result: what it is, what came out, and the threshold over its histogram."""

from __future__ import annotations

import math

from slicer.i18n import tr as _

from ToNNOSlicerLib import plots
from ToNNOSlicerLib.logic.heatmap import calibrationOf, histogram
from ToNNOSlicerLib.sections.look import setKind, setText
from ToNNOSlicerLib.state import NOTE, State

_HISTOGRAM_HEIGHT = 86


class ResultSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._isFilling = False
        self._drawn: tuple = ()
        self._ranged: tuple = ()
        self._histogram: tuple = ()
        ui.heatmapSelector.addAttribute("vtkMRMLScalarVolumeNode", "ToNNO.Record")
        ui.priorSelector.addAttribute("vtkMRMLScalarVolumeNode", "ToNNO.Record")
        ui.thresholdSlider.connect("valueIsChanging(double)", self._onDragging)
        ui.thresholdSlider.connect("valueChanged(double)", self._onThreshold)
        ui.smallestBox.connect("valueChanged(double)", self._onSmallest)
        for button, intention in (
            (ui.modelThresholdButton, session.toModelThreshold),
            (ui.otsuButton, session.toOtsu),
            (ui.newSegmentButton, session.newSegment),
            (ui.undoButton, session.undo),
            (ui.redoButton, session.redo),
            (ui.highestButton, session.jumpToHighest),
        ):
            button.connect("clicked(bool)", intention)

    def render(self, state: State) -> None:
        """Show the result, or that there is none.

        Args:
            state: What is shown.
        """
        ui, result = self._ui, state.result
        self._isFilling = True
        setText(ui.identityLabel, "" if result is None else f"<b>{_escaped(result.name)}</b>")
        setText(ui.sentenceLabel, state.sentence if result is not None else _nothing(state), hideIfEmpty=False)
        ui.highestButton.visible = result is not None and not result.findings
        setKind(ui.notesLabel, NOTE)
        setText(ui.notesLabel, "\n".join(state.notes))
        if result is not None:
            self._setRange(result)
            if not state.isDragging:  # a value that is set meanwhile would end the drag without a word
                ui.thresholdSlider.value = state.threshold
        if state.parameters is not None:
            ui.smallestBox.value = state.parameters.minMm3 if result is None else result.smallestMm3
        ui.show3DButton.setSegmentationNode(None if result is None else result.segmentationNode)
        if result is None or result.segmentationNode is None:
            ui.show3DButton.checked = False  # Slicer's button stays as it was, without anything to show
        self._isFilling = False
        self._draw(state)
        self._enable(state)

    def _enable(self, state: State) -> None:
        ui, there = self._ui, state.result is not None
        for widget in (ui.thresholdSlider, ui.otsuButton, ui.newSegmentButton, ui.show3DButton):
            widget.enabled = there
        ui.modelThresholdButton.enabled = there and calibrationOf(state.result.record).get("threshold") is not None
        ui.undoButton.enabled, ui.redoButton.enabled = state.canUndo, state.canRedo
        ui.opacitySlider.enabled = ui.overlayCheck.enabled = there

    def _setRange(self, result) -> None:
        """The slider's ends are the heatmap's; they move only for another heatmap."""
        edges, counts = histogram(result.heatmapNode)
        key = result.heatmapNode.GetID(), float(edges[0]), float(edges[-1]), counts.tobytes()
        if key == self._ranged and result.threshold <= self._ui.thresholdSlider.maximum:
            return
        self._ranged, self._histogram = key, (edges, counts)
        slider = self._ui.thresholdSlider
        low, top = min(0.0, float(edges[0])), max(float(edges[-1]), result.threshold) * 1.05 or 1.0
        # Never a range that would cut the value that is shown, even for a moment.
        slider.minimum, slider.maximum = min(low, slider.minimum), max(top, slider.maximum)
        slider.value = result.threshold
        slider.minimum, slider.maximum = low, top
        slider.singleStep = top / 500
        slider.decimals = min(max(5 - math.ceil(math.log10(top)), 0), 10)  # five digits of the largest

    def _draw(self, state: State) -> None:
        label, result = self._ui.histogramLabel, state.result
        if result is None:
            if self._drawn:
                label.clear()
            self._drawn = ()
            return
        width = max(label.width, 240)
        key = self._ranged, state.threshold, width, label.palette.cacheKey()
        if key == self._drawn:
            return
        self._drawn = key
        edges, counts = self._histogram
        calibration = calibrationOf(result.record)
        marks = calibration.get("threshold"), calibration.get("noise_floor")
        label.setPixmap(
            plots.histogramPixmap(
                edges, counts, state.threshold, *marks, plots.Canvas(width, _HISTOGRAM_HEIGHT, label.palette)
            )
        )

    def _onDragging(self, value) -> None:
        if not self._isFilling:
            self._session.drag(value)

    def _onThreshold(self, value) -> None:
        if not self._isFilling:
            self._session.setThreshold(value)

    def _onSmallest(self, value) -> None:
        if not self._isFilling:
            self._session.setSmallest(value)


def _nothing(state: State) -> str:
    if state.isPreview:
        return _("Preview: it sharpens while the model looks on.")
    return _("No result yet. Choose a volume and a model, and click Apply.")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
