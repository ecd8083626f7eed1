"""The row of exports: all of the shown result, and of it alone."""

from __future__ import annotations

from ToNNOSlicerLib import exports

_STEPS = 1000


class ExportSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._buttons = {
            ui.exportReportButton: exports.REPORT,
            ui.exportSegmentationButton: exports.SEGMENTATION,
            ui.exportHeatmapButton: exports.HEATMAP,
            ui.exportFindingsButton: exports.FINDINGS,
        }
        for button, kind in self._buttons.items():
            button.connect("clicked(bool)", lambda _on, kind=kind: session.export(kind))
        ui.copyReportButton.connect("clicked(bool)", session.copyReport)
        ui.exportCancelButton.connect("clicked(bool)", session.cancelExport)

    def render(self) -> None:
        """Enable what there is something to write of, and show how far the export is."""
        ui, result = self._ui, self._session.shownResult
        isBusy = self._session.exports.isBusy
        for button, kind in self._buttons.items():
            there = result is not None and (kind == exports.HEATMAP or result.segment is not None)
            isSlow = kind in (exports.HEATMAP, exports.REPORT)
            button.enabled = there and not (isBusy and isSlow)
        ui.copyReportButton.enabled = result is not None and result.segment is not None
        ui.exportProgressBar.visible = ui.exportCancelButton.visible = isBusy
        ui.exportProgressBar.value = round(_STEPS * self._session.exports.share)
