"""A stand-in for slicer.parameterNodeWrapper: typed choices over a node, connected with widgets both ways."""

from __future__ import annotations

import enum
import typing
from typing import Any

import slicer
import vtk
from pythonqt import QtObject

# Tag of `connectGui` to (node, observer, links).
connections: dict[int, Any] = {}


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
            tag = len(connections)
            connections[tag] = (self.parameterNode, observer, links)
            return tag

        def disconnectGui(self, tag: int) -> None:
            node, observer, links = connections.pop(tag)
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
