"""How texts and tables look: the application's own colors, so that a dark theme stays readable."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib.state import DONE, ERROR, NOTE

_LINE = 17  # height of a line of letters of the usual size, in pixels
_MARGINS = 12  # of a button, left and right of its text, in pixels
# Widgets that never have the focus themselves.
_COMPOUND = ("qMRMLNodeComboBox", "ctkSliderWidget")
# Hue of a kind of message; how light it is follows the theme.
_HUES = {ERROR: (200, 40, 40), NOTE: (200, 140, 0), DONE: (30, 140, 60)}


class Filling:
    """Keeps widgets quiet while they are filled: `with filling:`; what they signal then is not the user's wish."""

    def __init__(self) -> None:
        self._isOn = False

    def connect(self, widget, signal: str, call) -> None:
        """Connect a signal that counts only while nothing is filled.

        Args:
            widget: The widget.
            signal: Its signal.
            call: Called with the signal's arguments.
        """
        widget.connect(signal, lambda *values: None if self._isOn else call(*values))

    def __enter__(self) -> None:
        self._isOn = True

    def __exit__(self, *_error: object) -> None:
        self._isOn = False


def nameParts(widgets) -> None:
    """Give the parts of compound widgets, which have the focus in their place, names for screen readers.

    A part without a name of its own gets the widget's, or else the text of its label; and the widget's tooltip.

    Args:
        widgets: The panel's widgets by name: selectors of nodes, sliders and the like are found among them.
    """
    everything = list(vars(widgets).values())
    labels = [label for label in everything if label.className() == "QLabel" and label.buddy()]
    texts = {label.buddy().name: label.text for label in labels}
    for widget in everything:
        if widget.className() not in _COMPOUND:
            continue
        name = widget.accessibleName or texts.get(widget.name, "")
        for part in slicer.util.findChildren(widget):
            if hasattr(part, "focusPolicy") and part.focusPolicy & qt.Qt.TabFocus:
                part.accessibleName = part.accessibleName or name
                part.toolTip = part.toolTip or widget.toolTip


def setText(label, text: str, hideIfEmpty: bool = True) -> None:
    """Set a label's text, and hide it while it has none.

    Args:
        label: The widget.
        text: Of it.
        hideIfEmpty: Leave it visible otherwise.
    """
    if label.text != text:
        label.text = text
    if hideIfEmpty:
        label.visible = bool(text)


def fitButtons(widgets) -> None:
    """Keep buttons as wide as their texts, also with large letters and in languages with long words.

    Args:
        widgets: The panel's widgets by name.
    """
    for widget in vars(widgets).values():
        if widget.className() == "QPushButton":
            width = qt.QFontMetrics(widget.font).boundingRect(widget.text).width()
            widget.minimumWidth = max(widget.minimumWidth, width + _MARGINS)


def withKind(kind: str, text: str) -> str:
    """Say in a word what the frame's color says: not everybody sees it.

    Args:
        kind: ERROR, NOTE or DONE.
        text: What is said.

    Returns:
        The text, with a word before it; good news says itself that something is done.
    """
    words = {ERROR: _("Problem: {text}"), NOTE: _("Note: {text}"), DONE: "{text}"}
    return words[kind].format(text=text) if text else ""


def setKind(label, kind: str) -> None:
    """Frame a label as an error, a note or good news; its letters have the theme's color.

    Args:
        label: The widget.
        kind: ERROR, NOTE or DONE.
    """
    red, green, blue = _HUES[kind]
    tint = f"rgba({red}, {green}, {blue}"
    # Said here: with a style sheet a label keeps the letters' color of the theme before, when the theme changes.
    text = slicer.app.palette().color(qt.QPalette.WindowText).name()
    style = f"QLabel {{ color: {text}; background: {tint}, 40); border: 1px solid {tint}, 160); padding: 5px; }}"
    if label.styleSheet != style:
        label.styleSheet = style


def fitColumns(table, wide: int) -> None:
    """Make a table's columns as wide as their texts, but for one, and the table as high as large letters need.

    Args:
        table: The widget.
        wide: Number of the column that takes the room that the others leave.
    """
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    table.horizontalHeader().setSectionResizeMode(wide, qt.QHeaderView.Stretch)
    table.minimumHeight, table.maximumHeight = tall(table, table.minimumHeight), tall(table, table.maximumHeight)


def tall(widget, pixels: int) -> int:
    """Say how high something is for the letters of a widget.

    Args:
        widget: The widget.
        pixels: The height for letters of the usual size.

    Returns:
        Pixels, more of them where the letters are larger.
    """
    return round(pixels * max(1.0, qt.QFontMetrics(widget.font).height() / _LINE))


def fillTable(table, rows: list[tuple[str, ...]], tips: list[str] | None = None) -> None:
    """Replace the rows of a table.

    Args:
        table: The widget.
        rows: The texts of each row.
        tips: What hovering shows, by row; None: a cell's own text, for which its column may be too narrow.
    """
    table.setRowCount(len(rows))
    for row, texts in enumerate(rows):
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text if tips is None else tips[row])
            table.setItem(row, column, item)
