"""How texts and tables look: the application's own colors, so that a dark theme stays readable."""

from __future__ import annotations

import qt
import slicer

from ToNNOSlicerLib.state import DONE, ERROR, NOTE

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
    """Make a table's columns as wide as their texts, but for one.

    Args:
        table: The widget.
        wide: Number of the column that takes the room that the others leave.
    """
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    table.horizontalHeader().setSectionResizeMode(wide, qt.QHeaderView.Stretch)


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
