"""The panel as a whole: what the buttons start and what is shown while it goes on. Qt only; nodes are the logic's."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib import ask, install, models
from ToNNOSlicerLib.controller import RunController
from ToNNOSlicerLib.engine import EngineClient
from ToNNOSlicerLib.failures import Failure
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.run import IDLE, RUNNING, STOPPING, Outcome, Progress
from ToNNOSlicerLib.timing import RunTimes
from ToNNOSlicerLib.widget_export import ExportSection
from ToNNOSlicerLib.widget_findings import EditorSection, FindingsSection, WhySection
from ToNNOSlicerLib.widget_input import InputSection, dicomModalityOf, timeText
from ToNNOSlicerLib.widget_result import ResultSection

_TICK_MS = 50
_ERROR_STYLE = "QLabel { background: #fdecea; color: #7a1a12; border: 1px solid #e0a29b; padding: 6px; }"
_NOTE_STYLE = "QLabel { background: #fff8e1; color: #5c4a00; border: 1px solid #e3d08f; padding: 6px; }"


class Panel:
    """ui: the widgets by name. logic: a ToNNOLogic. resourcePath: from a resource's name to its path.

    client: makes the engine's client; by default an EngineClient with the chosen Python.
    """

    def __init__(self, ui, logic, resourcePath, client=None) -> None:
        self.ui, self.logic, self.resourcePath = ui, logic, resourcePath
        self._makeClient = client or self._client
        self.parameters = None
        self.userFolder = Path(slicer.app.slicerUserSettingsFilePath).parent / "ToNNO"
        self.times = RunTimes(self.userFolder / "speed.json")
        self._updating = False
        self._askedForDevices = False
        self.input = InputSection(self)
        self.controller = self._newController()
        self.result = ResultSection(self)
        self.findings = FindingsSection(self)
        self.editor = EditorSection(self)
        self.why = WhySection(self)
        self.export = ExportSection(self)
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self._onTick)
        ui.runButton.connect("clicked(bool)", self._onRun)
        ui.cancelButton.connect("clicked(bool)", lambda _on: self.controller.cancel())
        ui.stopButton.connect("clicked(bool)", lambda _on: self.controller.stop())
        ui.copyLogButton.connect("clicked(bool)", self._onCopyLog)
        ui.messageLabel.visible = False
        self._show(Progress())

    # --- life

    def setParameters(self, parameters) -> None:
        """Follow a parameter node, or none."""
        self.parameters = parameters
        if parameters is not None:
            self.input.selectFirstVolume()
            self.input.findModels()
            self.why.findViews()
            self.onParameters()
            self.onSegment()

    def onParameters(self) -> None:
        """Something in the parameter node has changed."""
        if self.parameters is None or self._updating:
            return
        self._updating = True
        try:
            self.input.update()
            self.result.update()
            self.why.update()
            self.export.enable()
            self.ui.runButton.enabled = self.controller.state == IDLE
        finally:
            self._updating = False

    def onSegment(self) -> None:
        """A segment was written, changed or taken back."""
        if self.parameters is not None:
            self.findings.update()
            self.editor.update()
            self.result.enable()
            self.export.enable()

    def onSceneClosing(self) -> None:
        self.controller.forget()
        self.export.cancel()
        self.editor.cleanUp()
        self.result.forget()
        self.showMessage("", "")

    def cleanUp(self) -> None:
        """The module or the application ends: the engine too."""
        self._timer.stop()
        self.export.cancel()
        self.editor.cleanUp()
        self.controller.close()
        self.logic.cleanUp()

    # --- the engine

    def newEngine(self) -> None:
        """End the engine; the next click starts one with the present choice of Python."""
        self.controller.close()
        self.controller = self._newController()
        self._askedForDevices = False

    def describe(self) -> None:
        """Ask the engine for its devices; `showDevices` follows."""
        if self._hasPackages():
            self._askedForDevices = True
            self.controller.describe()
            self._timer.start()

    def _newController(self) -> RunController:
        return RunController(
            self._makeClient(),
            self.logic,
            self._show,
            self._onPreview,
            self._onOutcome,
            self._onFailure,
            self._onDevices,
        )

    def _client(self) -> EngineClient:
        command, changes = self.python()
        return EngineClient([*command, "tonno_core.worker"], changes)

    def python(self) -> tuple:
        """How to run a module with the chosen Python: the command that its name is to follow, and changed variables."""
        chosen = self.input.python
        startup = slicer.util.startupEnvironment() if chosen else None
        return (
            install.moduleCommand(chosen, slicer.app.slicerHome),
            install.engineEnvironment(isOther=chosen is not None, startup=startup),
        )

    def _hasPackages(self) -> bool:
        """Ask once where packages are missing, and do what is answered. An interpreter of one's own is trusted."""
        if self.input.python is not None:
            return True
        requirements = self.resourcePath("requirements.txt")
        found = install.missing(requirements)
        if not found:
            return True
        answer = ask.howToInstall(found.rows())
        if answer == "python":
            return self.input.choosePython()
        wheels = ask.folder(_("Folder of wheel files")) if answer == "wheels" else None
        if answer == ask.CANCEL or wheels == "":
            self.showMessage(_("Nothing was installed."), _("Click Reconstruct when you want to be asked again."))
            return False
        self.status(_("Installing; this takes minutes"))
        slicer.app.processEvents()
        try:
            install.install(found, requirements, wheels)
        except Exception as error:  # pip, the network, the disk: all of it is for the user to see
            self.log(traceback.format_exc())
            self.showMessage(
                _("The packages were not installed ({error}).").format(error=_lastLine(error)),
                _("See the log below; then click Reconstruct to try again, or choose another Python under Advanced."),
            )
            return False
        finally:
            self.status("")
        return True

    # --- the run

    def _onRun(self, _on) -> None:
        self.showMessage("", "")
        with self.telling():
            request = self.input.request()
            model = self.input.model
            found = dicomModalityOf(request.volumeNode)
            expected = models.otherModality(model, found)
            if expected and not ask.otherModality(expected, found):
                return
            problem = self.input.problemOf(request.device)
            if problem:
                raise ToNNOUserError(problem, _("Choose another device under Advanced."))
            if not self._hasPackages():
                return
            self.controller.start(request)
            if not self._askedForDevices:
                self._askedForDevices = True
                self.controller.describe()
            self._timer.start()
            self.ui.runButton.enabled = False
            self.result.enable()

    def _onTick(self) -> None:
        try:
            self.controller.tick()
        except Exception as error:  # the run ends with words instead of a timer that throws for ever
            self.log(traceback.format_exc())
            self.controller.close()
            self._show(Progress())
            self._onFailure(Failure(f"{type(error).__name__}: {error}", _("Send the log below."), "internal"))
        if not self.controller.isBusy:
            self._timer.stop()

    def _show(self, progress: Progress) -> None:
        ui, busy = self.ui, progress.state != IDLE
        for widget in (ui.progressBar, ui.stopButton, ui.cancelButton):
            widget.visible = busy
        ui.runButton.enabled = not busy
        ui.stopButton.enabled = progress.state == RUNNING
        ui.cancelButton.enabled = busy and progress.state != STOPPING
        if not busy:
            ui.statusLabel.text = ""
            if self.parameters is not None:
                self.result.enable()
            return
        unknown = progress.percent is None
        ui.progressBar.maximum = 0 if unknown else 1000
        ui.progressBar.value = 0 if unknown else round(10 * progress.percent)
        text = _("{step}, {elapsed}").format(step=progress.text, elapsed=timeText(progress.elapsedS))
        if progress.remainingS is not None:
            text += _(", {remaining} left").format(remaining=timeText(progress.remainingS))
        ui.statusLabel.text = text

    def _onPreview(self, _heatmapNode) -> None:
        self.status(self.ui.statusLabel.text + _(" (preview)"))

    def _onOutcome(self, outcome: Outcome) -> None:
        parameters = self.parameters
        if parameters is None:
            return
        self._remember(outcome)
        self._updating = True  # three changes, one update
        parameters.heatmap = outcome.heatmapNode
        parameters.segmentation, parameters.segmentId = outcome.segmentationNode, outcome.segmentId
        self._updating = False
        self.onParameters()
        self.onSegment()
        self.log(_("Done: {slices} planes on {device}.").format(**_facts(outcome.record)))
        if outcome.warnings:
            self._note("\n".join(outcome.warnings))

    def _onFailure(self, failure: Failure) -> None:
        self.showMessage(failure.message, failure.nextStep)
        self.log("\n".join((failure.message, *failure.log)))
        self.onParameters()

    def _onDevices(self, description) -> None:
        self.input.showDevices(description)
        versions = [f"{name} {description[name]}" for name in ("python", "torch", "timm") if name in description]
        self.log(", ".join(versions))
        if self.input.hasNoGPU and self.parameters is not None and self.parameters.quality.value != "fast":
            seconds = self.input.expectedSeconds("fast")
            expected = "" if seconds is None else _(" (about {time})").format(time=timeText(seconds))
            self._note(
                _("No graphics card that PyTorch can use was found. Quality Fast is made for this{expected}.").format(
                    expected=expected
                )
            )

    def _remember(self, outcome: Outcome) -> None:
        """How fast it was, for the next estimate. A run from kept projections tells nothing."""
        from tonno_core.settings import PRESETS

        model, record = self.input.model, outcome.record
        seconds = (record.get("seconds") or {}).get("total")
        other = model is None or outcome.request.model != str(model.folder)
        if other or not seconds or outcome.isRefinement or record.get("stopped"):
            return
        size = PRESETS[outcome.request.preset].get("slice_size") or model.sliceSize
        self.times.record(model.encoder, record.get("device") or "cpu", size, record.get("slices") or 0, seconds)

    # --- words

    @contextmanager
    def telling(self):
        """What goes wrong inside is shown in the panel, with the next click."""
        try:
            yield
        except ToNNOUserError as error:
            self.showMessage(error.message, error.nextStep)
        except OSError as error:
            self.showMessage(
                _("A file could not be written ({error}).").format(error=error.strerror or error),
                _("Choose another place, or free space."),
            )

    def showMessage(self, message, nextStep) -> None:
        """The cause and the next click; both empty takes it away."""
        label = self.ui.messageLabel
        label.styleSheet = _ERROR_STYLE
        label.text = f"{message}\n{nextStep}".strip()
        label.visible = bool(label.text)

    def _note(self, text) -> None:
        label = self.ui.messageLabel
        label.styleSheet = _NOTE_STYLE
        label.text = text
        label.visible = True

    def status(self, text) -> None:
        self.ui.statusLabel.text = text

    def log(self, text) -> None:
        if text:
            self.ui.logText.appendPlainText(text)

    def _onCopyLog(self, _on) -> None:
        lines = [self.ui.logText.plainText, *self.controller.client.logLines]
        qt.QApplication.clipboard().setText("\n".join(lines))


def _lastLine(error) -> str:
    """What pip says at its end is the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _facts(record) -> dict:
    return {"slices": record.get("slices", "?"), "device": record.get("device", "?")}
