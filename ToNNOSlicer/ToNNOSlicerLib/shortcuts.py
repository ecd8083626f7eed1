"""Keyboard shortcuts for reading findings while the module is shown."""

from __future__ import annotations

import qt
import slicer

from ToNNOSlicerLib.logic.verdicts import ACCEPT, REJECT, UNSURE

# Key, and what it does; the tooltips of the buttons name them.
KEYS = {
    "Shift+N": lambda session: session.step(1),
    "Shift+P": lambda session: session.step(-1),
    "Shift+A": lambda session: session.judge(ACCEPT),
    "Shift+R": lambda session: session.judge(REJECT),
    "Shift+U": lambda session: session.judge(UNSURE),
    "Shift+Space": lambda session: session.saveAndNext(),
    "Shift+Z": lambda session: session.undo(),
    "Shift+Y": lambda session: session.redo(),
}


class Shortcuts:
    """Keyboard shortcuts that act on the session.

    Args:
        session: The Session.
    """

    def __init__(self, session) -> None:
        self._session = session
        self._made: list = []

    def enable(self, on: bool) -> None:
        """Install the shortcuts, or remove them.

        Args:
            on: Whether the module is shown.
        """
        if on and not self._made:
            window = slicer.util.mainWindow()
            if window is None:  # no window to press keys in
                return
            for key, action in KEYS.items():
                shortcut = qt.QShortcut(qt.QKeySequence(key), window)
                shortcut.connect("activated()", lambda action=action: action(self._session))
                self._made.append(shortcut)
        elif not on:
            for shortcut in self._made:
                shortcut.enabled = False
                shortcut.deleteLater()
            self._made = []
