"""What can be chosen: models, devices, which Python computes; and the run that the choices ask for. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ToNNOSlicerLib import install, models
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.parameter_node import optionsOf
from ToNNOSlicerLib.run import RunRequest
from ToNNOSlicerLib.timing import RunTimes, slicesOf

ALL_CLASSES = "*"  # of the parameter className: a result for each class
_REMEMBERED = 20


@dataclass(frozen=True)
class Preferences:
    """The user's own settings, which outlive the scene: a read and a write by key (texts)."""

    read: Callable[[str], str]
    write: Callable[[str, str], None]


class Choices:
    """preferences: see above. resources, userFolder: where models ship, and where the user's lie.

    slicerHome, temporaryPath: of the application. startupEnvironment: the variables before it changed them.
    """

    FOLDERS, PYTHON = "ToNNO/ModelFolders", "ToNNO/Python"

    def __init__(
        self, preferences: Preferences, resources, userFolder, slicerHome, temporaryPath, startupEnvironment
    ) -> None:
        self._preferences = preferences
        self._resources, self._userFolder = Path(resources), Path(userFolder)
        self._slicerHome, self._startupEnvironment = slicerHome, startupEnvironment
        self.temporaryPath = temporaryPath
        self.requirements = str(self._resources / "requirements.txt")
        self.times = RunTimes(self._userFolder / "speed.json")
        self.models: list[models.Model] = []
        self.devices: list[dict[str, Any]] = []

    # --- models

    def findModels(self, parameters) -> None:
        """Read the list again: what ships, the user's folder, and folders that were opened before."""
        listed = models.findModels(self._resources / "Models", self._userFolder / "Models")
        for folder in self._rememberedFolders():
            try:
                listed.append(models.readModel(folder))
            except models.ModelError:
                continue
        self.models = list({model.folder.resolve(): model for model in listed}.values())
        if self.modelOf(parameters) is None and self.models:
            parameters.modelFolder = str(self.models[0].folder)
        self.checkClass(parameters)

    def open(self, folder: str) -> models.Model:
        """Add a model's folder to the list, for good. Raises ModelError."""
        model = models.readModel(folder)
        kept = [known for known in self._rememberedFolders() if known != folder]
        self._preferences.write(self.FOLDERS, "\n".join([*kept, folder][-_REMEMBERED:]))
        if all(known.folder.resolve() != model.folder.resolve() for known in self.models):
            self.models.append(model)
        return model

    def modelOf(self, parameters) -> models.Model | None:
        """The chosen model, if it is in the list."""
        return next((model for model in self.models if str(model.folder) == parameters.modelFolder), None)

    def _present(self, model: models.Model | None) -> models.Model | None:
        """The model as its folder has it now, trained again perhaps. Raises ToNNOUserError where it is gone."""
        if model is None:
            return None
        try:
            now = models.readModel(model.folder)
        except models.ModelError as error:
            raise ToNNOUserError(str(error), _("Choose another model.")) from None
        self.models = [now if known is model else known for known in self.models]
        return now

    def checkClass(self, parameters) -> None:
        """A class that the chosen model does not have gives way to its first."""
        model = self.modelOf(parameters)
        known = () if model is None else (*model.classes, *([ALL_CLASSES] if len(model.classes) > 1 else []))
        if model is not None and parameters.className not in known:
            parameters.className = model.classes[0]

    def _rememberedFolders(self) -> list[str]:
        return [folder for folder in self._preferences.read(self.FOLDERS).split("\n") if folder]

    # --- Python and devices

    @property
    def python(self) -> str | None:
        """The interpreter that was chosen, None for Slicer's own."""
        chosen = self._preferences.read(self.PYTHON)
        return chosen if chosen and Path(chosen).is_file() else None

    @python.setter
    def python(self, path: str) -> None:
        isSlicers = Path(path).name.startswith("PythonSlicer")
        self._preferences.write(self.PYTHON, "" if isSlicers else path)

    def command(self) -> tuple[list[str], dict[str, str | None]]:
        """How to run a module with the chosen Python: the command before its name, and changed variables."""
        chosen = self.python
        startup = self._startupEnvironment() if chosen else None
        return (
            install.moduleCommand(chosen, self._slicerHome),
            install.engineEnvironment(isOther=chosen is not None, startup=startup),
        )

    def setDevices(self, description: dict[str, Any]) -> None:
        """Take the list from the engine's event."""
        self.devices = list(description.get("devices") or ())

    @property
    def hasNoGPU(self) -> bool:
        """Whether the engine said that there is nothing but the CPU."""
        usable = [device for device in self.devices if device.get("usable")]
        return bool(self.devices) and all(device["name"] == "cpu" for device in usable)

    def problemOf(self, name: str) -> str | None:
        """Why a device cannot be used."""
        return next((d.get("problem") for d in self.devices if d["name"] == name and not d.get("usable")), None)

    def _deviceKind(self, parameters) -> str:
        if parameters.device not in ("", "auto"):
            return parameters.device.split(":")[0]
        usable = [device for device in self.devices if device.get("usable")]
        return usable[0]["kind"] if usable else "cpu"

    # --- the whole

    def settingsOf(self, parameters, preset: str | None = None):
        """The engine's settings as they would be; None where it will refuse them with its own words."""
        from tonno_core.settings import combine

        model = self.modelOf(parameters)
        explicit = {**optionsOf(parameters), "methods": (parameters.method.value,)}
        try:
            quality = preset or parameters.quality.value
            return None if model is None else combine(defaults=model.defaults, preset=quality, explicit=explicit)
        except Exception:  # a model or a number that is not understood here
            return None

    @staticmethod
    def options(parameters) -> dict[str, Any]:
        """The advanced choices by tonno_core's names; those that the model decides are left out."""
        return {name: value for name, value in optionsOf(parameters).items() if value is not None}

    def expectedSeconds(self, parameters, preset: str | None = None) -> float | None:
        """Of a run as it is chosen (or with another preset), from the runs before."""
        model, settings = self.modelOf(parameters), self.settingsOf(parameters, preset)
        if model is None or settings is None:
            return None
        size = settings.slice_size or model.sliceSize
        return self.times.expected(model.encoder, self._deviceKind(parameters), size, slicesOf(settings))

    def remember(self, request: RunRequest, record: dict[str, Any]) -> None:
        """How fast a whole run was, for the next estimate."""
        from tonno_core.settings import PRESETS

        model = next((model for model in self.models if str(model.folder) == request.model), None)
        seconds = (record.get("seconds") or {}).get("total")
        if model is None or not seconds or record.get("stopped"):
            return
        size = PRESETS.get(request.preset or "", {}).get("slice_size") or model.sliceSize
        self.times.record(model.encoder, record.get("device") or "cpu", size, record.get("slices") or 0, seconds)

    def request(self, parameters) -> RunRequest:
        """The run that is asked for. Raises ToNNOUserError where something is not chosen."""
        model = self._present(self.modelOf(parameters))
        if parameters.inputVolume is None:
            raise ToNNOUserError(_("No volume is selected."), _("Select one, or click Load sample."))
        if model is None:
            raise ToNNOUserError(_("No model is selected."), _("Select one, or click Open folder..."))
        everything = parameters.className == ALL_CLASSES
        className = "" if everything else parameters.className or model.classes[0]
        return RunRequest(
            volumeNode=parameters.inputVolume,
            model=str(model.folder),
            method=parameters.method.value,
            className=className,
            options=optionsOf(parameters),
            preset=parameters.quality.value,
            roiNode=parameters.roi,
            zoom=parameters.zoom and parameters.roi is not None,
            device=parameters.device or "auto",
            threshold=model.threshold(parameters.method.value, className or model.classes[0]),
            minMm3=parameters.minMm3,
        )
