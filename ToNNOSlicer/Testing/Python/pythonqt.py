"""PythonQt's manners on PySide6: a property is an attribute and not a method, an unknown name raises.

`QtModule` is what the module's files import as ``qt``. Written from PythonQt's public documentation; what is not
modelled raises.
"""

from __future__ import annotations

import ctypes
import enum
import inspect
import os
import sys
import types
from collections.abc import Callable
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtWidgets

if sys.version_info < (3, 12):
    # PySide6 6.12 gives back one reference too many to None with each call of a void function, and to a bool with each
    # signal that carries it; where they are not immortal yet, the interpreter ends after some 100,000 of them. As later
    # Pythons do: so many that it never does.
    for constant in (None, True, False):
        ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40

_QT = (QtCore, QtGui, QtWidgets)
_SIGNAL = QtCore.QMetaMethod.MethodType.Signal

# What a test says to the next questions, first in first out, and the questions that were asked.
answers: list[tuple[str, str]] = []
asked: list[tuple[str, str]] = []
# Exceptions that escaped from slots.
errors: list[BaseException] = []
# Static functions that are not Qt's own here, by class and name.
statics: dict[tuple[str, str], Any] = {}


def answer(kind: str, question: str) -> str:
    """The next answer, which must be of this kind."""
    asked.append((kind, question))
    if not answers or answers[0][0] != kind:
        raise AssertionError(f"nobody answers: {kind}: {question}")
    return answers.pop(0)[1]


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
            errors.append(error)
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
        if (self._own.__name__, name) in statics:
            return statics[self._own.__name__, name]
        found = getattr(self._own, name)
        if callable(found) and not isinstance(found, (enum.Enum, type)):
            return lambda *arguments: wrap(found(*(unwrap(one) for one in arguments)))
        return found


class QtModule(types.ModuleType):
    """The module ``qt``: classes of QtCore, QtGui and QtWidgets. Their subclasses in Python are not modelled."""

    def __getattr__(self, name: str) -> Any:
        for module in _QT:
            found = getattr(module, name, None)
            if isinstance(found, type):
                return _Class({"QMessageBox": _MessageBox}.get(name, found))
        raise AttributeError(f"qt has no {name}")


class _MessageBox(QtWidgets.QMessageBox):
    """Answers itself: the button whose text the test has laid into `answers`."""

    def exec(self) -> int:
        wanted = answer("message", self.text())
        self._pressed = next((one for one in self.buttons() if one.text() == wanted), None)
        if self._pressed is None:
            raise AssertionError(f"no button {wanted!r} among {[one.text() for one in self.buttons()]}")
        return 0

    def clickedButton(self) -> QtWidgets.QAbstractButton:
        return self._pressed
