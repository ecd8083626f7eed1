"""Stand-ins for the widgets of CTK and Slicer, and `loadUI`, which makes them from the module's .ui file."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from pythonqt import QtObject, unwrap


class ctkCollapsibleButton(QtWidgets.QWidget):
    contentsCollapsed = QtCore.Signal(bool)
    _TITLE = 24

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self._title = QtWidgets.QToolButton(self)
        self._title.setAutoRaise(True)
        self._title.setToolButtonStyle(QtCore.Qt.ToolButtonTextBesideIcon)
        self._title.setStyleSheet("QToolButton { background: #dfe5ec; border: none; text-align: left; padding: 3px; }")
        self._title.clicked.connect(lambda: self._set_collapsed(not self._collapsed))
        self._title.installEventFilter(self)
        self.setContentsMargins(0, self._TITLE + 2, 0, 4)

    def resizeEvent(self, event: QtGui.QResizeEvent) -> None:
        self._title.setGeometry(0, 0, self.width(), self._TITLE)

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        super().childEvent(event)
        if self._collapsed and event.child().isWidgetType() and event.child() is not self._title:
            QtCore.QTimer.singleShot(0, self._apply)

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        self._apply()

    def _apply(self) -> None:
        self._title.setArrowType(QtCore.Qt.RightArrow if self._collapsed else QtCore.Qt.DownArrow)
        if self._collapsed:
            self.setMaximumHeight(self._TITLE + 4)
        else:
            self.setMaximumHeight(16777215)

    def _set_collapsed(self, collapsed: bool) -> None:
        if collapsed != self._collapsed:
            self._collapsed = collapsed
            self._apply()
            self.contentsCollapsed.emit(collapsed)

    def _set_text(self, text: str) -> None:
        self._text = text
        self._title.setText(text)

    text = QtCore.Property(str, lambda self: self._text, _set_text)
    collapsed = QtCore.Property(bool, lambda self: self._collapsed, _set_collapsed)


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a number. With tracking off, valueChanged comes when the slider is let go."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)
    _STEPS = 1000

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._value, self._tracking, self._dragging = 0.0, True, False
        self._slider, self._box = QtWidgets.QSlider(QtCore.Qt.Horizontal), QtWidgets.QDoubleSpinBox()
        self._slider.setMaximum(self._STEPS)
        self._box.setRange(0.0, 99.0)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)

    def drag(self, values: list[float]) -> None:
        """What a hand does with the mouse: through the values, then let go."""
        for value in values:
            self._show(value)
            if self._tracking:
                self._set_value(value)
            else:
                self.valueIsChanging.emit(value)
        self._set_value(values[-1])

    def _set_value(self, value: float) -> None:
        value = min(max(value, self._box.minimum()), self._box.maximum())
        self._show(value)
        if value != self._value:
            self._value = value
            self.valueChanged.emit(value)

    def _show(self, value: float) -> None:
        low, span = self._box.minimum(), (self._box.maximum() - self._box.minimum()) or 1.0
        self._slider.setValue(round(self._STEPS * (value - low) / span))
        self._box.setValue(value)

    def _set_minimum(self, value: float) -> None:
        self._box.setMinimum(value)
        self._set_value(self._value)

    def _set_maximum(self, value: float) -> None:
        self._box.setMaximum(value)
        self._set_value(self._value)

    def _set_tracking(self, on: bool) -> None:
        self._tracking = on

    value = QtCore.Property(float, lambda self: self._value, _set_value)
    minimum = QtCore.Property(float, lambda self: self._box.minimum(), _set_minimum)
    maximum = QtCore.Property(float, lambda self: self._box.maximum(), _set_maximum)
    singleStep = QtCore.Property(float, lambda self: self._box.singleStep(), lambda self, v: self._box.setSingleStep(v))
    decimals = QtCore.Property(int, lambda self: self._box.decimals(), lambda self, v: self._box.setDecimals(v))
    tracking = QtCore.Property(bool, lambda self: self._tracking, _set_tracking)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Nodes of some classes. A new node is listed, not selected; a node that leaves the scene is deselected."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._types: list[str] = []
        self._flags: dict[str, bool] = {}
        self._attributes: list[tuple[str, str]] = []
        self._scene, self._observers, self._node = None, [], None
        self._box = QtWidgets.QComboBox()
        self._box.activated.connect(self._on_activated)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)

    def setMRMLScene(self, scene: Any) -> None:
        for observer in self._observers:
            self._scene.RemoveObserver(observer)
        self._scene, self._observers = scene, []
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent)
            self._observers = [scene.AddObserver(event, self._on_scene) for event in events]
        self._fill()

    def addAttribute(self, nodeType: str, name: str) -> None:
        """Only nodes of that type that have the attribute."""
        self._attributes.append((nodeType, name))
        self._fill()

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        if node is not None and not any(node.IsA(kind) for kind in self._types):
            raise TypeError(f"{node.GetClassName()} is none of {self._types}")
        if node is self._node:
            return
        self._node = node
        self._fill()
        self.currentNodeChanged.emit(node)

    def nodes(self) -> list[Any]:
        """Those that are listed (for tests)."""
        if self._scene is None:
            return []
        found = [self._scene.GetNthNode(n) for n in range(self._scene.GetNumberOfNodes())]
        return [one for one in found if any(one.IsA(kind) for kind in self._types) and self._has_attributes(one)]

    def _has_attributes(self, node: Any) -> bool:
        return all(node.GetAttribute(name) is not None for kind, name in self._attributes if node.IsA(kind))

    def _on_scene(self, _scene: Any, _event: str) -> None:
        if self._node is not None and self._node.GetScene() is not self._scene:
            self.setCurrentNode(None)
        self._fill()

    def _on_activated(self, index: int) -> None:
        self.setCurrentNode(self._box.itemData(index))

    def _fill(self) -> None:
        self._box.clear()
        if self._flags.get("noneEnabled"):
            self._box.addItem("None", None)
        for node in self.nodes():
            self._box.addItem(node.GetName(), node)
        index = next((n for n in range(self._box.count()) if self._box.itemData(n) is self._node), -1)
        self._box.setCurrentIndex(index)

    def _set_types(self, types_: list[str]) -> None:
        self._types = list(types_)

    nodeTypes = QtCore.Property("QStringList", lambda self: self._types, _set_types)


def _flag(name: str) -> Any:
    def write(self: Any, on: bool) -> None:
        self._flags[name] = on
        self._fill()

    return QtCore.Property(bool, lambda self: self._flags.get(name, False), write)


# A Qt property has to stand in the class from the start: the metaobject is made with it.
qMRMLNodeComboBox = type(
    "qMRMLNodeComboBox",
    (qMRMLNodeComboBox,),
    {name: _flag(name) for name in ("noneEnabled", "addEnabled", "removeEnabled", "renameEnabled")},
)


class qMRMLWidget(QtWidgets.QWidget):
    """Passes its scene on to the widgets that the .ui file connects with it."""

    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qMRMLSegmentEditorWidget(QtWidgets.QWidget):
    """Remembers what it was given; painting is the application's."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.given: dict[str, Any] = {}

    def _remember(name: str) -> Callable[..., None]:
        def setter(self: Any, value: Any) -> None:
            self.given[name] = value

        return setter

    setMRMLScene = _remember("scene")
    setMRMLSegmentEditorNode = _remember("node")
    setSegmentationNode = _remember("segmentation")
    setSourceVolumeNode = _remember("source")
    setActiveEffect = _remember("effect")
    setMaximumNumberOfUndoStates = _remember("undo")


CUSTOM = {one.__name__: one for one in (ctkCollapsibleButton, ctkSliderWidget, qMRMLNodeComboBox, qMRMLWidget)}


class _Loader(QtUiTools.QUiLoader):
    """Makes the custom widgets of a .ui file; a class that is not modelled raises."""

    def createWidget(self, name: str, parent: Any = None, objectName: str = "") -> QtWidgets.QWidget:
        if name in CUSTOM:
            widget = CUSTOM[name](parent)
            widget.setObjectName(objectName)
            return widget
        if name not in self.availableWidgets():
            raise NotImplementedError(f"the widget {name} is not modelled")
        return super().createWidget(name, parent, objectName)


def loadUI(path: str | Path) -> QtObject:
    """As slicer.util.loadUI. The file's connections, whose types only Slicer knows, are made here."""
    tree = ElementTree.fromstring(Path(path).read_text(encoding="utf-8"))
    connections = tree.find("connections")
    wanted = [] if connections is None else [[part.text for part in one] for one in connections]
    if connections is not None:
        tree.remove(connections)
    buffer = QtCore.QBuffer()
    buffer.setData(ElementTree.tostring(tree))
    buffer.open(QtCore.QIODevice.ReadOnly)
    widget = _Loader().load(buffer)
    for sender, signal, receiver, slot in wanted:
        if (sender, signal, slot) != (
            widget.objectName(),
            "mrmlSceneChanged(vtkMRMLScene*)",
            "setMRMLScene(vtkMRMLScene*)",
        ):
            raise NotImplementedError(f"the connection of {signal} with {slot} is not modelled")
        widget.mrmlSceneChanged.connect(widget.findChild(QtWidgets.QWidget, receiver).setMRMLScene)
    return QtObject(widget)


def childWidgetVariables(widget: QtObject) -> types.SimpleNamespace:
    """All widgets of a .ui file by name."""
    own = unwrap(widget)
    found = [own, *own.findChildren(QtWidgets.QWidget)]
    named = {one.objectName(): QtObject(one) for one in found if one.objectName().isidentifier()}
    return types.SimpleNamespace(**named)
