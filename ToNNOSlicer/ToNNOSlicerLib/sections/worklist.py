"""Studies one after the other: how far they are, and the next patient."""

from __future__ import annotations

from slicer.i18n import tr as _

from ToNNOSlicerLib import worklist
from ToNNOSlicerLib.sections.look import fillTable, fitColumns, setText
from ToNNOSlicerLib.words import shortNumber


class WorklistSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._filled: tuple = ()
        fitColumns(ui.worklistTable, wide=3)
        # By a double click, and by Enter.
        ui.worklistTable.connect("cellActivated(int,int)", lambda row, _column: session.openCase(row))
        ui.worklistFolderButton.connect("clicked(bool)", lambda _on: session.openWorklist("folder"))
        ui.worklistFileButton.connect("clicked(bool)", lambda _on: session.openWorklist("list"))
        ui.worklistCancelButton.connect("clicked(bool)", session.cancelWorklist)
        ui.worklistSaveButton.connect("clicked(bool)", session.saveAndNext)
        ui.worklistNextButton.connect("clicked(bool)", session.nextCase)

    def render(self) -> None:
        """Show the list."""
        ui, reading = self._ui, self._session.reading
        listed, isBusy = reading.state.cases, reading.isBusy
        setText(ui.worklistLabel, _words(reading.state))
        ui.worklistFolderButton.enabled = ui.worklistFileButton.enabled = not isBusy and self._session.isIdle
        ui.worklistCancelButton.enabled = isBusy
        ui.worklistSaveButton.enabled = reading.case is not None
        ui.worklistNextButton.enabled = any(case.state == worklist.DONE for case in listed)
        key = listed, reading.case
        if key != self._filled:
            self._filled = key
            self._fill(listed, reading.case)

    def _fill(self, listed: tuple, openCase) -> None:
        rows = [
            (
                case.name,
                _stateText(case.state),
                "" if case.findings is None else str(case.findings),
                "" if case.score is None else shortNumber(case.score),
            )
            for case in listed
        ]
        fillTable(self._ui.worklistTable, rows, [case.error or case.volume for case in listed])
        volumes = [case.volume for case in listed]
        if openCase is not None and openCase.volume in volumes:
            self._ui.worklistTable.selectRow(volumes.index(openCase.volume))


def _words(shown: worklist.State) -> str:
    """How far the list is."""
    if shown.error:
        return shown.error
    if shown.step == worklist.FINDING:
        return _("Looking for studies")
    if not shown.cases:
        return ""
    done = sum(case.state in (worklist.DONE, worklist.READ) for case in shown.cases)
    read = sum(case.state == worklist.READ for case in shown.cases)
    failed = sum(case.state == worklist.FAILED for case in shown.cases)
    text = _("{done} of {all} done, {read} read")
    if failed:
        text = _("{done} of {all} done, {read} read, {failed} failed")
    counts = text.format(done=done, all=len(shown.cases), read=read, failed=failed)
    return "\n".join((counts, *shown.notes))


def _stateText(state: str) -> str:
    return {
        worklist.WAITING: _("waiting"),
        worklist.RUNNING: _("running"),
        worklist.DONE: _("done"),
        worklist.FAILED: _("failed"),
        worklist.READ: _("read"),
    }[state]
