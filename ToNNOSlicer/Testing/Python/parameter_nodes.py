"""A stand-in for slicer.parameterNodeWrapper: typed choices over a node, connected with widgets both ways.

As Slicer's: a wrapper writes each default that the node lacks and reads every value when it is made, so a value that
it does not know raises there; it observes the node for as long as it lives, which is for ever once it was connected
with widgets (Slicer 5.10 keeps that observer); a number without a range opens its widget's.
"""

from __future__ import annotations

import enum
import itertools
import typing
import weakref
from typing import Any

import slicer
import vtk
from node_selector import qMRMLNodeComboBox
from pythonqt import QtModule, kindOf
from qt_widgets import ctkDoubleSpinBox, ctkSliderWidget

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1
_qt = QtModule("qt")
_wrappers: weakref.WeakSet[Any] = weakref.WeakSet()


def observers(node: Any) -> int:
    """How many wrappers of a node live, and so follow each of its changes."""
    node = getattr(node, "parameterNode", node)
    return len([wrapper for wrapper in _wrappers if wrapper.parameterNode is node])


class WithinRange:
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: float) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum:
    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: float) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be greater than {self.minimum}, is {value}")


class Maximum:
    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: float) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be lower than {self.maximum}, is {value}")


class _Parameter:
    """One parameter: its type, its default, how it is written as text. Ranges hold for what is written, not read."""

    def __init__(self, name: str, annotated: Any, default: Any) -> None:
        self.name = name
        kind = typing.get_args(annotated)[0] if typing.get_origin(annotated) is typing.Annotated else annotated
        self.validators = list(getattr(annotated, "__metadata__", ()))
        unknown = [one for one in self.validators if not isinstance(one, (WithinRange, Minimum, Maximum))]
        self.isNode = isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)
        self.isEnum = isinstance(kind, type) and issubclass(kind, enum.Enum)
        if unknown or not (self.isNode or self.isEnum or kind in (int, float, str, bool)):
            raise NotImplementedError(f"a parameter of type {annotated} is not modelled")
        self.kind = kind
        if default is None and not self.isNode:
            default = next(iter(kind)) if self.isEnum else kind()
        self.default = default

    def limit(self, side: str) -> float | None:
        """The parameter's `minimum` or `maximum`."""
        return next((getattr(one, side) for one in self.validators if hasattr(one, side)), None)

    def isIn(self, node: Any) -> bool:
        return bool(node.HasParameter(self.name))

    def read(self, node: Any) -> Any:
        """Of a node that has lost its parameters (its scene has closed) the default, which is written."""
        if not self.isIn(node):
            self.write(node, self.default)
        if self.isNode:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.isEnum:
            if text not in self.kind.__members__:
                raise ValueError(f"Found {text!r} in parameter node but it is not a name in {self.kind!r}")
            return self.kind[text]
        return text == "True" if self.kind is bool else self.kind(text)

    def write(self, node: Any, value: Any) -> None:
        self._validate(value)
        if self.isNode:
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        node.SetParameter(self.name, value.name if self.isEnum else str(value))

    def _validate(self, value: Any) -> None:
        accepted = (int, float) if self.kind is float else self.kind
        if value is None and not self.isNode:
            raise ValueError(f"{self.name}: Value must not be None")
        if value is not None and not isinstance(value, accepted):
            raise TypeError(f"{self.name}: Value must be of type {self.kind}, is {value!r}")
        if isinstance(value, bool) and self.kind is not bool:  # stricter than Slicer's
            raise TypeError(f"{self.name}: Value must be of type {self.kind}, is {value!r}")
        for validator in self.validators:
            validator.validate(value)


def parameterNodeWrapper(cls: type) -> type:
    """Typed attributes over a vtkMRMLScriptedModuleNode; an attribute that was not declared raises."""
    # By the values, not the names: the module uses no string annotations that could not be resolved.
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, kind, getattr(cls, name, None)) for name, kind in hints.items()}
    return type(cls.__name__, (_Wrapper,), {"__slots__": (), "_parameters": parameters, "__doc__": cls.__doc__})


class _Wrapper:
    __slots__ = ("__weakref__", "_connections", "_isUpdating", "_observer", "_tags", "_values", "parameterNode")
    _parameters: typing.ClassVar[dict[str, _Parameter]] = {}

    def __init__(self, node: Any) -> None:
        for parameter in self._parameters.values():
            if not parameter.isIn(node):
                parameter.write(node, parameter.default)
        self._set(parameterNode=node, _connections={}, _tags=itertools.count(), _isUpdating=False, _values={})
        self._readAll()
        me = weakref.ref(self)
        changed = vtk.vtkCommand.ModifiedEvent
        self._set(_observer=node.AddObserver(changed, lambda _caller, _event: me() and me()._readAll()))
        _wrappers.add(self)

    def __del__(self) -> None:
        if hasattr(self, "_observer"):
            self.parameterNode.RemoveObserver(self._observer)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _readAll(self) -> None:
        self._values.update({name: one.read(self.parameterNode) for name, one in self._parameters.items()})

    def __getattr__(self, name: str) -> Any:
        if name in self._parameters:
            return self._values[name]
        if name in ("AddObserver", "RemoveObserver", "Modified", "StartModify", "EndModify"):
            return getattr(self.parameterNode, name)
        raise AttributeError(f"{type(self).__name__} has no parameter {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._parameters:
            raise AttributeError(f"{type(self).__name__} has no parameter {name}")
        wasModifying = self.parameterNode.StartModify()
        try:
            self._parameters[name].write(self.parameterNode, value)
            self._values[name] = self._parameters[name].read(self.parameterNode)
        finally:
            self.parameterNode.EndModify(wasModifying)

    def connectGui(self, ui: Any) -> int:
        """Both ways, for each widget with the property SlicerParameterName."""
        named = {widget.property("SlicerParameterName"): widget for widget in vars(ui).values()}
        links = {}
        for name, widget in named.items():
            if name:
                if name not in self._parameters:
                    raise ValueError(f"Cannot find a param with the given name: {name}")
                links[name] = _Link(self, self._parameters[name], widget)
        tag = next(self._tags)
        self._connections[tag] = links
        for name, link in links.items():
            link.write(getattr(self, name))
            link.connect()
        self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: self._updateGui())
        return tag

    def disconnectGui(self, tag: int) -> None:
        for link in self._connections.pop(tag).values():
            link.disconnect()

    def _updateGui(self) -> None:
        if self._isUpdating:
            return
        self._set(_isUpdating=True)
        wasModifying = self.parameterNode.StartModify()
        try:
            for links in self._connections.values():
                for name, link in links.items():
                    link.write(getattr(self, name))
        finally:
            self.parameterNode.EndModify(wasModifying)
            self._set(_isUpdating=False)


class _Link:
    """A parameter and a widget of an exact class."""

    # class: signal
    SIGNALS: typing.ClassVar[dict[type, str]] = {
        _qt.QCheckBox: "stateChanged",
        _qt.QPushButton: "toggled",
        _qt.QSpinBox: "valueChanged",
        _qt.QDoubleSpinBox: "valueChanged",
        _qt.QComboBox: "currentIndexChanged",
        _qt.QLineEdit: "textChanged",
        kindOf(ctkSliderWidget): "valueChanged",
        kindOf(ctkDoubleSpinBox): "valueChanged",
        kindOf(qMRMLNodeComboBox): "currentNodeChanged",
    }
    OF: typing.ClassVar[dict[type, tuple[type, ...]]] = {
        bool: (_qt.QCheckBox, _qt.QPushButton),
        int: (_qt.QSpinBox, _qt.QDoubleSpinBox, kindOf(ctkSliderWidget), kindOf(ctkDoubleSpinBox)),
        float: (_qt.QDoubleSpinBox, kindOf(ctkSliderWidget), kindOf(ctkDoubleSpinBox)),
        str: (_qt.QLineEdit,),
    }

    def __init__(self, wrapper: _Wrapper, parameter: _Parameter, widget: Any) -> None:
        self.wrapper, self.parameter, self.widget = wrapper, parameter, widget
        kinds = (kindOf(qMRMLNodeComboBox),) if parameter.isNode else self.OF.get(parameter.kind, (_qt.QComboBox,))
        if type(widget) not in kinds:
            raise RuntimeError(f"Unable to create GUI connector from {parameter.kind} to {type(widget)}")
        if parameter.isNode:
            widget.nodeTypes = [parameter.kind.__name__]
        elif parameter.isEnum:
            kept = widget.currentIndex
            widget.clear()
            for member in parameter.kind:
                widget.addItem(member.label() if hasattr(member, "label") else member.name)
            widget.currentIndex = kept if kept >= 0 else widget.count - 1
        elif parameter.kind in (int, float):
            self._open()
        self._signal = getattr(widget, self.SIGNALS[type(widget)])

    def _open(self) -> None:
        """The parameter's range; where it has none, all that there is."""
        widget, low, high = self.widget, self.parameter.limit("minimum"), self.parameter.limit("maximum")
        if type(widget) is kindOf(ctkSliderWidget) and None in (low, high):
            raise RuntimeError(f"Cannot have a connection to ctkSliderWidget: {self.parameter.name} is unbounded")
        if type(widget) is not _qt.QSpinBox and self.parameter.kind is int:
            widget.decimals = 0
        isWhole = type(widget) is _qt.QSpinBox
        widget.minimum = low if low is not None else _LOWEST if isWhole else float("-inf")
        widget.maximum = high if high is not None else _HIGHEST if isWhole else float("inf")

    def connect(self) -> None:
        self._signal.connect(self._changed)

    def disconnect(self) -> None:
        self._signal.disconnect(self._changed)

    def _changed(self) -> None:
        if not self.wrapper._isUpdating:
            setattr(self.wrapper, self.parameter.name, self._read())

    def _read(self) -> Any:
        if self.parameter.isNode:
            return self.widget.currentNode()
        if self.parameter.isEnum:
            return list(self.parameter.kind)[self.widget.currentIndex]
        if self.parameter.kind is bool:
            return self.widget.checked
        if self.parameter.kind is str:
            return self.widget.text
        return self.parameter.kind(self.widget.value)

    def write(self, value: Any) -> None:
        if self.parameter.isNode:
            self.widget.setCurrentNode(value)
        elif self.parameter.isEnum:
            self.widget.currentIndex = list(self.parameter.kind).index(value)
        elif self.parameter.kind is bool:
            self.widget.checked = value
        elif self.parameter.kind is str:
            if self.widget.text != value:
                self.widget.text = value
        else:
            self.widget.value = value
