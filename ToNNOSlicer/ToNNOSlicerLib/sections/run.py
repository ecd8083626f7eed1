"""The button that starts, and what is said while a run goes on and when something went wrong."""

from __future__ import annotations

from slicer.i18n import tr as _

from ToNNOSlicerLib import run
from ToNNOSlicerLib.sections.look import setKind, setText, withKind
from ToNNOSlicerLib.words import timeText


class RunSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        ui.runButton.connect("clicked(bool)", session.start)
        ui.cancelButton.connect("clicked(bool)", session.cancel)
        ui.stopButton.connect("clicked(bool)", session.stop)

    def render(self) -> None:
        """Show progress and message."""
        ui, session, progress = self._ui, self._session, self._session.running.progress
        isRunning, isInstalling = progress.state != run.IDLE, session.installing.isBusy
        ui.progressBar.visible = ui.cancelButton.visible = isRunning or isInstalling
        ui.stopButton.visible = isRunning and not session.running.isWhole  # half an answer is none
        ui.runButton.enabled = session.isIdle and session.parameters is not None
        ui.runButton.text = _("Apply (go on to the end)") if self._goesOn() else _("Apply")
        ui.stopButton.enabled = progress.state == run.RUNNING
        ui.cancelButton.enabled = (isRunning and progress.state != run.STOPPING) or isInstalling
        if isRunning or isInstalling:
            unknown = progress.percent is None or isInstalling
            ui.progressBar.maximum = 0 if unknown else 1000
            ui.progressBar.value = 0 if unknown else round(10 * progress.percent)
        setText(ui.statusLabel, self._status(progress))
        message = session.message
        if message is not None:
            setKind(ui.messageLabel, message.kind)
        said = "" if message is None else withKind(message.kind, message.text)
        setText(ui.messageLabel, "" if message is None else f"{said}\n{message.nextStep}".strip())

    def _status(self, progress: run.Progress) -> str:
        if progress.state == run.IDLE:
            return self._session.status
        elapsed = timeText(progress.elapsedS)
        text = _("{step}, {elapsed}").format(step=progress.text, elapsed=elapsed)
        if progress.remainingS is not None:
            remaining = timeText(progress.remainingS)
            text = _("{step}, {elapsed}, {remaining} left").format(
                step=progress.text, elapsed=elapsed, remaining=remaining
            )
        elsewhere = self._session.running.elsewhere  # above another patient's result, it must say whose run it is
        if elsewhere:
            return _("{volume}: {progress}").format(volume=elsewhere, progress=text)
        return text if self._session.running.preview is None else _("{progress} (preview)").format(progress=text)

    def _goesOn(self) -> bool:
        """Whether the next run continues the one that was stopped."""
        result = self._session.shownResult
        return self._session.isIdle and result is not None and bool(result.record.get("stopped"))
