"""How it is done: heatmap, region, numbers of planes, device, which Python computes."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from ToNNOSlicerLib.parameter_node import Method
from ToNNOSlicerLib.sections.look import Filling, setText

# What a segmenter has no use for.
_OF_PLANES = (
    "methodLabel", "methodSelector", "slicesLabel", "slicesBox", "directionsLabel", "directionsBox", "stageLabel",
    "stageBox", "sigmaLabel", "sigmaBox", "filterLabel", "filterSelector",
)  # fmt: skip


class MethodSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._filling = Filling()
        self._listed: list | None = None
        self._filling.connect(ui.deviceSelector, "currentIndexChanged(int)", self._onDevice)
        ui.deviceButton.connect("clicked(bool)", session.describe)
        ui.pythonButton.connect("clicked(bool)", session.choosePython)
        ui.roiSelector.connect("nodeAddedByUser(vtkMRMLNode*)", session.fitRegion)

    def render(self) -> None:
        """Show devices and the interpreter; the rest is connected with the parameter node."""
        ui, session, parameters = self._ui, self._session, self._session.parameters
        if parameters is None:
            return
        with self._filling:
            self._fillDevices(session.choices.devices)
            names = ["auto", *(device["name"] for device in session.choices.devices)]
            ui.deviceSelector.currentIndex = names.index(parameters.device) if parameters.device in names else 0
        setText(ui.pythonPathLabel, session.choices.python or _("Slicer's Python"), hideIfEmpty=False)
        model = session.choices.modelOf(parameters)
        hasPlanes = model is None or not model.isSegmenter
        for name in _OF_PLANES:
            getattr(ui, name).enabled = hasPlanes
        ui.zoomCheck.enabled = hasPlanes and parameters.roi is not None
        for n, method in enumerate(Method):
            if n < ui.methodSelector.count:
                ui.methodSelector.setItemData(n, method.tip(), qt.Qt.ToolTipRole)
        for widget in (ui.deviceButton, ui.pythonButton):
            widget.enabled = session.isIdle

    def _fillDevices(self, devices: list) -> None:
        if devices == self._listed:
            return
        self._listed = devices
        box = self._ui.deviceSelector
        box.clear()
        box.addItem(_("automatic"), "auto")
        for n, device in enumerate(devices, start=1):
            box.addItem(_described(device), device["name"])
            box.setItemData(n, device.get("problem") or device["name"], qt.Qt.ToolTipRole)

    def _onDevice(self, index) -> None:
        if index >= 0:
            self._session.set(device=self._ui.deviceSelector.itemData(index))


def _described(device: dict) -> str:
    """What is to be known before a device is chosen."""
    text, free = device.get("title") or device["name"], device.get("free_bytes")
    if free is not None:
        text = _("{device}, {free:.1f} GB free").format(device=text, free=free / 1e9)
    return text if device.get("usable") else _("{device} (not usable)").format(device=text)
