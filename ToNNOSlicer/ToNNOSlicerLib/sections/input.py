"""What goes in: the volume, the model, its class, the quality."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from tonno_core.bundle.classes import stands_for_absence
from ToNNOSlicerLib import models, sample_data
from ToNNOSlicerLib.choices import ALL_CLASSES
from ToNNOSlicerLib.logic.results import heatmapsOf
from ToNNOSlicerLib.sections.look import setText
from ToNNOSlicerLib.state import RUNNING, State
from ToNNOSlicerLib.words import timeText


class InputSection:
    """A section of the panel.

    Args:
        ui: The widgets by name.
        session: The Session.
    """

    def __init__(self, ui, session) -> None:
        self._ui, self._session = ui, session
        self._isFilling = False
        self._listed: tuple = ()
        ui.modelSelector.connect("currentIndexChanged(int)", self._onModel)
        ui.classSelector.connect("currentIndexChanged(int)", self._onClass)
        ui.openModelButton.connect("clicked(bool)", session.openModel)
        ui.sampleButton.connect("clicked(bool)", self._onSample)

    def render(self, state: State) -> None:
        """Show models, classes and the expected time.

        Args:
            state: What is shown.
        """
        ui = self._ui
        if state.parameters is None:
            return
        self._isFilling = True
        self._fillModels(state)
        self._fillClasses(state)
        self._isFilling = False
        setText(ui.modelInfoLabel, _about(state.model))
        expected = _("time not known yet") if state.expectedS is None else _("about {time}").format(
            time=timeText(state.expectedS)
        )  # fmt: skip
        setText(ui.timeLabel, expected, hideIfEmpty=False)
        self._hideHeatmaps()
        for widget in (ui.modelSelector, ui.classSelector, ui.openModelButton, ui.sampleButton):
            widget.enabled = state.isIdle or state.busy == RUNNING

    def _fillModels(self, state: State) -> None:
        box = self._ui.modelSelector
        if state.models != self._listed:
            self._listed = state.models
            box.clear()
            for n, (model, label) in enumerate(zip(state.models, models.labels(state.models), strict=True)):
                box.addItem(label, str(model.folder))
                box.setItemData(n, _tip(model), qt.Qt.ToolTipRole)
        box.currentIndex = state.models.index(state.model) if state.model else -1
        box.toolTip = _tip(state.model) if state.model else _("Which model looks at the image")

    def _fillClasses(self, state: State) -> None:
        box, model = self._ui.classSelector, state.model
        several = model is not None and len(model.classes) > 1
        self._ui.classLabel.visible = box.visible = several
        if not several:
            return
        texts = [*model.classes, _("all of them")]
        if [box.itemText(n) for n in range(box.count)] != texts:
            box.clear()
            box.addItems(texts)
        known = [*model.classes, ALL_CLASSES]
        name = state.parameters.className
        box.currentIndex = known.index(name) if name in known else 0

    def _hideHeatmaps(self) -> None:
        """A heatmap is no image to look at."""
        hidden = [node.GetID() for node in heatmapsOf(self._session.logic.scene)]
        for box in (self._ui.inputSelector, self._ui.secondSelector):
            model = box.sortFilterProxyModel()
            if list(model.hiddenNodeIDs) != hidden:
                model.hiddenNodeIDs = hidden

    def _onModel(self, index) -> None:
        if not self._isFilling and 0 <= index < len(self._listed):
            self._session.chooseModel(str(self._listed[index].folder))

    def _onClass(self, index) -> None:
        box = self._ui.classSelector
        if not self._isFilling and index >= 0:
            self._session.set(className=ALL_CLASSES if index == box.count - 1 else box.itemText(index))

    def _onSample(self, _checked=None) -> None:
        """Draw the sample into a new volume and select it."""
        self._session.set(inputVolume=sample_data.load())


def _about(model) -> str:
    if model is None:
        return _("No model. Click Open folder...")
    findings = [name for name in model.classes if not stands_for_absence(name)] or model.classes
    finding = model.about.get("finding", ", ".join(findings))
    text = _("Looks for {finding}. {modality}.").format(finding=finding, modality=model.about.get("modality", ""))
    warning = models.notice(model)
    return f"{warning}\n{text}" if warning else text


def _tip(model) -> str:
    return "\n".join(f"{topic}: {text}" for topic, text in models.description(model)) + f"\n{model.folder}"
