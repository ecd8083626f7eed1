"""Two small drawings for the panel: the heatmap's histogram and the logits along a normal."""

from __future__ import annotations

import itertools
import math

import qt
from slicer.i18n import tr as _

_BACK, _BARS, _ABOVE, _LINE = "#ffffff", "#b9c4d0", "#e0562d", "#2f62a8"
_MODEL, _FLOOR, _NOW, _TEXT = "#1d7a3c", "#888888", "#e0562d", "#444444"
_MARGIN = 6


def histogramPixmap(edges, counts, threshold, modelThreshold, noiseFloor, width, height):
    """Bars on a logarithmic scale; those from the threshold on are coloured, marks show the model's and the noise."""
    pixmap, painter = _canvas(width, height)
    try:
        low, high = float(edges[0]), float(edges[-1])
        span = (high - low) or 1.0
        left, right, base = _MARGIN, width - _MARGIN, height - 16
        place = lambda value: int(left + (right - left) * min(max((value - low) / span, 0.0), 1.0))  # noqa: E731
        most = math.log1p(max(1.0, float(max(counts))))
        for n, count in enumerate(counts):
            if count:
                x, end = place(edges[n]), max(place(edges[n + 1]), place(edges[n]) + 1)
                tall = max(1, int((base - 14) * math.log1p(float(count)) / most))
                painter.fillRect(x, base - tall, end - x, tall, qt.QColor(_ABOVE if edges[n] >= threshold else _BARS))
        for value, colour, name in ((noiseFloor, _FLOOR, _("noise")), (modelThreshold, _MODEL, _("model"))):
            if value is not None and low <= value <= high:
                _mark(painter, place(value), base, colour, name, width)
        _mark(painter, place(threshold), base, _NOW, "", width)
        painter.setPen(qt.QColor(_TEXT))
        painter.drawText(left, height - 4, f"{low:.3g}")
        painter.drawText(right - 40, height - 4, f"{high:.3g}")
    finally:
        painter.end()
    return pixmap


def profilePixmap(positionsMm, logits, currentMm, width, height):
    """The logits against the planes' positions in mm, zero dashed, the current plane marked."""
    pixmap, painter = _canvas(width, height)
    try:
        points = [(float(x), float(y)) for x, y in zip(positionsMm, logits, strict=True) if math.isfinite(y)]
        left, right, top, base = 38, width - _MARGIN, 8, height - 18
        lowX, highX = points[0][0], points[-1][0]
        lowY, highY = min(0.0, *(y for _x, y in points)), max(0.0, *(y for _x, y in points))
        px = lambda x: int(left + (right - left) * (x - lowX) / ((highX - lowX) or 1.0))  # noqa: E731
        py = lambda y: int(base - (base - top) * (y - lowY) / ((highY - lowY) or 1.0))  # noqa: E731
        painter.setPen(qt.QColor(_FLOOR))
        painter.drawLine(left, py(0.0), right, py(0.0))
        painter.setPen(qt.QColor(_LINE))
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            painter.drawLine(px(x0), py(y0), px(x1), py(y1))
        if currentMm is not None and lowX <= currentMm <= highX:
            painter.setPen(qt.QColor(_NOW))
            painter.drawLine(px(currentMm), top, px(currentMm), base)
        painter.setPen(qt.QColor(_TEXT))
        painter.drawText(2, top + 8, f"{highY:.3g}")
        painter.drawText(2, base, f"{lowY:.3g}")
        painter.drawText(left, height - 4, f"{lowX:.0f} mm")
        painter.drawText(right - 50, height - 4, f"{highX:.0f} mm")
    finally:
        painter.end()
    return pixmap


def _canvas(width, height):
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(qt.QColor(_BACK))
    return pixmap, qt.QPainter(pixmap)


def _mark(painter, x, base, colour, name, width):
    painter.setPen(qt.QColor(colour))
    painter.drawLine(x, 2, x, base)
    if name:
        painter.drawText(min(x + 3, width - 40), 11, name)
