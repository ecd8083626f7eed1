"""What the engine and the installation said."""

from __future__ import annotations

from ToNNOSlicerLib import ask


class LogSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._shown = 0
        ui.copyLogButton.connect("clicked(bool)", self._onCopy)

    def render(self) -> None:
        """Append the lines that are new."""
        new = self._session.loggedCount - self._shown
        if new > 0:
            self._ui.logText.appendPlainText("\n".join(list(self._session.logLines)[-new:]))
            self._shown += new

    def _onCopy(self, _on) -> None:
        ask.toClipboard("\n".join([*self._session.logLines, *self._session.running.controller.client.logLines]))
