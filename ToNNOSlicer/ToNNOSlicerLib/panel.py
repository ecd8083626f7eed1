"""The panel: makes the session and the sections, renders these when the session has changed, and runs the timer."""

from __future__ import annotations

import qt
import slicer

from ToNNOSlicerLib import ask
from ToNNOSlicerLib.choices import Choices
from ToNNOSlicerLib.engine import EngineClient
from ToNNOSlicerLib.sections.compare import CompareSection
from ToNNOSlicerLib.sections.editor import EditorSection
from ToNNOSlicerLib.sections.export import ExportSection
from ToNNOSlicerLib.sections.findings import FindingsSection
from ToNNOSlicerLib.sections.input import InputSection
from ToNNOSlicerLib.sections.log import LogSection
from ToNNOSlicerLib.sections.look import fitButtons, nameParts
from ToNNOSlicerLib.sections.method import MethodSection
from ToNNOSlicerLib.sections.result import ResultSection
from ToNNOSlicerLib.sections.run import RunSection
from ToNNOSlicerLib.sections.why import WhySection
from ToNNOSlicerLib.sections.worklist import WorklistSection
from ToNNOSlicerLib.session import Session
from ToNNOSlicerLib.shortcuts import Shortcuts

_TICK_MS = 50
_SECTIONS = (
    InputSection,
    MethodSection,
    RunSection,
    ResultSection,
    FindingsSection,
    EditorSection,
    CompareSection,
    WorklistSection,
    WhySection,
    ExportSection,
    LogSection,
)


class Panel:
    """Connects the widgets with the session.

    Args:
        ui: The widgets as attributes.
        logic: The ToNNOLogic.
        resourcePath: Returns the path of a resource, given its name.
    """

    def __init__(self, ui, logic, resourcePath) -> None:
        self.ui, self.logic = ui, logic
        choices = Choices(qt.QSettings(), resourcePath(""))
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self._onTick)
        self._sections = ()
        self.session = Session(logic, ask, choices, self._client, self._show, self._timer.start)
        nameParts(ui)
        fitButtons(ui)
        self._sections = tuple(section(ui, self.session) for section in _SECTIONS)
        self.shortcuts = Shortcuts(self.session)
        self._show()

    def enter(self) -> None:
        """Enable the keyboard shortcuts when the module is shown."""
        self.shortcuts.enable(True)

    def exit(self) -> None:
        """Release the keyboard and the editor when another module is shown; a run continues."""
        self.shortcuts.enable(False)
        self.section(EditorSection).rest()

    def onSceneClosing(self) -> None:
        """End what depends on the scene."""
        self.section(EditorSection).release()
        self.session.onSceneClosing()

    def onViewMoved(self, sliceNode) -> None:
        """Follow a slice view that shows another plane.

        Args:
            sliceNode: The view's slice node.
        """
        self.section(WhySection).onViewMoved(sliceNode)

    def cleanUp(self) -> None:
        """End the engine and everything else when the module or the application ends."""
        self._timer.stop()
        self.shortcuts.enable(False)
        self.section(EditorSection).release()
        self.session.close()

    def section(self, kind: type):
        """Return a section.

        Args:
            kind: The section's class.

        Returns:
            The section.
        """
        return next(section for section in self._sections if type(section) is kind)

    def _show(self) -> None:
        for section in self._sections:
            section.render()

    def _onTick(self) -> None:
        self.session.tick()
        if not self.session.isAwake:
            self._timer.stop()

    @staticmethod
    def _client(choices: Choices) -> EngineClient:
        command, changes = choices.command()
        return EngineClient([*command, "tonno_core.worker"], changes, temporaryPath=slicer.app.temporaryPath)
