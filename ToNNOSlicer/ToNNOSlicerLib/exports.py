"""The shown result as files. One export at a time; what takes long goes on in another process. No Qt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from slicer.i18n import tr as _

from ToNNOSlicerLib import elsewhere
from ToNNOSlicerLib.logic import summary
from ToNNOSlicerLib.logic.export import exportFindings, heatmapSteps
from ToNNOSlicerLib.logic.heatmap import methodName
from ToNNOSlicerLib.logic.report import reportSteps
from ToNNOSlicerLib.logic.results import Result
from ToNNOSlicerLib.state import DONE, ERROR, Message

SEGMENTATION, HEATMAP, FINDINGS, REPORT = "segmentation", "heatmap", "findings", "report"


class Exports:
    """session: the Session."""

    def __init__(self, session) -> None:
        self._session = session
        self._steps: Iterator[float] | None = None
        self._path = ""
        self.share = 0.0

    @property
    def isBusy(self) -> bool:
        return self._steps is not None

    def start(self, kind: str, result: Result) -> None:
        """Ask for a file, and write: at once what is quick, from `tick` what is not. Raises ToNNOUserError."""
        if self.isBusy and kind in (HEATMAP, REPORT):
            self._session.message = Message(ERROR, _("An export is under way."), _("Wait for its end, or cancel it."))
            return
        if kind in (FINDINGS, REPORT):
            result.listing.checkWhole()
        title, ending, kinds = _DIALOGS[kind]
        path = self._session.ask.saveFile(_(title), fileName(result) + ending, kinds)
        if path:
            self.write(kind, result, path)

    def write(self, kind: str, result: Result, path: str) -> None:
        """Write without asking. Raises ToNNOUserError."""
        if kind == HEATMAP:
            self._begin(path, heatmapSteps(result.heatmapNode, path, self._writer()))
        elif kind == REPORT:
            self._begin(path, reportSteps(path, result.heatmapNode, *result.segment, self._writer()))
        else:
            with self._session.ask.waiting():
                notes = self._writeNow(kind, result, path)
            self._done(path, notes)

    def reportText(self, result: Result) -> str:
        """The report as plain text."""
        result.listing.checkWhole()
        identity = self._identity(result)
        return summary.reportText(identity, result.findings, result.record)

    def cancel(self) -> None:
        """End the export that goes on; nothing of it stays."""
        steps, self._steps, self.share = self._steps, None, 0.0
        if steps is not None:
            steps.close()

    def tick(self) -> None:
        """One step; what goes wrong ends the export with words."""
        if self._steps is None:
            return
        session, share, failed = self._session, None, True
        try:
            with session.telling():
                share = next(self._steps, None)
                failed = False
        except Exception as error:
            session.fail(error)
        if share is not None:
            self.share = share
            session.renderOnly()
            return
        path = self._path
        self.cancel()
        if not failed:
            self._done(path, [])
        session.renderOnly()

    def _writeNow(self, kind: str, result: Result, path: str) -> list[str]:
        logic = self._session.logic
        if kind == SEGMENTATION:
            return list(logic.exportSegmentation(result.segmentationNode, path) or ())
        exportFindings(list(result.findings), path, self._identity(result))
        return []

    def _identity(self, result: Result) -> summary.Identity:
        return summary.identityOf(result.heatmapNode, result.segmentationNode, result.segmentId)

    def _writer(self):
        choices = self._session.choices
        return elsewhere.writer(*choices.command(), temporaryPath=choices.temporaryPath)

    def _begin(self, path: str, steps: Iterator[float]) -> None:
        self._path, self._steps, self.share = path, steps, 0.0
        self._session.wake()

    def _done(self, path: str, notes: list[str]) -> None:
        self._session.message = Message(DONE, _("Written: {path}").format(path=path), "\n".join(notes))


_DIALOGS = {
    SEGMENTATION: (
        "Export the segmentation",
        ".seg.nrrd",
        "Segmentation (*.seg.nrrd);;NIfTI (*.nii.gz);;STL (*.stl);;DICOM SEG (*.dcm)",
    ),
    HEATMAP: ("Export the heatmap", ".nrrd", "NRRD (*.nrrd);;NIfTI (*.nii.gz)"),
    FINDINGS: ("Export the findings", ".csv", "CSV (*.csv)"),
    REPORT: ("Export the report", ".html", "HTML (*.html)"),
}


def fileName(result: Result) -> str:
    """Such as `CT-3-Matched-CAM`: it names the volume, so that no file is taken for another patient's."""
    volume = result.inputNode.GetName() if result.inputNode is not None else ""
    words = f"{volume} {methodName(result.record['method'])}"
    return re.sub(r"[^\w.]+", "-", words).strip("-.") or Path(SEGMENTATION).name
