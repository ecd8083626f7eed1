"""Numbers formatted for reading. Standard library only."""

from __future__ import annotations

from slicer.i18n import tr as _


def timeText(seconds: float) -> str:
    """Return a duration as text with units.

    Args:
        seconds: Duration in seconds; negative values count as 0.

    Returns:
        Such as `25 s`, `3 min 20 s`, `2 h 5 min`.
    """
    seconds = max(0, round(seconds))
    if seconds < 100:
        return _("{s} s").format(s=seconds)
    if seconds < 6000:
        return _("{m} min {s} s").format(m=seconds // 60, s=seconds % 60)
    return _("{h} h {m} min").format(h=seconds // 3600, m=seconds % 3600 // 60)


def shortNumber(value: float) -> str:
    """Return a number with three significant digits.

    Args:
        value: Any number.

    Returns:
        Such as 0.0123, 4.57, 123, 4570.
    """
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text and abs(value) >= 1000 else text
