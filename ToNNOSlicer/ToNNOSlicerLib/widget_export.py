"""The row of exports. What takes long is written by another process while the window stays usable."""

from __future__ import annotations

import traceback

import qt
from slicer.i18n import tr as _

from ToNNOSlicerLib import ask, elsewhere
from ToNNOSlicerLib.background import Background, importAhead

_TICK_MS = 50
_STEPS = 1000
# What the event loop leaves to the thread that loads libraries, at each tick.
_YIELD_S = 0.01


class ExportSection:
    """Files, written whole or not at all. One slow export goes on at a time."""

    def __init__(self, panel) -> None:
        self._panel = panel
        self._steps = None  # of the export that goes on
        self._path = ""
        self._loading = None
        ui = panel.ui
        ui.exportSegmentationButton.connect("clicked(bool)", self._onSegmentation)
        ui.exportHeatmapButton.connect("clicked(bool)", self._onHeatmap)
        ui.exportFindingsButton.connect("clicked(bool)", self._onFindings)
        ui.exportReportButton.connect("clicked(bool)", self._onReport)
        ui.exportCancelButton.connect("clicked(bool)", lambda _on: self.cancel())
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self._onTick)
        self._showBar(False)

    @property
    def isBusy(self) -> bool:
        return self._steps is not None

    def enable(self) -> None:
        ui, result = self._panel.ui, self._panel.result
        ui.exportHeatmapButton.enabled = result.heatmap is not None and not self.isBusy
        ui.exportReportButton.enabled = result.segment is not None and not self.isBusy
        for button in (ui.exportSegmentationButton, ui.exportFindingsButton):
            button.enabled = result.segment is not None

    def cancel(self) -> None:
        """End the export that goes on; nothing of it stays."""
        if self.isBusy:
            self._end()
            self._panel.status(_("The export was cancelled"))

    # --- what is written at once

    def _onSegmentation(self, _on) -> None:
        kinds = "Segmentation (*.seg.nrrd);;NIfTI (*.nii.gz);;STL (*.stl);;DICOM SEG (*.dcm)"
        self._write(
            _("Export the segmentation"),
            "finding.seg.nrrd",
            kinds,
            lambda path: self._panel.logic.exportSegmentation(self._panel.result.segment[0], path),
        )

    def _onFindings(self, _on) -> None:
        self._write(
            _("Export the findings"),
            "findings.csv",
            "CSV (*.csv)",
            lambda path: self._panel.logic.exportFindings(self._panel.findings.findings, path),
        )

    def _write(self, title, name, kinds, write) -> None:
        path = ask.saveFile(title, name, kinds)
        if path:
            with self._panel.telling(), ask.waiting():
                write(path)
                self._tellWritten(path)

    # --- what takes long

    def _onHeatmap(self, _on) -> None:
        path = ask.saveFile(_("Export the heatmap"), "heatmap.nrrd", "NRRD (*.nrrd);;NIfTI (*.nii.gz)")
        if path:
            self._begin(path, self._panel.logic.heatmapSteps(self._panel.result.heatmap, path, self._writer()))

    def _onReport(self, _on) -> None:
        path = ask.saveFile(_("A new folder for the report"), "ToNNO report", "")
        if path:
            self.startReport(path)

    def startReport(self, folder) -> None:
        """Begin to write the report; `isBusy` tells when it has ended."""
        result = self._panel.result
        steps = self._panel.logic.reportSteps(folder, result.heatmap, *result.segment, self._writer())
        self._begin(folder, steps)

    def _writer(self):
        return elsewhere.writer(*self._panel.python())

    def _begin(self, path, steps) -> None:
        self._panel.showMessage("", "")
        self._path, self._steps, self._loading = path, steps, Background(importAhead)
        self._showBar(True)
        self.enable()
        self._panel.status(_("Writing {path}").format(path=path))
        self._timer.start()

    def _onTick(self) -> None:
        """One step; what goes wrong ends the export with words."""
        if not self.isBusy:
            return
        self._loading.join(_YIELD_S)
        if self._loading.is_alive():
            return
        share, failed = None, True
        try:
            with self._panel.telling():
                share = next(self._steps, None)
                failed = False
        except Exception as error:  # words instead of a timer that throws for ever
            self._panel.log(traceback.format_exc())
            self._panel.showMessage(f"{type(error).__name__}: {error}", _("Send the log below."))
        if share is not None:
            self._panel.ui.exportProgressBar.value = round(_STEPS * share)
            return
        self._end()
        if not failed:
            self._tellWritten(self._path)

    def _end(self) -> None:
        steps, self._steps = self._steps, None
        self._timer.stop()
        steps.close()
        self._showBar(False)
        self._panel.status("")
        if self._panel.parameters is not None:
            self.enable()

    def _showBar(self, on) -> None:
        ui = self._panel.ui
        ui.exportProgressBar.value = 0
        ui.exportProgressBar.visible = on
        ui.exportCancelButton.visible = on

    def _tellWritten(self, path) -> None:
        self._panel.status(_("Written: {path}").format(path=path))
