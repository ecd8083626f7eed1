"""The installation as the session sees it: a question about missing packages, progress and outcome. No Qt."""

from __future__ import annotations

from slicer.i18n import tr as _

from ToNNOSlicerLib import install
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.state import DONE, ERROR, Message


class Installing:
    """Starts, follows and ends the installation of packages.

    Args:
        session: The Session.
    """

    def __init__(self, session) -> None:
        self._session = session
        self._installation: install.Installation | None = None

    @property
    def isBusy(self) -> bool:
        """Whether an installation is under way."""
        return self._installation is not None

    @property
    def isComplete(self) -> bool:
        """Whether the engine can start as things are."""
        choices = self._session.choices
        return not self.isBusy and (choices.python is not None or not install.missing(self._requirements))

    @property
    def _requirements(self) -> str:
        return self._session.choices.requirementsOf(self._session.parameters)

    def hasPackages(self) -> bool:
        """Check whether the engine can start; if packages are missing, ask what to do and begin it.

        An interpreter that the user chose is trusted.

        Returns:
            False while packages are missing.

        Raises:
            ToNNOUserError: If the user wants nothing installed, or an installation is under way.
        """
        choices, ask = self._session.choices, self._session.ask
        if choices.python is not None:
            return True
        if self.isBusy:
            raise ToNNOUserError(_("An installation is under way."), _("Wait until it has ended, or cancel it."))
        missing = install.missing(self._requirements)
        if not missing:
            return True
        answer = ask.howToInstall(missing.rows())
        if answer == "python":
            return self.askForPython()
        wheels = ask.folder(_("Folder of wheel files")) if answer == "wheels" else None
        if answer == ask.CANCEL or wheels == "":
            raise ToNNOUserError(_("Nothing was installed."), _("Click Apply when you want to be asked again."))
        self._start(missing, wheels)
        return False

    def askForPython(self) -> bool:
        """Ask for another Python interpreter, and restart the engine with it.

        Returns:
            False if the user cancels.
        """
        chosen = self._session.ask.openFile(_("A Python interpreter with PyTorch and timm"))
        if not chosen:
            return False
        self._session.choices.python = chosen
        self._session.running.newEngine()
        return True

    def _start(self, missing, wheels: str | None) -> None:
        """Begin an installation, which `tick` follows."""
        session = self._session
        installation = install.Installation(missing, self._requirements, wheels, session.log)
        installation.start()
        self._installation = installation
        session.status = _("Installing packages; this takes minutes. The log shows what happens")
        session.wake()

    def cancel(self) -> None:
        """Cancel the installation."""
        if self._installation is not None:
            self._installation.cancel()

    def close(self) -> None:
        """End the installation when the module or the application ends."""
        if self._installation is not None:
            self._installation.close()

    def tick(self) -> None:
        """Follow the installation, and restart the engine when it has ended."""
        session, installation = self._session, self._installation
        if installation is None:
            return
        try:
            if installation.poll():
                return
            session.message = Message(DONE, _("The packages are installed."), _nextStep(installation.restartFor))
        except install.InstallError as error:
            session.message = Message(ERROR, error.message, error.nextStep)
        self._installation, session.status = None, ""
        session.running.newEngine()
        session.refresh()


def _nextStep(replaced: tuple[str, ...]) -> str:
    """Return what to click, given the names of the packages that were replaced while in use."""
    if replaced:
        text = _("Restart the application first: it still uses the old {names}.")
        return text.format(names=", ".join(replaced))
    return _("Click Apply.")
