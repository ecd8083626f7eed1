"""Stand-ins for CTK's widgets, and `loadUI`, which makes them and Slicer's own from the module's .ui file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import mrml_widgets
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from pythonqt import QtObject, wrap

_COLLAPSED_HEIGHT = 14  # below the title, in pixels
_UNLIMITED = 16777215  # Qt's maximum height


class _Folding:
    """Hides its children while it is folded, and remembers which of them were hidden for their own sake."""

    _forcing, _created = False, False

    def _fold(self, folded: bool) -> None:
        for child in self.children():
            self._fold_child(child)
        self.setMaximumHeight(self._title_height() + _COLLAPSED_HEIGHT if folded else _UNLIMITED)
        self.updateGeometry()

    def _fold_child(self, child: QtCore.QObject) -> None:
        if not child.isWidgetType() or not self.testAttribute(QtCore.Qt.WA_WState_Created):
            return
        explicit = child.property("visibilityToParent")
        self._forcing = True
        child.setVisible(not self._is_folded() and explicit is not False)
        if explicit is not False:
            child.setAttribute(QtCore.Qt.WA_WState_ExplicitShowHide, False)
        self._forcing = False

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        child = event.child()
        if event.type() == QtCore.QEvent.ChildAdded and child.isWidgetType():
            if child.testAttribute(QtCore.Qt.WA_WState_ExplicitShowHide) and child.isHidden():
                child.setProperty("visibilityToParent", False)
            child.installEventFilter(self)
            self._fold_child(child)
        super().childEvent(event)

    def setVisible(self, visible: bool) -> None:
        self._forcing = True  # what is shown or hidden with this widget is so for no sake of its own
        super().setVisible(visible)
        self._forcing = False
        if not self._created and self.testAttribute(QtCore.Qt.WA_WState_Created):
            self._created = True
            self._fold(self._is_folded())

    def eventFilter(self, child: QtCore.QObject, event: QtCore.QEvent) -> bool:
        shown = event.type() == QtCore.QEvent.ShowToParent
        if not self._forcing and (shown or event.type() == QtCore.QEvent.HideToParent):
            child.setProperty("visibilityToParent", shown)
            self._fold_child(child)
        return False


class ctkCollapsibleButton(_Folding, QtWidgets.QAbstractButton):
    """A title in the colors of a button; it is checked while its contents are shown."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.setBackgroundRole(QtGui.QPalette.Window)
        self.setSizePolicy(QtWidgets.QSizePolicy.Minimum, QtWidgets.QSizePolicy.Preferred)
        self.setContentsMargins(0, self._title_height(), 0, 0)
        self.toggled.connect(self._on_toggled)

    def sizeHint(self) -> QtCore.QSize:
        low = self._title_hint() + QtCore.QSize(0, _COLLAPSED_HEIGHT)
        return low if self._is_folded() else super().sizeHint().expandedTo(low)

    def minimumSizeHint(self) -> QtCore.QSize:
        return self.sizeHint() if self._is_folded() else super().minimumSizeHint().expandedTo(self._title_hint())

    def _title_hint(self) -> QtCore.QSize:
        return QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text()) + 40, self._title_height())

    def hitButton(self, place: QtCore.QPoint) -> bool:
        return place.y() < self._title_height()

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:
        painter, option = QtWidgets.QStylePainter(self), QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(self._title_height())
        painter.drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option)
        style = QtWidgets.QStyle
        arrow = style.PE_IndicatorArrowRight if self._is_folded() else style.PE_IndicatorArrowDown
        title = QtCore.QRect(option.rect)
        option.rect = QtCore.QRect(6, 0, 12, title.height())
        painter.drawPrimitive(arrow, option)
        aligned = QtCore.Qt.AlignLeft | QtCore.Qt.AlignVCenter | QtCore.Qt.TextHideMnemonic
        text = title.adjusted(24, 0, 0, 0)
        colors, role = self.palette(), QtGui.QPalette.ButtonText
        self.style().drawItemText(painter, text, aligned, colors, self.isEnabled(), self.text(), role)

    def _title_height(self) -> int:
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        size = QtCore.QSize(20, self.fontMetrics().height())
        return self.style().sizeFromContents(QtWidgets.QStyle.CT_PushButton, option, size, self).height()

    def _is_folded(self) -> bool:
        return not self.isChecked()

    def _on_toggled(self, shown: bool) -> None:
        self._fold(not shown)
        self.contentsCollapsed.emit(not shown)

    collapsed = QtCore.Property(bool, lambda self: self._is_folded(), lambda self, on: self.setChecked(not on))


class ctkCollapsibleGroupBox(_Folding, QtWidgets.QGroupBox):
    """A group box whose check mark shows and hides the contents."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.setCheckable(True)
        self.toggled.connect(lambda shown: self._fold(not shown))

    def _title_height(self) -> int:
        return self.fontMetrics().height()

    def _is_folded(self) -> bool:
        return not self.isChecked()

    collapsed = QtCore.Property(bool, lambda self: self._is_folded(), lambda self, on: self.setChecked(not on))


class ctkDoubleSpinBox(QtWidgets.QWidget):
    """A number that is shown with some decimals and kept with all; it has no text for a special value."""

    valueChanged = QtCore.Signal(float)
    decimalsChanged = QtCore.Signal(int)
    editingFinished = QtCore.Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._value, self._limits = 0.0, (0.0, 99.99)
        self._box = QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._on_box)
        self._box.editingFinished.connect(self.editingFinished)

    def setValue(self, value: float) -> None:
        value = min(max(value, self._limits[0]), self._limits[1])
        if value != self._value:
            self._value = value
            self._box.setValue(value)
            self.valueChanged.emit(value)

    def _on_box(self, shown: float) -> None:
        """Somebody typed, or the range moved the number; rounding does not count."""
        isShown = lambda value: round(value, self._box.decimals()) == shown  # noqa: E731
        if not isShown(self._value):
            self._value = next((limit for limit in self._limits if isShown(limit)), shown)
            self.valueChanged.emit(self._value)

    def setDecimals(self, count: int) -> None:
        self._box.setDecimals(count)
        self._box.setValue(self._value)
        self.decimalsChanged.emit(count)

    def setReadOnly(self, on: bool) -> None:
        self._box.setReadOnly(on)

    def stepUp(self) -> None:
        self._box.stepUp()

    def stepDown(self) -> None:
        self._box.stepDown()

    def _set_minimum(self, value: float) -> None:
        self._limits = (value, max(value, self._limits[1]))
        self._box.setRange(*self._limits)

    def _set_maximum(self, value: float) -> None:
        self._limits = (min(value, self._limits[0]), value)
        self._box.setRange(*self._limits)

    value = QtCore.Property(float, lambda self: self._value, setValue)
    decimals = QtCore.Property(int, lambda self: self._box.decimals(), setDecimals)
    readOnly = QtCore.Property(bool, lambda self: self._box.isReadOnly(), setReadOnly)
    minimum = QtCore.Property(float, lambda self: self._limits[0], _set_minimum)
    maximum = QtCore.Property(float, lambda self: self._limits[1], _set_maximum)
    singleStep = QtCore.Property(float, lambda self: self._box.singleStep(), lambda self, v: self._box.setSingleStep(v))
    prefix = QtCore.Property(str, lambda self: self._box.prefix(), lambda self, v: self._box.setPrefix(v))
    suffix = QtCore.Property(str, lambda self: self._box.suffix(), lambda self, v: self._box.setSuffix(v))


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a number.

    With tracking off, each change tells valueIsChanging; valueChanged follows at once where the value was set, and
    when the slider is let go where a hand moves it. Until then `value` is what it was.
    """

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)
    decimalsChanged = QtCore.Signal(int)
    HELPERS = ("drag",)
    _STEPS = 1000

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._at = self._before = 0.0
        self._tracking, self._dragged, self._blocked = True, False, False
        self._slider, self._number = QtWidgets.QSlider(QtCore.Qt.Horizontal), ctkDoubleSpinBox()
        self._slider.setObjectName("Slider")
        self._number.setObjectName("SpinBox")
        self._slider.setMaximum(self._STEPS)
        self._number.valueChanged.connect(self._on_number)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setObjectName("horizontalLayout")
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._number)

    def drag(self, values: list[float]) -> None:
        """What a hand does with the mouse: through the values, then let go."""
        self._before, self._dragged = self._at, not self._tracking
        for value in values:
            self._slide(value)
        self._dragged = False
        if not self._tracking and abs(self._at - self._before) > 1e-9 * self._number.singleStep:
            self.valueChanged.emit(self._at)

    def setValue(self, value: float) -> None:
        self._number.setValue(value)

    def reset(self) -> None:
        self.setValue(0.0)

    def setSpinBoxVisible(self, on: bool) -> None:
        self._number.setVisible(on)

    def setDecimals(self, count: int) -> None:
        self._number.setDecimals(count)
        self._moved()
        self.decimalsChanged.emit(count)

    def _on_number(self, value: float) -> None:
        if not self._blocked:
            self._slide(value)

    def _slide(self, value: float) -> None:
        value = min(max(value, self._number.minimum), self._number.maximum)
        if value != self._at:
            self._at = value
            self._moved()

    def _moved(self) -> None:
        with QtCore.QSignalBlocker(self._slider):
            low, span = self._number.minimum, (self._number.maximum - self._number.minimum) or 1.0
            self._slider.setValue(round(self._STEPS * (self._at - low) / span))
        self._blocked, blocked = True, self._blocked
        self._number.setValue(self._at)
        self._blocked = blocked
        if not self._tracking:
            self.valueIsChanging.emit(self._at)
        if not self._dragged:
            self.valueChanged.emit(self._at)

    def _limit(self, side: str, value: float) -> None:
        self._blocked, blocked = True, self._blocked
        setattr(self._number, side, value)
        self._blocked = blocked
        self._slide(self._at)

    def _set_step(self, step: float) -> None:
        span = self._number.maximum - self._number.minimum
        if span and not 0 < step <= span:
            raise ValueError(f"a step of {step} is outside of the range {span}, and CTK would leave the old one")
        self._number.singleStep = step

    def _set_tracking(self, on: bool) -> None:
        self._tracking = on

    value = QtCore.Property(float, lambda self: self._before if self._dragged else self._at, setValue)
    minimum = QtCore.Property(float, lambda self: self._number.minimum, lambda self, v: self._limit("minimum", v))
    maximum = QtCore.Property(float, lambda self: self._number.maximum, lambda self, v: self._limit("maximum", v))
    singleStep = QtCore.Property(float, lambda self: self._number.singleStep, _set_step)
    decimals = QtCore.Property(int, lambda self: self._number.decimals, setDecimals)
    prefix = QtCore.Property(str, lambda self: self._number.prefix, lambda self, v: setattr(self._number, "prefix", v))
    suffix = QtCore.Property(str, lambda self: self._number.suffix, lambda self, v: setattr(self._number, "suffix", v))
    tracking = QtCore.Property(bool, lambda self: self._tracking, _set_tracking)
    spinBoxVisible = QtCore.Property(bool, lambda self: not self._number.isHidden(), setSpinBoxVisible)


CTK = {
    kind.__name__: kind for kind in (ctkCollapsibleButton, ctkCollapsibleGroupBox, ctkDoubleSpinBox, ctkSliderWidget)
}


class _Loader(QtUiTools.QUiLoader):
    """Makes the custom widgets of a .ui file; a class that is not modelled raises."""

    CUSTOM: ClassVar[dict[str, type]] = {**CTK, **mrml_widgets.MRML}

    def createWidget(self, name: str, parent: Any = None, objectName: str = "") -> QtWidgets.QWidget:
        if name in self.CUSTOM:
            widget = self.CUSTOM[name](parent)
            widget.setObjectName(objectName)
            return widget
        if name not in self.availableWidgets():
            raise NotImplementedError(f"the widget {name} is not modelled")
        return super().createWidget(name, parent, objectName)


def loadUI(path: str | Path) -> QtObject:
    """As slicer.util.loadUI. The file's connections, whose types only Slicer knows, are made here."""
    if not Path(path).is_file():
        raise RuntimeError(f"Could not load UI file: file not found {path}")
    tree = ElementTree.fromstring(Path(path).read_text(encoding="utf-8"))
    connections = tree.find("connections")
    links = [] if connections is None else [[part.text for part in link] for link in connections]
    if connections is not None:
        tree.remove(connections)
    buffer = QtCore.QBuffer()
    buffer.setData(ElementTree.tostring(tree))
    buffer.open(QtCore.QIODevice.ReadOnly)
    widget = _Loader().load(buffer)
    for sender, signal, receiver, slot in links:
        if (sender, signal, slot) != (
            widget.objectName(),
            "mrmlSceneChanged(vtkMRMLScene*)",
            "setMRMLScene(vtkMRMLScene*)",
        ):
            raise NotImplementedError(f"the connection of {signal} with {slot} is not modelled")
        widget.mrmlSceneChanged.connect(widget.findChild(QtWidgets.QWidget, receiver).setMRMLScene)
    return wrap(widget)
