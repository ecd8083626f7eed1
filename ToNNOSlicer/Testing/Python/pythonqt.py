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
from functools import cache, partial
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import shiboken6
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
# Addresses that a browser would have been opened for.
opened: list[str] = []
# Static functions that are not Qt's own here, by class and name.
statics: dict[tuple[str, str], Any] = {}
# What is connected: by the sender's address the signal's name, its arguments, the receiver and what Qt calls.
_connected: dict[int, list[tuple[str, str, Callable[..., Any], Callable[..., Any]]]] = {}


def answer(kind: str, question: str) -> str:
    """The next answer, which must be of this kind."""
    asked.append((kind, question))
    if not answers or answers[0][0] != kind:
        raise AssertionError(f"nobody answers: {kind}: {question}")
    return answers.pop(0)[1]


def wrap(value: Any) -> Any:
    """What Python sees of a Qt value."""
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(wrap(part) for part in value)
    if isinstance(value, QtCore.QObject) or type(value).__module__.startswith("PySide6."):
        return kindOf(type(value))._of(value)
    return value


def unwrap(value: Any) -> Any:
    """What Qt sees of a Python value."""
    if isinstance(value, (QtObject, QtValue)):
        return object.__getattribute__(value, "_own")
    if isinstance(value, (list, tuple)) and not isinstance(value, enum.Enum):
        return type(value)(unwrap(part) for part in value)
    return value


class _Kind(type):
    """The type of a wrapped class: called it makes an object, its names are static functions and enumerations."""

    qt: type

    def __call__(cls, *arguments: Any) -> Any:
        return wrap(cls.qt(*(unwrap(part) for part in arguments)))

    def __getattr__(cls, name: str) -> Any:
        if (cls.__name__, name) in statics:
            return statics[cls.__name__, name]
        found = getattr(cls.qt, name)
        if callable(found) and not isinstance(found, (enum.Enum, type)):
            return lambda *arguments: wrap(found(*(unwrap(part) for part in arguments)))
        return found

    def _of(cls, own: Any) -> Any:
        wrapped = object.__new__(cls)
        object.__setattr__(wrapped, "_own", own)
        return wrapped


class QtValue(metaclass=_Kind):
    """A Qt value that is no QObject: methods only, and no unknown attribute."""

    __slots__ = ("_own",)
    qt = object

    def __getattr__(self, name: str) -> Any:
        return _method(object.__getattribute__(self, "_own"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(unwrap(self)).__name__} has no attribute {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QtValue) and bool(unwrap(self) == unwrap(other))

    def __hash__(self) -> int:
        return hash(unwrap(self))


class QtObject(metaclass=_Kind):
    """A QObject: properties are attributes, signals have connect, the rest are methods."""

    __slots__ = ("_own",)
    qt = QtCore.QObject

    def __getattr__(self, name: str) -> Any:
        own = object.__getattribute__(self, "_own")
        found = _property(own, name)
        if found is not None:
            return wrap(_plain(_read(own, name, found)))
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
        if _isOurs(own, name):  # what its setter raises is seen
            setattr(own, name, unwrap(value))
            return
        if found.isEnumType():  # PySide takes no numbers here, and PythonQt gives nothing else
            value = int(value.value if isinstance(value, enum.Enum) else value)
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

    def disconnect(self, signature: str, receiver: Callable[..., Any]) -> bool:
        """False where they were not connected."""
        return _disconnect(object.__getattribute__(self, "_own"), signature.partition("(")[0], receiver)

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

    def disconnect(self, receiver: Callable[..., Any]) -> bool:
        return _disconnect(self._own, self._name, receiver)

    def __call__(self, *arguments: Any) -> None:
        raise NotImplementedError("emitting a signal by calling it is not modelled")


def _connect(own: QtCore.QObject, name: str, arguments: str, receiver: Callable[..., Any]) -> None:
    count = len([part for part in arguments.split(",") if part])
    takes = _positional(receiver)
    if takes < count and takes not in (0, count):
        raise TypeError(f"{receiver} takes {takes} arguments, the signal {name} has {count}")
    slot = partial(_call, receiver, takes)
    _overload(own, name, arguments).connect(slot)
    address = shiboken6.getCppPointer(own)[0]
    if address not in _connected:
        own.destroyed.connect(lambda *_nothing: _connected.pop(address, None))
    _connected.setdefault(address, []).append((name, arguments, receiver, slot))


def _overload(own: QtCore.QObject, name: str, arguments: str) -> Any:
    signal = getattr(own, name)
    if arguments and len(_signals(own)[name]) > 1:
        return signal[tuple(_TYPES[part] for part in arguments.split(","))]
    return signal


def _call(receiver: Callable[..., Any], takes: int, *values: Any) -> None:
    try:
        receiver(*(wrap(value) for value in values[:takes]))
    except BaseException as error:  # Qt would print and go on; a test must see it
        errors.append(error)
        raise


def _disconnect(own: QtCore.QObject, name: str, receiver: Callable[..., Any]) -> bool:
    kept = _connected.get(shiboken6.getCppPointer(own)[0], [])
    for link in [link for link in kept if (link[0], link[2]) == (name, receiver)]:
        kept.remove(link)
        return bool(_overload(own, name, link[1]).disconnect(link[3]))
    return False


_TYPES = {"int": int, "bool": bool, "double": float, "QString": str, "vtkMRMLNode*": object, "vtkMRMLScene*": object}


def _positional(receiver: Callable[..., Any]) -> int:
    parameters = inspect.signature(receiver).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return 100
    return len([one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)])


def _property(own: QtCore.QObject, name: str) -> QtCore.QMetaProperty | None:
    meta = own.metaObject()
    index = meta.indexOfProperty("objectName" if name == "name" else name)  # as PythonQt maps it
    return meta.property(index) if index >= 0 else None


def _read(own: QtCore.QObject, name: str, found: QtCore.QMetaProperty) -> Any:
    """By its getter where Qt's types have no Python value of their own in a metaproperty."""
    if _isOurs(own, name):
        return getattr(own, name)
    value = found.read(own)
    getter = getattr(type(own), name, None)
    return getter(own) if value is None and callable(getter) else value


def _isOurs(own: QtCore.QObject, name: str) -> bool:
    """Whether a property is a stand-in's."""
    return isinstance(inspect.getattr_static(type(own), name, None), QtCore.Property)


def _signals(own: QtCore.QObject) -> dict[str, list[str]]:
    """Name to the argument lists, as ``(bool)``."""
    meta, found = own.metaObject(), {}
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == _SIGNAL:
            name, _bracket, rest = bytes(method.methodSignature().data()).decode().partition("(")
            rest = "(" + rest.replace("PyObject", getattr(own, "OBJECT", "vtkMRMLNode*"))
            found.setdefault(name, []).append(rest)
    return found


def _method(own: Any, name: str) -> Callable[..., Any]:
    if name.startswith("_"):
        raise AttributeError(name)
    name = {"exec_": "exec"}.get(name, name)
    found = getattr(own, name, None)
    if not callable(found) or name in getattr(own, "HELPERS", ()):  # what a stand-in has for tests is no slot
        raise AttributeError(f"{type(own).__name__} has no {name}")
    return lambda *arguments: wrap(_plain(found(*(unwrap(one) for one in arguments))))


def _plain(value: Any) -> Any:
    """PythonQt gives strings and numbers; enumerations are numbers."""
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, int) else value
    return value


@cache
def kindOf(qtClass: type) -> type:
    """The type that Python sees of a class of PySide's or a stand-in's; its bases are those of Qt's."""
    base = QtObject if issubclass(qtClass, QtCore.QObject) else QtValue
    if qtClass in (QtCore.QObject, object):
        return base
    parent = next(kind for kind in qtClass.__mro__[1:] if kind is object or kind.__module__.startswith("PySide6."))
    above = kindOf(parent) if issubclass(parent, QtCore.QObject) else base
    return _Kind(qtClass.__name__, (above,), {"__slots__": (), "qt": qtClass})


class QtModule(types.ModuleType):
    """The module ``qt``: classes of QtCore, QtGui and QtWidgets. Their subclasses in Python are not modelled."""

    def __getattr__(self, name: str) -> Any:
        for module in _QT:
            found = {"QMessageBox": QMessageBox}.get(name) or getattr(module, name, None)
            if isinstance(found, type):
                return kindOf(found)
        raise AttributeError(f"qt has no {name}")


class QMessageBox(QtWidgets.QMessageBox):
    """Answers itself: the button whose text the test has laid into `answers`."""

    def exec(self) -> int:
        expected = answer("message", self.text())
        self._pressed = next((button for button in self.buttons() if button.text() == expected), None)
        if self._pressed is None:
            raise AssertionError(f"no button {expected!r} among {[button.text() for button in self.buttons()]}")
        return _plain(self.standardButton(self._pressed))

    def clickedButton(self) -> QtWidgets.QAbstractButton:
        return self._pressed


def _askBox(_parent: Any, _title: str, text: str, *_more: Any) -> Any:
    """QMessageBox.question and its like wait for somebody. The answer is the name of a standard button."""
    return QtWidgets.QMessageBox.StandardButton[answer("message", text)]


def _askText(_parent: Any, _title: str, label: str, *_more: Any) -> str:
    return answer("text", label)


def _later(milliseconds: int, receiver: Callable[[], Any]) -> None:
    QtCore.QTimer.singleShot(milliseconds, partial(_call, receiver, 0))


def _open(url: QtValue) -> bool:
    opened.append(unwrap(url).toString())
    return True


for _name in ("question", "information", "warning", "critical", "about"):
    statics["QMessageBox", _name] = _askBox
statics["QInputDialog", "getText"] = _askText
statics["QTimer", "singleShot"] = _later
statics["QDesktopServices", "openUrl"] = _open
