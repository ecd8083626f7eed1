"""The shown result beside that of an earlier scan."""

from __future__ import annotations

from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.compare import Comparison, kindText, sentence
from ToNNOSlicerLib.sections.look import Filling, fillTable, fitColumns, setText


class CompareSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._filled: Comparison | None = None
        self._filling = Filling()
        fitColumns(ui.compareTable, wide=7)
        ui.compareTable.connect("cellClicked(int,int)", lambda row, _column: session.goToChange(row))
        self._filling.connect(ui.compareTable, "currentCellChanged(int,int,int,int)", self._onCurrent)

    def render(self) -> None:
        """Show the changes, or what is missing for them."""
        comparison = self._session.comparison
        setText(self._ui.compareLabel, _words(comparison, self._session.shownResult))
        if comparison is not self._filled:
            self._filled = comparison
            with self._filling:
                self._fill(() if comparison is None else comparison.changes)

    def _onCurrent(self, row, *_others) -> None:
        """Follow the arrow keys."""
        if row >= 0:
            self._session.goToChange(row)

    def _fill(self, changes: tuple) -> None:
        rows = []
        for change in changes:
            now, before = change.present, change.prior
            mlNow = 0.0 if now is None else now.volumeMm3 / 1000
            mlBefore = sum(finding.volumeMm3 for finding in before) / 1000
            rows.append((
                kindText(change.kind),
                "" if now is None else str(now.label),
                "" if now is None else f"{mlNow:.2f}",
                "" if now is None else _mm([now]),
                ", ".join(str(finding.label) for finding in before),
                f"{mlBefore:.2f}" if before else "",
                _mm(before),
                f"{mlNow - mlBefore:+.2f}",
            ))  # fmt: skip
        fillTable(self._ui.compareTable, rows)


def _mm(findings) -> str:
    """The longest axial diameters: a change may be told from them alone."""
    return ", ".join(f"{finding.longestMm:.3g}" for finding in findings)


def _words(comparison: Comparison | None, result) -> str:
    if comparison is not None:
        title = _("{sentence} since {prior}.").format(sentence=sentence(comparison.changes), prior=comparison.priorName)
        return "\n".join((title, *comparison.notes))
    if result is None:
        return _("Select a result first.")
    return _("Choose the result of an earlier scan.")
