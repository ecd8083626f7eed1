"""The parts of the segment, and what the reader says of them."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic import summary, verdicts
from ToNNOSlicerLib.logic.diameters import isDrawn
from ToNNOSlicerLib.sections.look import Filling, fillTable, fitColumns
from ToNNOSlicerLib.words import shortNumber

_CONFIDENCE = 5  # its column


class FindingsSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._filled: tuple = ()
        self._filling = Filling()
        table = ui.findingsTable
        fitColumns(table, wide=_CONFIDENCE)
        # The header tells of a new width before the table knows it, so the rows are measured a turn later.
        self._rowsTimer = qt.QTimer(table)
        self._rowsTimer.setSingleShot(True)
        self._rowsTimer.setInterval(0)
        self._rowsTimer.connect("timeout()", table.resizeRowsToContents)
        table.horizontalHeader().connect("sectionResized(int,int,int)", self._onColumn)
        table.connect("cellClicked(int,int)", lambda row, _column: session.select(row))
        self._filling.connect(table, "currentCellChanged(int,int,int,int)", self._onCurrent)
        for button, intention in (
            (ui.nextButton, lambda _on: session.step(1)),
            (ui.previousButton, lambda _on: session.step(-1)),
            (ui.acceptButton, lambda _on: session.judge(verdicts.ACCEPT)),
            (ui.rejectButton, lambda _on: session.judge(verdicts.REJECT)),
            (ui.unsureButton, lambda _on: session.judge(verdicts.UNSURE)),
            (ui.removeFindingButton, session.removeFinding),
        ):
            button.connect("clicked(bool)", intention)
        self._filling.connect(ui.diametersCheck, "toggled(bool)", session.showDiameters)

    def render(self) -> None:
        """Show the findings of the result."""
        ui, session = self._ui, self._session
        result = session.shownResult
        listed = () if result is None else result.findings
        key = () if result is None else (result.identity, listed)
        with self._filling:
            if key != self._filled:
                self._filled = key
                self._fill(listed)
            self._select(session.selected)
        selected = 0 <= session.selected < len(listed)
        for button in (ui.acceptButton, ui.rejectButton, ui.unsureButton, ui.removeFindingButton):
            button.enabled = selected
        ui.nextButton.enabled = ui.previousButton.enabled = ui.diametersCheck.enabled = bool(listed)
        ui.findingsSection.text = _("Findings ({count})").format(count=len(listed)) if result else _("Findings")
        with self._filling:
            ui.diametersCheck.checked = result is not None and isDrawn(result.heatmapNode)

    def _fill(self, listed: tuple) -> None:
        rows = [
            (
                str(finding.label),
                summary.ml(finding.ml),
                summary.size(finding),
                summary.side(finding),
                shortNumber(finding.peak),
                finding.confidence,
                summary.verdict(finding),
            )
            for finding in listed
        ]
        fillTable(self._ui.findingsTable, rows)
        self._ui.findingsTable.resizeRowsToContents()

    def _onColumn(self, column, *_widths) -> None:
        """Make the rows as high as their longest text needs in the room that is left for it."""
        if column == _CONFIDENCE:
            self._rowsTimer.start()

    def _onCurrent(self, row, *_others) -> None:
        """Follow the arrow keys: a verdict is about the finding that is marked."""
        if row >= 0 and row != self._session.selected:
            self._session.select(row)

    def _select(self, row: int) -> None:
        table = self._ui.findingsTable
        if row < 0:
            table.clearSelection()
        elif table.currentRow() != row or not table.selectedItems():
            table.selectRow(row)
