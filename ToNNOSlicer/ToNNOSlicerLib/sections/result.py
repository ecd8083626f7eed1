"""The shown result: what it is, what came out, and the threshold over its histogram."""

from __future__ import annotations

import math
from html import escape

from slicer.i18n import tr as _

from ToNNOSlicerLib import plots
from ToNNOSlicerLib.logic import summary
from ToNNOSlicerLib.logic.heatmap import calibrationOf, histogram, modelsMinPeak
from ToNNOSlicerLib.logic.limits import FEWER
from ToNNOSlicerLib.notes import notesOf
from ToNNOSlicerLib.sections.look import Filling, setKind, setText, tall, withKind
from ToNNOSlicerLib.state import NOTE

_HISTOGRAM_HEIGHT = 86


class ResultSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._filling = Filling()
        self._drawn: tuple = ()
        self._ranged: tuple = ()
        self._histogram: tuple = ()
        ui.heatmapSelector.addAttribute("vtkMRMLScalarVolumeNode", "ToNNO.Record")
        ui.priorSelector.addAttribute("vtkMRMLScalarVolumeNode", "ToNNO.Record")
        self._filling.connect(ui.thresholdSlider, "valueIsChanging(double)", session.drag)
        self._filling.connect(ui.thresholdSlider, "valueChanged(double)", session.setThreshold)
        self._filling.connect(ui.smallestBox, "valueChanged(double)", session.setSmallest)
        self._filling.connect(ui.weakCheck, "toggled(bool)", session.setDropWeak)
        for button, intention in (
            (ui.modelThresholdButton, session.toModelThreshold),
            (ui.otsuButton, session.toOtsu),
            (ui.newSegmentButton, session.newSegment),
            (ui.undoButton, session.undo),
            (ui.redoButton, session.redo),
            (ui.highestButton, session.jumpToHighest),
        ):
            button.connect("clicked(bool)", intention)

    def render(self) -> None:
        """Show the result, or that there is none."""
        result = self._session.shownResult
        with self._filling:
            self._fill(result)
        self._draw(result)
        self._enable(result)

    def _fill(self, result) -> None:
        ui, session = self._ui, self._session
        setText(ui.identityLabel, "" if result is None else f"<b>{escape(result.name, quote=False)}</b>")
        setText(ui.sentenceLabel, self._sentence(result), hideIfEmpty=False)
        ui.highestButton.visible = result is not None and not result.findings
        setKind(ui.notesLabel, NOTE)
        setText(ui.notesLabel, "" if result is None else withKind(NOTE, "\n".join(notesOf(result))))
        if result is not None:
            self._setRange(result)
            if session.draft is None:  # a value that is set during a drag would end it without a word
                ui.thresholdSlider.value = result.threshold
        if session.parameters is not None:
            ui.smallestBox.value = session.parameters.minMm3 if result is None else result.smallestMm3
        if session.parameters is not None:
            ui.weakCheck.checked = session.parameters.dropWeak if result is None else result.minPeak > -math.inf
        ui.show3DButton.setSegmentationNode(None if result is None else result.segmentationNode)
        if result is None or result.segmentationNode is None:
            ui.show3DButton.checked = False  # Slicer's button stays as it was, without anything to show

    def _sentence(self, result) -> str:
        if result is not None and result.segment is None:
            return _("There is no segment. Move the threshold to write one.")
        if result is not None and result.listing.gap:
            return f"{result.listing.gap} {FEWER}"
        if result is not None:
            threshold = None if result.isEdited else result.threshold
            return summary.headline(result.findings, result.heatmapNode, threshold, result.smallestMm3, result.minPeak)
        if self._session.running.preview is not None:
            return _("Preview: it sharpens while the model looks on.")
        return _("No result yet. Choose a volume and a model, and click Apply.")

    def _enable(self, result) -> None:
        ui, there, segments = self._ui, result is not None, self._session.logic.segments
        heatmap = result.heatmapNode if there else None
        for widget in (ui.thresholdSlider, ui.otsuButton, ui.newSegmentButton, ui.show3DButton):
            widget.enabled = there
        ui.modelThresholdButton.enabled = there and calibrationOf(result.record).get("threshold") is not None
        ui.undoButton.enabled, ui.redoButton.enabled = segments.canUndo(heatmap), segments.canRedo(heatmap)
        ui.weakCheck.enabled = not there or modelsMinPeak(result.record) > -math.inf
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

    def _draw(self, result) -> None:
        label = self._ui.histogramLabel
        if result is None:
            if self._drawn:
                label.clear()
            self._drawn = ()
            return
        width = max(label.width, 240)
        threshold = result.threshold if self._session.draft is None else self._session.draft
        key = self._ranged, threshold, width, label.palette.cacheKey()
        if key == self._drawn:
            return
        self._drawn = key
        edges, counts = self._histogram
        calibration = calibrationOf(result.record)
        marks = calibration.get("threshold"), calibration.get("noise_floor")
        label.setPixmap(
            plots.histogramPixmap(
                edges, counts, threshold, *marks, plots.Canvas(width, tall(label, _HISTOGRAM_HEIGHT), label.palette)
            )
        )
