"""A small stand-in for Slicer's Qt side: qt, ctk, qMRML widgets, ScriptedLoadableModule, parameterNodeWrapper.

    host = QtHost()                     # after it, `import qt` and `import slicer.ScriptedLoadableModule` work
    widget = host.loadModule(path)      # as the application does: module, widget, setup
    host.close()

On PySide6, off screen, with the real MRML libraries of slicer_host. Objects have PythonQt's manners: a property is an
attribute and not a method, an unknown name raises. Written from the public documentation of Slicer, CTK and PythonQt;
what is not modelled raises, so a test that passes has used nothing else. It proves the module's own logic. Whether
PythonQt and the application play along, only ``slicer_smoke.py`` in the application shows.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.util
import inspect
import os
import sys
import tempfile
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from slicer_host import Host

if sys.version_info < (3, 12):
    # PySide6 6.12 gives back one reference to None too many with each call of a void function; where None is not
    # immortal yet, the interpreter ends after some 100,000 of them. As later Pythons do: so many that it never does.
    ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40

_QT = (QtCore, QtGui, QtWidgets)
_SIGNAL = QtCore.QMetaMethod.MethodType.Signal


# --- PythonQt's manners -----------------------------------------------------------------------------------------


def wrap(value: Any) -> Any:
    """What Python sees of a Qt value."""
    if isinstance(value, QtCore.QObject):
        return QtObject(value)
    if isinstance(value, (list, tuple)) and not isinstance(value, enum.Enum):
        return type(value)(wrap(one) for one in value)
    if isinstance(value, (*_CHART_FREE, QtWidgets.QTableWidgetItem)):
        return QtValue(value)
    return value


def unwrap(value: Any) -> Any:
    """What Qt sees of a Python value."""
    if isinstance(value, (QtObject, QtValue)):
        return object.__getattribute__(value, "_own")
    if isinstance(value, (list, tuple)) and not isinstance(value, enum.Enum):
        return type(value)(unwrap(one) for one in value)
    return value


_CHART_FREE = (
    QtGui.QPixmap,
    QtGui.QPainter,
    QtGui.QColor,
    QtGui.QIcon,
    QtCore.QSize,
    QtCore.QPoint,
    QtCore.QRect,
    QtWidgets.QLayoutItem,
)


class QtValue:
    """A Qt value that is no QObject: methods only, and no unknown attribute."""

    __slots__ = ("_own",)

    def __init__(self, own: Any) -> None:
        object.__setattr__(self, "_own", own)

    def __getattr__(self, name: str) -> Any:
        return _method(object.__getattribute__(self, "_own"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(unwrap(self)).__name__} has no attribute {name}")


class QtObject:
    """A QObject: properties are attributes, signals have connect, the rest are methods."""

    __slots__ = ("_own",)

    def __init__(self, own: QtCore.QObject) -> None:
        object.__setattr__(self, "_own", own)

    def __getattr__(self, name: str) -> Any:
        own = object.__getattribute__(self, "_own")
        found = _property(own, name)
        if found is not None:
            return wrap(_plain(found.read(own)))
        if name in _signals(own):
            return _Signal(own, name)
        return _method(own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = object.__getattribute__(self, "_own")
        found = _property(own, name)
        if found is None:
            raise AttributeError(f"{own.metaObject().className()} has no property {name}")
        if not found.isWritable():
            raise AttributeError(f"{own.metaObject().className()}.{name} cannot be set")
        if not found.write(own, unwrap(value)):
            raise TypeError(f"{own.metaObject().className()}.{name} does not take {value!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QtObject) and unwrap(self) is unwrap(other)

    def __hash__(self) -> int:
        return hash(id(unwrap(self)))

    def connect(self, signature: str, receiver: Callable[..., Any]) -> bool:
        """``connect("clicked(bool)", f)``; a signature that the class has not raises."""
        own = object.__getattribute__(self, "_own")
        name, _bracket, arguments = signature.partition("(")
        if f"({arguments}" not in _signals(own).get(name, ()):
            raise ValueError(f"{own.metaObject().className()} has no signal {signature}")
        _connect(own, name, arguments.rstrip(")"), receiver)
        return True

    def disconnect(self, *_arguments: Any) -> None:
        raise NotImplementedError("disconnect is not modelled")

    def className(self) -> str:
        return str(unwrap(self).metaObject().className())

    def setProperty(self, name: str, value: Any) -> None:
        unwrap(self).setProperty(name, unwrap(value))

    def property(self, name: str) -> Any:
        return wrap(unwrap(self).property(name))


class _Signal:
    def __init__(self, own: QtCore.QObject, name: str) -> None:
        self._own, self._name = own, name

    def connect(self, receiver: Callable[..., Any]) -> None:
        first = sorted(_signals(self._own)[self._name], key=len)[-1]
        _connect(self._own, self._name, first.strip("()"), receiver)

    def __call__(self, *arguments: Any) -> None:
        raise NotImplementedError("emitting a signal by calling it is not modelled")


def _connect(own: QtCore.QObject, name: str, arguments: str, receiver: Callable[..., Any]) -> None:
    signal = getattr(own, name)
    if arguments and len(_signals(own)[name]) > 1:
        signal = signal[tuple(_TYPES[one] for one in arguments.split(","))]
    count = len([one for one in arguments.split(",") if one])
    takes = _positional(receiver)
    if takes < count and takes not in (0, count):
        raise TypeError(f"{receiver} takes {takes} arguments, the signal {name} has {count}")

    def slot(*values: Any) -> None:
        try:
            receiver(*(wrap(value) for value in values[:takes]))
        except BaseException as error:  # Qt would print and go on; a test must see it
            QtHost.errors.append(error)
            raise

    signal.connect(slot)


_TYPES = {"int": int, "bool": bool, "double": float, "QString": str}


def _positional(receiver: Callable[..., Any]) -> int:
    parameters = inspect.signature(receiver).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return 100
    return len([one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)])


def _property(own: QtCore.QObject, name: str) -> QtCore.QMetaProperty | None:
    meta = own.metaObject()
    index = meta.indexOfProperty(name)
    return meta.property(index) if index >= 0 else None


def _signals(own: QtCore.QObject) -> dict[str, list[str]]:
    """Name to the argument lists, as ``(bool)``."""
    meta, found = own.metaObject(), {}
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == _SIGNAL:
            name, _bracket, rest = bytes(method.methodSignature().data()).decode().partition("(")
            rest = "(" + rest.replace("PyObject", "vtkMRMLNode*")
            found.setdefault(name, []).append(rest)
    return found


def _method(own: Any, name: str) -> Callable[..., Any]:
    if name.startswith("_"):
        raise AttributeError(name)
    name = {"exec_": "exec"}.get(name, name)
    found = getattr(own, name, None)
    if not callable(found):
        raise AttributeError(f"{type(own).__name__} has no {name}")
    return lambda *arguments: wrap(_plain(found(*(unwrap(one) for one in arguments))))


def _plain(value: Any) -> Any:
    """PythonQt gives strings and numbers; enumerations are numbers."""
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, int) else value
    return value


class _Class:
    """A class of the module ``qt``: called it makes an object, its names are static functions and enumerations."""

    def __init__(self, own: type) -> None:
        self._own = own
        self.__name__ = own.__name__

    def __call__(self, *arguments: Any) -> Any:
        return wrap(self._own(*(unwrap(one) for one in arguments)))

    def __getattr__(self, name: str) -> Any:
        if (self._own.__name__, name) in QtHost.statics:
            return QtHost.statics[self._own.__name__, name]
        found = getattr(self._own, name)
        if callable(found) and not isinstance(found, (enum.Enum, type)):
            return lambda *arguments: wrap(found(*(unwrap(one) for one in arguments)))
        return found


class _QtModule(types.ModuleType):
    """The module ``qt``: classes of QtCore, QtGui and QtWidgets. Their subclasses in Python are not modelled."""

    def __getattr__(self, name: str) -> Any:
        for module in _QT:
            found = getattr(module, name, None)
            if isinstance(found, type):
                return _Class({"QMessageBox": _MessageBox}.get(name, found))
        raise AttributeError(f"qt has no {name}")


class _MessageBox(QtWidgets.QMessageBox):
    """Answers itself: the button whose text the test has laid into `QtHost.answers`."""

    def exec(self) -> int:
        wanted = QtHost.answer("message", self.text())
        self._pressed = next((one for one in self.buttons() if one.text() == wanted), None)
        if self._pressed is None:
            raise AssertionError(f"no button {wanted!r} among {[one.text() for one in self.buttons()]}")
        return 0

    def clickedButton(self) -> QtWidgets.QAbstractButton:
        return self._pressed


# --- widgets of CTK and Slicer ----------------------------------------------------------------------------------


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


# --- the parameter node -----------------------------------------------------------------------------------------


class WithinRange:
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def check(self, name: str, value: float) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{name} is {value}, expected {self.minimum} to {self.maximum}")


class _Field:
    """One parameter: its type, its default, how it is written as text."""

    def __init__(self, name: str, kind: Any, default: Any) -> None:
        self.name = name
        self.range = next((one for one in getattr(kind, "__metadata__", ()) if isinstance(one, WithinRange)), None)
        self.kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
        self.isNode = isinstance(self.kind, type) and issubclass(self.kind, slicer.vtkMRMLNode)
        isEnum = isinstance(self.kind, type) and issubclass(self.kind, enum.Enum)
        if not (self.isNode or isEnum or self.kind in (int, float, str, bool)):
            raise NotImplementedError(f"a parameter of type {kind} is not modelled")
        self.isEnum = isEnum
        if default is None and not self.isNode:
            default = next(iter(self.kind)) if isEnum else self.kind()
            if self.range is not None:
                default = self.range.minimum
        self.default = default

    def read(self, node: Any) -> Any:
        if self.isNode:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if text == "":
            return "" if self.kind is str and node.GetParameterNames().count(self.name) else self.default
        if self.isEnum:
            return self.kind[text]
        return text == "True" if self.kind is bool else self.kind(text)

    def write(self, node: Any, value: Any) -> None:
        if self.isNode:
            if value is not None and not value.IsA(self.kind.__name__):
                raise TypeError(f"{self.name} is a {value.GetClassName()}, expected a {self.kind.__name__}")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            node.Modified()
            return
        accepted = (int, float) if self.kind is float else self.kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
            raise TypeError(f"{self.name} is {value!r}, expected {self.kind.__name__}")
        if self.range is not None:
            self.range.check(self.name, value)
        text = value.name if self.isEnum else repr(self.kind(value)) if self.kind is not str else value
        node.SetParameter(self.name, text)


def parameterNodeWrapper(cls: type) -> type:
    """Typed attributes over a vtkMRMLScriptedModuleNode; an attribute that was not declared raises."""
    # By the values, not the names: the module uses no string annotations that could not be resolved.
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {name: _Field(name, kind, getattr(cls, name, None)) for name, kind in hints.items()}

    class Wrapper:
        __slots__ = ("_connections", "parameterNode")

        def __init__(self, node: Any) -> None:
            object.__setattr__(self, "parameterNode", node)
            object.__setattr__(self, "_connections", {})

        def __getattr__(self, name: str) -> Any:
            if name in fields:
                return fields[name].read(self.parameterNode)
            if name in ("AddObserver", "RemoveObserver", "HasObserver", "Modified", "GetID"):
                return getattr(self.parameterNode, name)
            raise AttributeError(f"{cls.__name__} has no parameter {name}")

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in fields:
                raise AttributeError(f"{cls.__name__} has no parameter {name}")
            fields[name].write(self.parameterNode, value)

        def connectGui(self, ui: Any) -> int:
            """Both ways, for each widget with the property SlicerParameterName."""
            links = []
            for widget in vars(ui).values():
                name = widget.property("SlicerParameterName")
                if name:
                    links.append(_Link(self, fields[name], widget))
            for link in links:
                link.toWidget()
            observer = self.parameterNode.AddObserver(
                vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: [link.toWidget() for link in links]
            )
            tag = len(QtHost.connections)
            QtHost.connections[tag] = (self.parameterNode, observer, links)
            return tag

        def disconnectGui(self, tag: int) -> None:
            node, observer, links = QtHost.connections.pop(tag)
            node.RemoveObserver(observer)
            for link in links:
                link.parameters = None

    Wrapper.__name__ = cls.__name__
    Wrapper.__qualname__ = cls.__qualname__
    return Wrapper


class _Link:
    """A parameter and a widget of an exact class."""

    # class: (signal, how to read, how to write)
    KINDS: typing.ClassVar[dict[str, tuple[str, Any, Any]]] = {
        "QCheckBox": ("toggled(bool)", lambda w: w.checked, lambda w, v: setattr(w, "checked", v)),
        "QSpinBox": ("valueChanged(int)", lambda w: w.value, lambda w, v: setattr(w, "value", v)),
        "QDoubleSpinBox": ("valueChanged(double)", lambda w: w.value, lambda w, v: setattr(w, "value", v)),
        "ctkSliderWidget": ("valueChanged(double)", lambda w: w.value, lambda w, v: setattr(w, "value", v)),
        "QComboBox": ("currentIndexChanged(int)", lambda w: w.currentIndex, lambda w, v: setattr(w, "currentIndex", v)),
        "qMRMLNodeComboBox": (
            "currentNodeChanged(vtkMRMLNode*)",
            lambda w: w.currentNode(),
            lambda w, v: w.setCurrentNode(v),
        ),
    }

    def __init__(self, parameters: Any, field: _Field, widget: QtObject) -> None:
        kind = widget.className()
        if kind not in self.KINDS:
            raise NotImplementedError(f"no connector between {kind} and {field.kind}")
        if kind == "ctkSliderWidget" and field.range is None:
            raise ValueError(f"{field.name}: a ctkSliderWidget wants Annotated[float, WithinRange(...)]")
        self.parameters, self.field, self.widget = parameters, field, widget
        signal, self._read, self._write = self.KINDS[kind]
        if field.isEnum:
            if not kind == "QComboBox":
                raise NotImplementedError(f"no connector between {kind} and an enumeration")
            self._members = list(field.kind)
            widget.clear()
            for one in self._members:
                widget.addItem(one.label() if hasattr(one, "label") else one.name)
        elif kind == "QComboBox":
            raise ValueError(f"{field.name}: a QComboBox wants an enumeration or Choice")
        if field.range is not None:
            widget.minimum, widget.maximum = field.range.minimum, field.range.maximum
        widget.connect(signal, self.fromWidget)

    def toWidget(self) -> None:
        if self.parameters is None:
            return
        value = self.field.read(self.parameters.parameterNode)
        value = self._members.index(value) if self.field.isEnum else value
        if self._read(self.widget) != value:
            self._write(self.widget, value)

    def fromWidget(self, _value: Any = None) -> None:
        if self.parameters is None:
            return
        value = self._read(self.widget)
        value = self._members[value] if self.field.isEnum else value
        if value != self.field.read(self.parameters.parameterNode):
            self.field.write(self.parameters.parameterNode, value)


# --- the scripted module ----------------------------------------------------------------------------------------


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    """Made with a parent widget; `layout` is the parent's."""

    moduleName = ""
    _path = ""

    def __init__(self, parent: QtObject | None = None) -> None:
        self.parent = parent
        self.layout = parent.layout()

    def setup(self) -> None:
        """Buttons for developers are the application's."""

    def resourcePath(self, name: str) -> str:
        return str(Path(self._path).parent / "Resources" / name)

    def onReload(self) -> None:
        """The file is executed again, and a new widget takes the place of this one."""
        QtHost.current.reload()


class ScriptedLoadableModuleLogic:
    moduleName = "ToNNOSlicer"

    def __init__(self, parent: Any = None) -> None:
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """The scene's node of this module; made where it is missing."""
        scene = slicer.mrmlScene
        node = scene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node.SetName(self.moduleName)
            node = scene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(__import__("unittest").TestCase):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(arguments or ("runTest",)))

    def runTest(self) -> None:
        raise NotImplementedError

    def delayDisplay(self, message: str, milliseconds: int = 0) -> None:
        """The application shows the message for a while."""


class QtHost(Host):
    """The scene of `slicer_host.Host`, and an application around it.

    answers: what a test says to the next questions, first in first out: ("message", text of a button),
    ("folder", path), ("open", path), ("save", path). A question without an answer raises. asked: the questions.
    errors: exceptions that escaped from slots.
    """

    answers: typing.ClassVar[list[tuple[str, str]]] = []
    asked: typing.ClassVar[list[tuple[str, str]]] = []
    errors: typing.ClassVar[list[BaseException]] = []
    statics: typing.ClassVar[dict[tuple[str, str], Any]] = {}
    connections: typing.ClassVar[dict[int, Any]] = {}
    current: typing.ClassVar[Any] = None

    def __init__(self) -> None:
        self.application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["host"])
        super().__init__()
        self._settings = tempfile.TemporaryDirectory(prefix="slicer-settings-")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, self._settings.name)
        self.application.setOrganizationName("host")
        self.application.setApplicationName("host")
        for kept in (self.answers, self.asked, self.errors):
            kept.clear()
        type(self).current = self
        self.widget = self._module = self.frame = self._source = None
        self._library_before = {name: sys.modules[name] for name in _library()}
        leaving = slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent
        self._leaving = self.scene.AddObserver(leaving, self._forget_item)
        self._provide()

    @staticmethod
    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _forget_item(scene: Any, _event: str, node: Any) -> None:
        """The application's subject hierarchy plugins take a node's item away with the node."""
        hierarchy = scene.GetSubjectHierarchyNode()
        item = hierarchy.GetItemByDataNode(node) if hierarchy is not None and hierarchy is not node else 0
        if item:
            hierarchy.RemoveItem(item, False, False)

    @classmethod
    def answer(cls, kind: str, question: str) -> str:
        cls.asked.append((kind, question))
        if not cls.answers or cls.answers[0][0] != kind:
            raise AssertionError(f"nobody answers: {kind}: {question}")
        return cls.answers.pop(0)[1]

    def loadModule(self, path: str | Path) -> Any:
        """Execute a module's file and set its widget up, as the application does when a module is opened."""
        self._source = Path(path)
        parent = types.SimpleNamespace(title="", categories=[], dependencies=[], contributors=[])
        name = self._source.stem
        spec = importlib.util.spec_from_file_location(name, self._source)
        self._module = importlib.util.module_from_spec(spec)
        sys.modules[name] = self._module
        spec.loader.exec_module(self._module)
        getattr(self._module, name)(parent)
        if not parent.title:
            raise AssertionError("the module has no title")
        self.frame = QtWidgets.QWidget()
        QtWidgets.QVBoxLayout(self.frame)
        widget_class = getattr(self._module, f"{name}Widget")
        widget_class._path, widget_class.moduleName = str(self._source), name
        self.widget = widget_class(QtObject(self.frame))
        self.widget.setup()
        module = types.SimpleNamespace(widgetRepresentation=lambda: types.SimpleNamespace(self=lambda: self.widget))
        setattr(slicer.modules, name.lower(), module)
        return self.widget

    def reload(self) -> None:
        self.widget.cleanup()
        self._drop_frame()
        self.loadModule(self._source)

    def process(self, seconds: float = 0.0, until: Callable[[], bool] = lambda: False) -> bool:
        """Run the event loop until `until` holds or the time is over; a slot's exception is raised here."""
        clock = QtCore.QElapsedTimer()
        clock.start()
        while True:
            self.application.processEvents(QtCore.QEventLoop.AllEvents, 20)
            if self.errors:
                raise self.errors.pop(0)
            if until():
                return True
            if clock.elapsed() >= 1000 * seconds:
                return False
            QtCore.QThread.msleep(2)

    def close(self) -> None:
        if self.widget is not None:
            self.widget.cleanup()
            self.widget = None
        self._drop_frame()
        if self._source is not None:
            sys.modules.pop(self._source.stem, None)
        for name in _library():  # as before a Reload, so that other tests meet the classes that they imported
            del sys.modules[name]
        sys.modules.update(self._library_before)
        self.connections.clear()
        if self.logics:
            self.scene.RemoveObserver(self._leaving)
            super().close()
        self._settings.cleanup()

    def _drop_frame(self) -> None:
        if self.frame is not None:
            for box in self.frame.findChildren(qMRMLNodeComboBox):
                box.setMRMLScene(None)
            self.frame.deleteLater()
            self.frame = None
            self.application.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)

    def _provide(self) -> None:
        sys.modules["qt"] = _QtModule("qt")
        sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule = _module_of(
            "slicer.ScriptedLoadableModule",
            ScriptedLoadableModule,
            ScriptedLoadableModuleWidget,
            ScriptedLoadableModuleLogic,
            ScriptedLoadableModuleTest,
        )
        sys.modules["slicer.parameterNodeWrapper"] = slicer.parameterNodeWrapper = _module_of(
            "slicer.parameterNodeWrapper", WithinRange, parameterNodeWrapper
        )
        slicer.util.loadUI, slicer.util.childWidgetVariables = loadUI, childWidgetVariables
        slicer.util.mainWindow = lambda verbose=True: None
        slicer.util.startupEnvironment = lambda: dict(os.environ)
        slicer.util.setSliceViewerLayers = self._set_layers
        slicer.qMRMLSegmentEditorWidget = lambda: QtObject(qMRMLSegmentEditorWidget())
        slicer.app.slicerUserSettingsFilePath = str(Path(self._settings.name) / "Slicer.ini")
        slicer.app.slicerHome = self._settings.name
        slicer.app.processEvents = self.application.processEvents
        dialogs = {"getExistingDirectory": "folder", "getOpenFileName": "open", "getSaveFileName": "save"}
        for name, kind in dialogs.items():
            self.statics["QFileDialog", name] = self._dialog(kind)
        self.statics["QApplication", "clipboard"] = lambda: QtObject(self.application.clipboard())

    def _dialog(self, kind: str) -> Callable[..., str]:
        return lambda _parent, title, *_more: self.answer(kind, title)

    def _set_layers(self, background: Any = None, fit: bool = False, **unknown: Any) -> None:
        if unknown:
            raise NotImplementedError(f"setSliceViewerLayers: {sorted(unknown)} is not modelled")
        for logic in self.sliceLogics.values():
            logic.GetSliceCompositeNode().SetBackgroundVolumeID(background.GetID())
            if fit:
                logic.FitSliceToAll()


def _library() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "ToNNOSlicerLib"]


def _module_of(name: str, *members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    for member in members:
        setattr(module, member.__name__, member)
    return module
