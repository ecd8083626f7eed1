"""What goes in: the volume, the model, its class, the quality."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from tonno_core.words import findings_of
from ToNNOSlicerLib import models, sample_data
from ToNNOSlicerLib.choices import ALL_CLASSES
from ToNNOSlicerLib.logic.results import heatmapsOf
from ToNNOSlicerLib.sections.look import Filling, setText
from ToNNOSlicerLib.words import timeText


class InputSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._filling = Filling()
        self._listed: tuple = ()
        self._filling.connect(ui.modelSelector, "currentIndexChanged(int)", self._onModel)
        self._filling.connect(ui.classSelector, "currentIndexChanged(int)", self._onClass)
        ui.openModelButton.connect("clicked(bool)", session.openModel)
        ui.sampleButton.connect("clicked(bool)", self._onSample)

    def render(self) -> None:
        """Show models, classes and the expected time."""
        ui, choices, parameters = self._ui, self._session.choices, self._session.parameters
        if parameters is None:
            return
        model, seconds = choices.modelOf(parameters), choices.expectedSeconds(parameters)
        with self._filling:
            self._fillModels(tuple(choices.models), model)
            self._fillClasses(model, parameters.className)
        setText(ui.modelInfoLabel, _about(model))
        expected = _("time not known yet") if seconds is None else _("about {time}").format(time=timeText(seconds))
        setText(ui.timeLabel, expected, hideIfEmpty=False)
        ui.qualityLabel.enabled = ui.qualitySelector.enabled = model is None or not model.isSegmenter
        self._hideHeatmaps()
        for widget in (ui.modelSelector, ui.classSelector, ui.openModelButton, ui.sampleButton):
            widget.enabled = not self._session.installing.isBusy

    def _fillModels(self, listed: tuple, chosen) -> None:
        box = self._ui.modelSelector
        if listed != self._listed:
            self._listed = listed
            box.clear()
            for n, (model, label) in enumerate(zip(listed, models.labels(listed), strict=True)):
                box.addItem(label, str(model.folder))
                box.setItemData(n, _tip(model), qt.Qt.ToolTipRole)
        box.currentIndex = listed.index(chosen) if chosen else -1
        box.toolTip = _tip(chosen) if chosen else _("Which model looks at the image")

    def _fillClasses(self, model, name: str) -> None:
        box = self._ui.classSelector
        several = model is not None and len(model.classes) > 1
        self._ui.classLabel.visible = box.visible = several
        if not several:
            return
        texts = [*model.classes, _("all of them")]
        if [box.itemText(n) for n in range(box.count)] != texts:
            box.clear()
            box.addItems(texts)
        known = [*model.classes, ALL_CLASSES]
        box.currentIndex = known.index(name) if name in known else 0

    def _hideHeatmaps(self) -> None:
        """A heatmap is no image to look at."""
        hidden = [node.GetID() for node in heatmapsOf(self._session.logic.scene)]
        for box in (self._ui.inputSelector, self._ui.secondSelector):
            model = box.sortFilterProxyModel()
            if list(model.hiddenNodeIDs) != hidden:
                model.hiddenNodeIDs = hidden

    def _onModel(self, index) -> None:
        if 0 <= index < len(self._listed):
            self._session.chooseModel(str(self._listed[index].folder))

    def _onClass(self, index) -> None:
        box = self._ui.classSelector
        if index >= 0:
            self._session.set(className=ALL_CLASSES if index == box.count - 1 else box.itemText(index))

    def _onSample(self, _checked=None) -> None:
        """Draw the sample into a new volume and select it."""
        self._session.set(inputVolume=sample_data.load())


def _about(model) -> str:
    if model is None:
        return _("No model. Click Open folder...")
    findings = findings_of(model.classes)
    finding = model.about.get("finding", ", ".join(findings))
    text = _("Looks for {finding}. {modality}.").format(finding=finding, modality=model.about.get("modality", ""))
    kind = models.kindOf(model)
    return "\n".join(filter(None, (models.notice(model), text, f"{kind[:1].upper()}{kind[1:]}." if kind else "")))


def _tip(model) -> str:
    return "\n".join(f"{topic}: {text}" for topic, text in models.description(model)) + f"\n{model.folder}"
