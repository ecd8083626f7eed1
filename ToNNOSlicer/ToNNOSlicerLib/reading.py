"""Reading one patient after the other: a worklist that runs in the background, and the case that is open. No Qt."""

from __future__ import annotations

import time
from typing import Any

from slicer.i18n import tr as _

from tonno_core.bundle.classes import first_choice
from tonno_core.settings import SEGMENTER
from ToNNOSlicerLib import worklist
from ToNNOSlicerLib.choices import smallestOf
from ToNNOSlicerLib.logic import cases
from ToNNOSlicerLib.logic.errors import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.results import resultOf
from ToNNOSlicerLib.parameter_node import optionsOf

_POLL_S = 1.0


class Reading:
    """Opens the cases of a worklist one after the other.

    Args:
        session: The Session.
    """

    def __init__(self, session) -> None:
        self._session = session
        self._worklist: worklist.Worklist | None = None
        self.state = worklist.State()
        self.case: worklist.Case | None = None
        self._polledAt = 0.0

    @property
    def isBusy(self) -> bool:
        """Whether studies are looked for, or run."""
        return self.state.step in (worklist.FINDING, worklist.WORKING)

    def open(self, source: str, output: str) -> None:
        """Run the studies of a folder or a list with what is chosen.

        Args:
            source: The folder, or a CSV file.
            output: The folder of the results.

        Raises:
            ToNNOUserError: If no model is selected.
        """
        session = self._session
        if not session.installing.hasPackages():
            return
        parameters, choices = session.parameters, session.choices
        model = choices.modelOf(parameters)
        if model is None:
            raise ToNNOUserError(_("No model is selected."), _("Select one, or click Open folder..."))
        className = parameters.className if parameters.className in model.classes else first_choice(model.classes)
        device = parameters.device or "auto"
        if model.isSegmenter:
            smallest = smallestOf(parameters, model.threshold(SEGMENTER, className))
            arguments = worklist.arguments(SEGMENTER, className, None, device, smallest, dropWeak=parameters.dropWeak)
        else:
            arguments = worklist.arguments(
                parameters.method.value,
                className,
                parameters.quality.value,
                device,
                parameters.minMm3,
                optionsOf(parameters),
            )
        self.close()
        self._worklist = worklist.Worklist(source, output, *choices.command(), str(model.folder), arguments)
        self._worklist.start()
        self.state = self._worklist.poll()
        session.wake()

    def cancel(self) -> None:
        """End the run; what is finished stays."""
        if self._worklist is not None:
            self._worklist.cancel()
            self.state = self._worklist.poll()

    def close(self) -> None:
        """End the list and its process; the case stays in the scene."""
        if self._worklist is not None:
            self._worklist.cancel()
        self._worklist, self.state, self.case = None, worklist.State(), None

    def tick(self) -> None:
        """Look at the worklist, once a second."""
        now = time.monotonic()
        if self._worklist is None or not self.isBusy or now - self._polledAt < _POLL_S:
            return
        self._polledAt = now
        before, self.state = self.state, self._worklist.poll()
        if self.state != before:
            self._session.render()

    def openCase(self, case: worklist.Case) -> Any:
        """Close the case that is open, and put another into the scene.

        Args:
            case: The other case.

        Returns:
            Its heatmap node; None where the user would rather stay.

        Raises:
            ToNNOUserError: If the case has no result, or cannot be opened.
        """
        if case.state not in (worklist.DONE, worklist.READ):
            raise ToNNOUserError(
                _("{name} has no result: {why}.").format(name=case.name, why=case.error or _("it waits")),
                _("Choose a case that is done."),
            )
        if not self._closeCase(case):
            return None
        heatmapNode = cases.openCase(self._session.logic, case)
        self.case = case
        return heatmapNode

    def nextCase(self) -> worklist.Case:
        """Find the next case that nobody has read.

        Returns:
            The case.

        Raises:
            ToNNOUserError: If there is none.
        """
        case = None if self._worklist is None else self._worklist.nextUnread(self.case)
        if case is None or (self.case is not None and case.volume == self.case.volume):
            more = _("Wait until the next one is done.") if self.isBusy else _("The list has been read.")
            raise ToNNOUserError(_("There is no further case to read."), more)
        return case

    def save(self, heatmapNode, findings: tuple[Finding, ...]) -> None:
        """Keep the reader's segment and verdicts in the case's folder.

        Args:
            heatmapNode: The case's heatmap.
            findings: Its findings.

        Raises:
            ToNNOUserError: If no case is open, or it cannot be written.
        """
        if self.case is None or self._worklist is None or cases.heatmapOf(self._session.logic, self.case) is None:
            raise ToNNOUserError(_("No case of the worklist is open."), _("Double-click one in the list."))
        verdicts = [{"label": finding.label, "verdict": finding.verdict} for finding in findings]
        cases.save(self._session.logic, self.case, heatmapNode, verdicts, findings)
        self.case = self._worklist.refresh(self.case)
        self.state = self._worklist.poll()

    def _closeCase(self, other: worklist.Case) -> bool:
        """Take the open case out of the scene, unless it is the other itself; asks where work would be lost."""
        if self.case is None or self.case.volume == other.volume:
            return True
        logic = self._session.logic
        try:
            cases.closeCase(logic, self.case)
        except EditedByHandError as error:
            answer = self._session.ask.aboutUnsavedCase(error)
            if answer == self._session.ask.CANCEL:
                return False
            if answer == "save":
                result = self._session.result
                heatmapNode = cases.heatmapOf(logic, self.case)
                listed = resultOf(heatmapNode).findings if result is None else result.findings
                self.save(heatmapNode, listed)
            cases.closeCase(logic, self.case, discard=True)
        self.case = None
        return True
