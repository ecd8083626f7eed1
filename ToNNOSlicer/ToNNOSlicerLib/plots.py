"""Two small drawings for the panel: the heatmap's histogram and the classifier's answers along a normal.

Paper and letters have the theme's colors; the colors of the marks are readable on light and dark.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

from ToNNOSlicerLib.words import shortNumber

_BARS, _ABOVE, _CURVE = "#8a97a6", "#e0562d", "#3f7fd0"
_MODEL, _FLOOR, _NOW = "#2a9d55", "#9a8f00", "#e0562d"
_GAP = 4


@dataclass(frozen=True)
class Canvas:
    """A drawing surface: its size and the colors of its widget.

    Attributes:
        width: Pixels.
        height: Pixels.
        palette: The QPalette of the widget that shows the drawing.
    """

    width: int
    height: int
    palette: Any


def histogramPixmap(edges, counts, threshold: float, modelThreshold, noiseFloor, canvas: Canvas):
    """Draw voxels by value on a logarithmic scale; those from the threshold on in color.

    Args:
        edges: Edges of the bins, in rising order; one more than there are bins.
        counts: Voxels in each bin.
        threshold: The threshold in use.
        modelThreshold: The model's default threshold; None if it has none.
        noiseFloor: The noise floor measured on negative scans; None if unknown.
        canvas: What is drawn on.

    Returns:
        The pixmap.
    """
    with _Drawing(canvas) as drawing:
        low, high = float(edges[0]), max(float(edges[-1]), threshold)
        drawing.frame(left=_GAP, right=_GAP, top=drawing.line + 2, bottom=drawing.line + 2)
        drawing.scale(low, high, 0.0, math.log1p(max(1.0, float(max(counts)))))
        for start, end, count in zip(edges[:-1], edges[1:], counts, strict=True):
            if count:
                drawing.bar(float(start), float(end), math.log1p(float(count)), _ABOVE if start >= threshold else _BARS)
        drawing.axis(shortNumber(low), _("value of the heatmap"), shortNumber(high))
        taken: list[tuple[int, int]] = []
        drawing.mark(threshold, _NOW, _("threshold {value}").format(value=shortNumber(threshold)), taken)
        for value, color, name, dashes in (
            (modelThreshold, _MODEL, _("model's"), qt.Qt.DashLine),
            (noiseFloor, _FLOOR, _("noise"), qt.Qt.DotLine),
        ):
            if value is not None and low <= value <= high:
                drawing.mark(value, color, name, taken, dashes)
    return drawing.pixmap


def profilePixmap(positionsMm, logits, currentMm, canvas: Canvas):
    """Draw the classifier's logits against the planes' positions; zero is dashed, the current plane marked.

    Args:
        positionsMm: Positions of the planes along the normal, in mm.
        logits: The classifier's logit for each plane.
        currentMm: Position of the plane shown, in mm; None if no plane is shown.
        canvas: What is drawn on.

    Returns:
        The pixmap.
    """
    with _Drawing(canvas) as drawing:
        points = [(float(x), float(y)) for x, y in zip(positionsMm, logits, strict=True) if math.isfinite(y)]
        lowY, highY = min(0.0, *(y for _x, y in points)), max(0.0, *(y for _x, y in points))
        labels = [shortNumber(value) for value in (highY, 0.0, lowY)]
        left = max(drawing.widthOf(text) for text in labels) + 2 * _GAP
        drawing.frame(left=left, right=_GAP, top=drawing.line * 3 // 2, bottom=drawing.line + 2)
        drawing.scale(points[0][0], points[-1][0], lowY, highY)
        rows: list[int] = []
        for value, text in dict(zip((highY, 0.0, lowY), labels, strict=True)).items():
            drawing.tick(value, text, rows)
        drawing.caption(_("answer (logit)"))
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            drawing.segment(x0, y0, x1, y1, _CURVE)
        drawing.axis(f"{points[0][0]:.0f} mm", _("position of the plane"), f"{points[-1][0]:.0f} mm")
        if currentMm is not None and points[0][0] <= currentMm <= points[-1][0]:
            drawing.mark(currentMm, _NOW, "", [])
    return drawing.pixmap


class _Drawing:
    """A pixmap with a painter, a frame for the data, and the theme's letters."""

    def __init__(self, canvas: Canvas) -> None:
        self.width, self.height = canvas.width, canvas.height
        self.pixmap = qt.QPixmap(canvas.width, canvas.height)
        self.pixmap.fill(canvas.palette.color(qt.QPalette.Base))
        self._text = canvas.palette.color(qt.QPalette.Text)
        self._painter = qt.QPainter(self.pixmap)
        self._metrics = self._painter.fontMetrics()
        self.line = self._metrics.height()

    def __enter__(self) -> _Drawing:
        return self

    def __exit__(self, *_error: object) -> None:
        self._painter.end()

    def widthOf(self, text: str) -> int:
        return self._metrics.boundingRect(text).width() + 2

    def frame(self, left: int, right: int, top: int, bottom: int) -> None:
        """Set the margins around the data, in pixels."""
        self._left, self._right = left, self.width - right
        self._top, self._base = top, self.height - bottom

    def scale(self, lowX: float, highX: float, lowY: float, highY: float) -> None:
        """Set the values at the sides of the frame."""
        self._lowX, self._spanX = lowX, (highX - lowX) or 1.0
        self._lowY, self._spanY = lowY, (highY - lowY) or 1.0

    def bar(self, start: float, end: float, tall: float, color: str) -> None:
        x, y = self._x(start), self._y(tall)
        self._painter.fillRect(x, y, max(self._x(end) - x, 1), max(self._base - y, 1), qt.QColor(color))

    def segment(self, x0: float, y0: float, x1: float, y1: float, color: str) -> None:
        self._painter.setPen(qt.QColor(color))
        self._painter.drawLine(self._x(x0), self._y(y0), self._x(x1), self._y(y1))

    def tick(self, value: float, text: str, taken: list[int]) -> None:
        """Draw a dotted line, and its number on the left if it overlaps none of those in `taken`."""
        y = self._y(value)
        pen = qt.QPen(qt.QColor(_BARS))
        pen.setStyle(qt.Qt.DotLine)
        self._painter.setPen(pen)
        self._painter.drawLine(self._left, y, self._right, y)
        row = min(max(y + self.line // 3, self._top + self.line // 3), self._base)
        if all(abs(row - other) >= self.line for other in taken):
            self._painter.setPen(self._text)
            self._painter.drawText(_GAP, row, text)
            taken.append(row)

    def caption(self, text: str) -> None:
        """Write the name of the vertical axis above it."""
        self._painter.setPen(self._text)
        self._painter.drawText(_GAP, self.line - 2, text)

    def axis(self, low: str, name: str, high: str) -> None:
        """Draw the horizontal axis with the values at its ends and its name."""
        self._painter.setPen(self._text)
        self._painter.drawLine(self._left, self._base, self._right, self._base)
        y = self.height - 4
        self._painter.drawText(self._left, y, low)
        self._painter.drawText((self._left + self._right - self.widthOf(name)) // 2, y, name)
        self._painter.drawText(self._right - self.widthOf(high), y, high)

    def mark(
        self, value: float, color: str, name: str, taken: list[tuple[int, int]], dashes: Any = qt.Qt.SolidLine
    ) -> None:
        """Draw a vertical line, and its name above it if there is room beside those in `taken`."""
        x = self._x(value)
        pen = qt.QPen(qt.QColor(color))
        pen.setWidth(2)
        pen.setStyle(dashes)
        self._painter.setPen(pen)
        self._painter.drawLine(x, self._top, x, self._base)
        self._painter.setPen(self._text)
        wide = self.widthOf(name)
        for start in (x - wide // 2, x + _GAP, x - wide - _GAP):
            start = min(max(start, 0), self.width - wide)
            if name and all(start + wide < low or start > high for low, high in taken):
                self._painter.drawText(start, self.line - 2, name)
                taken.append((start, start + wide))
                return

    def _x(self, value: float) -> int:
        share = min(max((value - self._lowX) / self._spanX, 0.0), 1.0)
        return int(self._left + (self._right - self._left) * share)

    def _y(self, value: float) -> int:
        return int(self._base - (self._base - self._top) * (value - self._lowY) / self._spanY)
