"""The shown result as files. One export at a time; what takes long is written by a worker of its own. No Qt.

The worker is the engine's program, started for one export and ended with it: an export waits for no run, outlives a
run that is canceled, and needs no GPU. Pictures and compressed files take seconds, in which the window must not stop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from tonno_core.output import check_name
from tonno_core.worker.exports import Export
from ToNNOSlicerLib.background import Background
from ToNNOSlicerLib.engine import EngineClient
from ToNNOSlicerLib.logic import summary
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.export import SlowWriter, cannotWrite, exportFindings, heatmapSteps
from ToNNOSlicerLib.logic.heatmap import methodName
from ToNNOSlicerLib.logic.report import reportSteps
from ToNNOSlicerLib.logic.results import Result
from ToNNOSlicerLib.state import DONE, ERROR, Message

SEGMENTATION, HEATMAP, FINDINGS, REPORT = "segmentation", "heatmap", "findings", "report"
# The event loop may hold the interpreter's lock: threads then run only in these pauses.
_YIELD_S = 0.01
# A library that compresses a large volume may hold up the worker's heartbeat; whoever cannot wait cancels.
_PATIENCE_S = math.inf
# What the machine lacks, and what helps.
_CAUSES = {
    "disk-full": (_("The disk that the files go to is full."), _("Free some space, or choose another place.")),
    "out-of-memory": (
        _("There is not enough memory to write the files."),
        _("Close other programs, then export again."),
    ),
}


class Exports:
    """Writes what is shown into files.

    Args:
        session: The Session.
    """

    def __init__(self, session) -> None:
        self._session = session
        self._steps: Iterator[float] | None = None
        self._path = ""
        self.share = 0.0

    @property
    def isBusy(self) -> bool:
        """Whether an export is under way."""
        return self._steps is not None

    def start(self, kind: str, result: Result) -> None:
        """Ask for a file and write it: at once if that is quick, else from `tick`.

        Args:
            kind: SEGMENTATION, HEATMAP, FINDINGS or REPORT.
            result: The result that is shown.

        Raises:
            ToNNOUserError: If it cannot be written.
        """
        if self.isBusy and kind in (HEATMAP, REPORT):
            self._session.message = Message(ERROR, _("An export is under way."), _("Wait for its end, or cancel it."))
            return
        if kind in (FINDINGS, REPORT):
            result.listing.checkWhole()
        title, ending, kinds = _DIALOGS[kind]
        path = self._session.ask.saveFile(title, fileName(result) + ending, kinds)
        if path:
            self.write(kind, result, path)

    def write(self, kind: str, result: Result, path: str) -> None:
        """Write without asking.

        Args:
            kind: SEGMENTATION, HEATMAP, FINDINGS or REPORT.
            result: The result that is shown.
            path: The file.

        Raises:
            ToNNOUserError: If it cannot be written.
        """
        if kind == HEATMAP:
            self._begin(path, heatmapSteps(result.heatmapNode, path, self._writer()))
        elif kind == REPORT:
            colors = self._session.parameters.colors.value
            self._begin(path, reportSteps(path, result.heatmapNode, *result.segment, self._writer(), colors))
        else:
            with self._session.ask.waiting():
                if kind == SEGMENTATION:
                    notes = self._session.logic.exportSegmentation(result.segmentationNode, path)
                else:
                    notes = exportFindings(list(result.findings), path, _identityOf(result))
            self._done(path, notes or [])

    def reportText(self, result: Result) -> str:
        """Return the report as plain text.

        Args:
            result: The result that is shown.

        Returns:
            The text.
        """
        result.listing.checkWhole()
        return summary.reportText(_identityOf(result), result.findings, result.record)

    def cancel(self) -> None:
        """End the export that goes on; nothing of it stays."""
        steps, self._steps, self.share = self._steps, None, 0.0
        if steps is not None:
            steps.close()

    def tick(self) -> None:
        """One step; what goes wrong ends the export with words."""
        if self._steps is None:
            return
        session, goesOn = self._session, False
        try:
            with session.reportErrors():
                share = next(self._steps, None)
                goesOn = share is not None
                if goesOn:
                    self.share = share
                else:
                    self._done(self._path, [])
        except Exception as error:
            session.fail(error)
        if not goesOn:
            self.cancel()
        session.render()

    def _writer(self) -> SlowWriter:
        command, changes = self._session.choices.command()
        client = EngineClient([*command, "tonno_core.worker"], changes, _PATIENCE_S, slicer.app.temporaryPath)
        return writer(client)

    def _begin(self, path: str, steps: Iterator[float]) -> None:
        self._path, self._steps, self.share = path, steps, 0.0
        self._session.wake()

    def _done(self, path: str, notes: list[str]) -> None:
        self._session.message = Message(DONE, _("Written: {path}").format(path=path), "\n".join(notes))


_DIALOGS = {
    SEGMENTATION: (
        _("Export the segmentation"),
        ".seg.nrrd",
        _("Segmentation (*.seg.nrrd);;NIfTI (*.nii.gz);;STL (*.stl);;DICOM SEG (*.dcm)"),
    ),
    HEATMAP: (_("Export the heatmap"), ".nrrd", "NRRD (*.nrrd);;NIfTI (*.nii.gz)"),
    FINDINGS: (_("Export the findings"), ".csv", "CSV (*.csv)"),
    REPORT: (_("Export the report"), ".html", "HTML (*.html)"),
}


def writer(client: EngineClient) -> SlowWriter:
    """Make the writer that `logic.reportSteps` and `logic.heatmapSteps` take, out of a worker that is not yet running.

    Args:
        client: The worker's client. It is closed when the files are written or the writing is given up.

    Returns:
        A function of an Export and a folder. It yields the share that is done; closing its iterator ends the worker.

    Raises:
        ToNNOUserError: From that function, if the files cannot be written; OSError, if the worker cannot be started.
    """

    def write(export: Export, folder: Path) -> Iterator[float]:
        try:
            temporary = client.newFolder()
            saving = Background(lambda: export.fields(temporary))
            try:
                while saving.is_alive():
                    yield 0.0
                    saving.join(_YIELD_S)
            finally:
                saving.join()
            if saving.error is not None:
                raise saving.error
            check_name(folder)
            client.submit("export", folder=str(folder), **saving.result)
            yield from _shares(client)
        finally:
            client.close(0.0)

    return write


def _shares(client: EngineClient) -> Iterator[float]:
    """Yield the share that is done until the result is there. Raises ToNNOUserError where none will come."""
    share = 0.0
    while True:
        yield share
        for event in client.poll():
            if event["type"] == "progress" and event["step"] == "writing":
                share = event["done"] / event["total"]
            elif event["type"] == "result":
                return
            elif event["type"] == "error" and event["kind"] in _CAUSES:
                raise ToNNOUserError(*_CAUSES[event["kind"]])
            elif event["type"] == "error" and event["kind"] == "user":
                raise ToNNOUserError(*cannotWrite(event["message"]))
            elif event["type"] in ("error", "exited", "hung", "garbage"):
                raise ToNNOUserError(
                    _("The process that writes the files has failed ({reason}).").format(reason=_reason(event)),
                    _("Packages may be missing: click Apply once, or choose another Python under Advanced."),
                )


def _reason(event) -> str:
    last = event.get("message") or (event.get("log") or [""])[-1]
    if event["type"] == "exited":
        return _("exit code {code}: {last}").format(code=event["code"], last=last)
    return last or event["type"]


def _identityOf(result: Result) -> summary.Identity:
    return summary.identityOf(result.heatmapNode, result.segmentationNode, result.segmentId)


def fileName(result: Result) -> str:
    """Return a file's name that tells the volume, so that no file is taken for another patient's.

    Args:
        result: The result that is shown.

    Returns:
        A name without ending, such as `CT-3-Matched-CAM`.
    """
    volume = result.inputNode.GetName() if result.inputNode is not None else ""
    words = f"{volume} {methodName(result.record['method'])}"
    return re.sub(r"[^\w.]+", "-", words).strip("-.") or Path(SEGMENTATION).name
