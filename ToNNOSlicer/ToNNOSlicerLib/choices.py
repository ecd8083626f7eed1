"""The models, devices and Python interpreters to choose from, and the run that the choices ask for. No Qt."""

from __future__ import annotations

import math
from pathlib import Path

import slicer
import slicer.util
from slicer.i18n import tr as _

from tonno_core.bundle.classes import first_choice
from tonno_core.output import Json
from tonno_core.settings import SEGMENTER
from ToNNOSlicerLib import install, models
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.parameter_node import SMALLEST_MM3, optionsOf
from ToNNOSlicerLib.run import RunRequest
from ToNNOSlicerLib.timing import RunTimes, slicesOf

# The value of className that asks for a result of each class.
ALL_CLASSES = "*"
# Model folders that are remembered at most.
_REMEMBERED = 20
# What stands for the pixels of a slice where a segmenter's speed is kept, in voxels.
_VOXEL = 1
# Where a model's record keeps the smallest part that is no noise.
MIN_VOLUME = "min_volume_mm3"


class Choices:
    """Keeps the lists of what can be chosen, and turns choices into a run.

    Args:
        preferences: The user's settings, which outlive the scene: a QSettings.
        resources: Folder of the module's resources, with the shipped models.
    """

    FOLDERS, PYTHON = "ToNNO/ModelFolders", "ToNNO/Python"

    def __init__(self, preferences, resources) -> None:
        self._preferences, self._resources = preferences, Path(resources)
        self._userFolder = Path(slicer.app.slicerUserSettingsFilePath).parent / "ToNNO"
        self.times = RunTimes(self._userFolder / "speed.json")
        self.models: list[models.Model] = []
        self.devices: list[Json] = []

    # --- models

    def findModels(self, parameters) -> None:
        """Read the list of models again: shipped models, the user's folder, and folders opened before.

        Args:
            parameters: The parameter node. A model or class that is gone is replaced by the first in the list.
        """
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
        """Add a model's folder to the list and remember it.

        Args:
            folder: The model's folder.

        Returns:
            The model.

        Raises:
            ToNNOUserError: If the folder holds no model that can be read.
        """
        model = _modelIn(folder, _("Choose the folder that holds model.json and model.safetensors."))
        kept = [known for known in self._rememberedFolders() if known != folder]
        self._preferences.setValue(self.FOLDERS, "\n".join([*kept, folder][-_REMEMBERED:]))
        if all(known.folder.resolve() != model.folder.resolve() for known in self.models):
            self.models.append(model)
        return model

    def modelOf(self, parameters) -> models.Model | None:
        """Return the chosen model.

        Args:
            parameters: The parameter node.

        Returns:
            The model, or None if it is not in the list.
        """
        return next((model for model in self.models if str(model.folder) == parameters.modelFolder), None)

    def _reread(self, model: models.Model) -> models.Model:
        """Read a model's folder again: it may have been trained again since. Raises ToNNOUserError where it is gone."""
        present = _modelIn(model.folder, _("Choose another model."))
        self.models = [present if known is model else known for known in self.models]
        return present

    def checkClass(self, parameters) -> None:
        """Choose the model's first class of a finding if it does not have the chosen class.

        Args:
            parameters: The parameter node.
        """
        model = self.modelOf(parameters)
        if model is None or parameters.className in model.classes:
            return
        if parameters.className != ALL_CLASSES or len(model.classes) == 1:
            parameters.className = first_choice(model.classes)

    def _rememberedFolders(self) -> list[str]:
        return [folder for folder in self._read(self.FOLDERS).split("\n") if folder]

    def _read(self, key: str) -> str:
        return str(self._preferences.value(key, "") or "")

    # --- Python and devices

    @property
    def python(self) -> str | None:
        """Path of the chosen interpreter; None for Slicer's. Setting it stores the choice."""
        chosen = self._read(self.PYTHON)
        return chosen if chosen and Path(chosen).is_file() else None

    @python.setter
    def python(self, path: str) -> None:
        isSlicers = Path(path).name.startswith("PythonSlicer")
        self._preferences.setValue(self.PYTHON, "" if isSlicers else path)

    def command(self) -> tuple[list[str], dict[str, str | None]]:
        """Return how to run a Python module with the chosen interpreter.

        Returns:
            The command that the module's name is appended to, and the environment variables to change (None: unset).
        """
        chosen = self.python
        startup = slicer.util.startupEnvironment() if chosen else None
        return (
            install.moduleCommand(chosen, slicer.app.slicerHome),
            install.engineEnvironment(isOther=chosen is not None, startup=startup),
        )

    @property
    def _usableDevices(self) -> list[Json]:
        return [device for device in self.devices if device.get("usable")]

    @property
    def hasNoGPU(self) -> bool:
        """Whether the engine said that it can use nothing but the CPU."""
        return bool(self.devices) and all(device["name"] == "cpu" for device in self._usableDevices)

    def problemOf(self, name: str) -> str | None:
        """Return why a device cannot be used.

        Args:
            name: The device's name.

        Returns:
            The engine's sentence, or None if the device can be used or is not known.
        """
        return next((d.get("problem") for d in self.devices if d["name"] == name and not d.get("usable")), None)

    def _deviceKind(self, parameters) -> str:
        if parameters.device not in ("", "auto"):
            return parameters.device.split(":")[0]
        usable = self._usableDevices
        return usable[0]["kind"] if usable else "cpu"

    def requirementsOf(self, parameters) -> str:
        """Return the file of what the engine needs for the chosen model beside PyTorch.

        Args:
            parameters: The parameter node, or None.

        Returns:
            Its path.
        """
        model = None if parameters is None else self.modelOf(parameters)
        isSegmenter = model is not None and model.isSegmenter
        return str(self._resources / ("requirements-segmenter.txt" if isSegmenter else "requirements.txt"))

    # --- the run

    def settingsOf(self, parameters, preset: str | None = None):
        """Return the engine's settings for a run with the present choices.

        Args:
            parameters: The parameter node.
            preset: A preset in place of the chosen one.

        Returns:
            The ReconstructionSettings; None for a segmenter, and where the engine will refuse them and say why.
        """
        from tonno_core.settings import combine

        model = self.modelOf(parameters)
        if model is not None and model.isSegmenter:  # which looks at no planes
            return None
        explicit = {**optionsOf(parameters), "methods": (parameters.method.value,)}
        try:
            quality = preset or parameters.quality.value
            return None if model is None else combine(defaults=model.defaults, preset=quality, explicit=explicit)
        except Exception:  # a model or a number that this version does not understand
            return None

    def expectedSeconds(self, parameters, preset: str | None = None) -> float | None:
        """Estimate from earlier runs how long a run with the present choices takes.

        Args:
            parameters: The parameter node.
            preset: A preset in place of the chosen one.

        Returns:
            Seconds, or None where no comparable run is known.
        """
        model, settings = self.modelOf(parameters), self.settingsOf(parameters, preset)
        if model is not None and model.isSegmenter:
            voxels = _voxelsOf(parameters.inputVolume, model)
            return self.times.expected(model.encoder, self._deviceKind(parameters), _VOXEL, voxels) if voxels else None
        if model is None or settings is None:
            return None
        size = settings.slice_size or model.sliceSize
        return self.times.expected(model.encoder, self._deviceKind(parameters), size, slicesOf(settings))

    def remember(self, request: RunRequest, record: Json) -> None:
        """Note how fast a run was, for the next estimate. A run that was stopped early does not count.

        Args:
            request: What was asked for.
            record: What the engine reported.
        """
        from tonno_core.settings import PRESETS

        model = next((model for model in self.models if str(model.folder) == request.model), None)
        seconds = (record.get("seconds") or {}).get("total")
        if model is None or not seconds or record.get("stopped"):
            return
        device = record.get("device") or "cpu"
        if model.isSegmenter:
            self.times.record(model.encoder, device, _VOXEL, _voxelsOf(request.volumeNode, model), seconds)
            return
        size = PRESETS.get(request.preset or "", {}).get("slice_size") or model.sliceSize
        self.times.record(model.encoder, device, size, record.get("slices") or 0, seconds)

    def request(self, parameters) -> RunRequest:
        """Return the run that the choices ask for.

        Args:
            parameters: The parameter node.

        Returns:
            The request, with the model as its folder has it now.

        Raises:
            ToNNOUserError: If the volume or the model is missing.
        """
        if parameters.inputVolume is None:
            raise ToNNOUserError(_("No volume is selected."), _("Select one, or click Load sample."))
        chosen = self.modelOf(parameters)
        if chosen is None:
            raise ToNNOUserError(_("No model is selected."), _("Select one, or click Open folder..."))
        model = self._reread(chosen)
        className = parameters.className or first_choice(model.classes)
        className = "" if className == ALL_CLASSES else className
        if model.isSegmenter:
            return _segmenterRequest(parameters, model, className)
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
            threshold=model.threshold(parameters.method.value, className or first_choice(model.classes)),
            minMm3=parameters.minMm3,
            dropWeak=parameters.dropWeak,
        )


def _voxelsOf(volumeNode, model: models.Model) -> int:
    """Return about how many voxels a segmenter answers; 0 without a volume."""
    image = None if volumeNode is None else volumeNode.GetImageData()
    if image is None:
        return 0
    volumeMm3 = math.prod(image.GetDimensions()) * math.prod(volumeNode.GetSpacing())
    return round(volumeMm3 / math.prod(model.spacingMm))


def _segmenterRequest(parameters, model: models.Model, className: str) -> RunRequest:
    """Return the run of a segmenter: what is chosen of planes has no meaning for it."""
    record = model.threshold(SEGMENTER, className or first_choice(model.classes))
    return RunRequest(
        volumeNode=parameters.inputVolume,
        model=str(model.folder),
        method=SEGMENTER,
        className=className,
        roiNode=parameters.roi,
        device=parameters.device or "auto",
        threshold=record,
        minMm3=smallestOf(parameters, record),
        dropWeak=parameters.dropWeak,
    )


def smallestOf(parameters, record: Json | None) -> float:
    """Return the smallest part that is kept: what the user has set, else what the model brings.

    Args:
        parameters: The parameter node.
        record: The model's record of a method; None where it has none.

    Returns:
        mm3.
    """
    known = (record or {}).get(MIN_VOLUME)
    return float(known) if known and parameters.minMm3 == SMALLEST_MM3 else parameters.minMm3


def _modelIn(folder: str | Path, nextStep: str) -> models.Model:
    """Read a model's folder; raise a ToNNOUserError with a next step where that fails."""
    try:
        return models.readModel(folder)
    except models.ModelError as error:
        raise ToNNOUserError(str(error), nextStep) from None
