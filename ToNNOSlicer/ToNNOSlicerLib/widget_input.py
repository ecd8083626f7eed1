"""What goes in: the volume, the model, its class, the method, the device, and which Python computes."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib import ask, models, sample_data
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.parameter_node import optionsOf
from ToNNOSlicerLib.run import RunRequest
from ToNNOSlicerLib.timing import slicesOf

_FOLDERS, PYTHON = "ToNNO/ModelFolders", "ToNNO/Python"


class InputSection:
    """panel: the Panel; it has ui, parameters, logic, times."""

    def __init__(self, panel) -> None:
        self._panel, self._ui = panel, panel.ui
        self._models: list[models.Model] = []
        self._devices: list[dict] = []
        self._filling = False
        ui = self._ui
        ui.modelSelector.connect("currentIndexChanged(int)", self._onModel)
        ui.classSelector.connect("currentIndexChanged(int)", self._onClass)
        ui.deviceSelector.connect("currentIndexChanged(int)", self._onDevice)
        ui.openModelButton.connect("clicked(bool)", self._onOpenModel)
        ui.sampleButton.connect("clicked(bool)", self.onSample)
        ui.deviceButton.connect("clicked(bool)", lambda _on: panel.describe())
        ui.pythonButton.connect("clicked(bool)", lambda _on: self.choosePython())
        self.showDevices(None)
        self._showPython()

    # --- models

    def findModels(self) -> None:
        """Fill the list again: what ships, the user's folder, and folders that were opened before."""
        found = models.findModels(self._panel.resourcePath("Models"), self._panel.userFolder / "Models")
        for folder in _rememberedFolders():
            try:
                found.append(models.readModel(folder))
            except models.ModelError:
                continue
        self._models = list({model.folder.resolve(): model for model in found}.values())
        box = self._ui.modelSelector
        self._filling = True
        box.clear()
        for n, model in enumerate(self._models):
            box.addItem(model.name, str(model.folder))
            box.setItemData(n, _tip(model), qt.Qt.ToolTipRole)
        self._filling = False
        if not self.model and self._models:
            self._panel.parameters.modelFolder = str(self._models[0].folder)
        self.update()

    @property
    def model(self) -> models.Model | None:
        """The chosen model, if it is one of the list."""
        chosen = self._panel.parameters.modelFolder
        return next((model for model in self._models if str(model.folder) == chosen), None)

    def _onModel(self, index) -> None:
        if not self._filling and 0 <= index < len(self._models):
            self._panel.parameters.modelFolder = str(self._models[index].folder)

    def _onOpenModel(self, _on) -> None:
        folder = ask.folder(_("Folder of a model"))
        if not folder:
            return
        try:
            model = models.readModel(folder)
        except models.ModelError as error:
            self._panel.showMessage(str(error), _("Choose the folder that holds model.json and model.safetensors."))
            return
        _remember(folder)
        self._panel.parameters.modelFolder = str(model.folder)
        self.findModels()

    def _onClass(self, index) -> None:
        if not self._filling and index >= 0:
            self._panel.parameters.className = self._ui.classSelector.itemText(index)

    # --- the volume

    def selectFirstVolume(self) -> None:
        """One click less where there is something to look at already."""
        parameters = self._panel.parameters
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        if parameters.inputVolume is None and node is not None and node not in self._panel.logic.heatmaps():
            parameters.inputVolume = node

    def onSample(self, _on=None) -> None:
        """Draw the sample into a new volume, show it and select it."""
        self._panel.parameters.inputVolume = sample_data.load()

    # --- devices

    def showDevices(self, description) -> None:
        """description: the engine's event, or None while nothing is known."""
        self._devices = [] if description is None else list(description.get("devices") or ())
        box = self._ui.deviceSelector
        self._filling = True
        box.clear()
        box.addItem(_("automatic"), "auto")
        for n, device in enumerate(self._devices, start=1):
            free = device.get("free_bytes")
            memory = "" if free is None else _(", {free:.1f} GB free").format(free=free / 1e9)
            trouble = "" if device.get("usable") else _(" (not usable)")
            box.addItem(f"{device.get('title') or device['name']}{memory}{trouble}", device["name"])
            box.setItemData(n, device.get("problem") or device["name"], qt.Qt.ToolTipRole)
        self._filling = False
        self.update()

    @property
    def hasNoGPU(self) -> bool:
        """Whether the engine said that there is nothing but the CPU."""
        usable = [device for device in self._devices if device.get("usable")]
        return bool(self._devices) and all(device["name"] == "cpu" for device in usable)

    def problemOf(self, name) -> str | None:
        """Why a device cannot be used."""
        return next((d.get("problem") for d in self._devices if d["name"] == name and not d.get("usable")), None)

    def _onDevice(self, index) -> None:
        if not self._filling and index >= 0:
            self._panel.parameters.device = self._ui.deviceSelector.itemData(index)

    # --- Python

    @property
    def python(self) -> str | None:
        """The interpreter that was chosen, None for Slicer's own."""
        chosen = str(qt.QSettings().value(PYTHON, "") or "")
        return chosen if chosen and Path(chosen).is_file() else None

    def choosePython(self) -> bool:
        """Ask for an interpreter; an empty answer leaves things as they are. The engine starts anew with it."""
        chosen = ask.openFile(_("A Python interpreter with PyTorch and timm"))
        if not chosen:
            return False
        own = Path(chosen).name.startswith("PythonSlicer")
        qt.QSettings().setValue(PYTHON, "" if own else chosen)
        self._showPython()
        self._panel.newEngine()
        return True

    def _showPython(self) -> None:
        self._ui.pythonPathLabel.text = self.python or _("Slicer's Python")

    # --- the whole

    def update(self) -> None:
        """Show what the parameters say."""
        parameters, ui = self._panel.parameters, self._ui
        if parameters is None:
            return
        model = self.model
        self._filling = True
        ui.modelSelector.currentIndex = self._models.index(model) if model else -1
        if model is not None:
            ui.modelSelector.toolTip = _tip(model)
            self._fillClasses(model)
        ui.modelInfoLabel.text = (
            _("Looks for {finding}. {modality}.").format(
                finding=model.about.get("finding", ", ".join(model.classes)), modality=model.about.get("modality", "")
            )
            if model
            else _("No model. Click Open folder...")
        )
        several = model is not None and len(model.classes) > 1
        ui.classLabel.visible = several
        ui.classSelector.visible = several
        ui.zoomCheck.enabled = parameters.roi is not None
        names = ["auto", *(device["name"] for device in self._devices)]
        ui.deviceSelector.currentIndex = names.index(parameters.device) if parameters.device in names else 0
        self._filling = False
        ui.timeLabel.text = self.expectedText()

    def _fillClasses(self, model) -> None:
        box, parameters = self._ui.classSelector, self._panel.parameters
        if [box.itemText(n) for n in range(box.count)] != list(model.classes):
            box.clear()
            box.addItems(list(model.classes))
        if parameters.className not in model.classes:
            parameters.className = model.classes[0]
        box.currentIndex = model.classes.index(parameters.className)

    def expectedSeconds(self, preset=None) -> float | None:
        """Of a run as the panel stands (or with another preset), from the runs before."""
        from tonno_core.settings import combine

        model, parameters = self.model, self._panel.parameters
        if model is None:
            return None
        explicit = {**optionsOf(parameters), "methods": (parameters.method.value,)}
        try:
            settings = combine(defaults=model.defaults, preset=preset or parameters.quality.value, explicit=explicit)
        except Exception:  # a model or a number that the engine will refuse with its own words
            return None
        size = settings.slice_size or model.sliceSize
        return self._panel.times.expected(model.encoder, self._deviceKind(), size, slicesOf(settings))

    def expectedText(self) -> str:
        """Such as `about 20 s`, or that it is not known yet."""
        seconds = self.expectedSeconds()
        if seconds is None:
            return _("time not known yet")
        return _("about {time}").format(time=timeText(seconds))

    def _deviceKind(self) -> str:
        chosen = self._panel.parameters.device
        if chosen != "auto":
            return chosen.split(":")[0]
        usable = [device for device in self._devices if device.get("usable")]
        return usable[0]["kind"] if usable else "cpu"

    def request(self) -> RunRequest:
        """The run that the panel asks for. Raises ToNNOUserError where something is not chosen."""
        parameters, model = self._panel.parameters, self.model
        if parameters.inputVolume is None:
            raise ToNNOUserError(_("No volume is selected."), _("Select one, or click Load sample."))
        if model is None:
            raise ToNNOUserError(_("No model is selected."), _("Select one, or click Open folder..."))
        return RunRequest(
            volumeNode=parameters.inputVolume,
            model=str(model.folder),
            method=parameters.method.value,
            className=parameters.className or model.classes[0],
            options=optionsOf(parameters),
            preset=parameters.quality.value,
            roiNode=parameters.roi,
            zoom=parameters.zoom and parameters.roi is not None,
            device=parameters.device or "auto",
            threshold=model.threshold(parameters.method.value, parameters.className),
            opacity=parameters.opacity,
            minMm3=parameters.minMm3,
        )


def dicomModalityOf(volumeNode) -> str | None:
    """What the subject hierarchy keeps of a volume that came from DICOM."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    return hierarchy.GetItemAttribute(item, "DICOM.Modality") or None if item else None


def timeText(seconds) -> str:
    """Such as `25 s`, `3 min 20 s`, `2 h 5 min`."""
    seconds = max(0, round(seconds))
    if seconds < 100:
        return _("{s} s").format(s=seconds)
    if seconds < 6000:
        return _("{m} min {s} s").format(m=seconds // 60, s=seconds % 60)
    return _("{h} h {m} min").format(h=seconds // 3600, m=seconds % 3600 // 60)


def _tip(model) -> str:
    return "\n".join(f"{topic}: {text}" for topic, text in models.description(model)) + f"\n{model.folder}"


def _rememberedFolders() -> list[str]:
    return [one for one in str(qt.QSettings().value(_FOLDERS, "") or "").split("\n") if one]


def _remember(folder) -> None:
    kept = [one for one in _rememberedFolders() if one != folder]
    qt.QSettings().setValue(_FOLDERS, "\n".join([*kept, folder][-20:]))
