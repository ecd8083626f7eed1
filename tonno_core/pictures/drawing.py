"""What all pictures share: colours, contours, and a file that appears whole or not at all."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tonno_core.errors import TonnoError
from tonno_core.pictures.cuts import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

DPI = 110
CONTOURS = (("#3dff9e", "solid"), ("#ff5cf4", (0, (4, 2.5))))  # segmentation, truth
MARK, CURVE, QUIET = "#ffd54a", "#8ec9ff", "#9aa1ab"
_COLD_HOT = (
    (0.0, "#c8f6ff"), (0.25, "#35a5ff"), (0.49, "#2f62ff"),
    (0.51, "#ff3526"), (0.75, "#ff7f1a"), (1.0, "#ffe070"),
)  # fmt: skip
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 11,
    "text.color": "#e8eaed",
    "text.usetex": False,
    "text.parse_math": False,  # a title with a dollar sign is not a formula
    "axes.labelcolor": "#c4c9d0",
    "axes.edgecolor": "#4a5058",
    "axes.facecolor": "#0e1116",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "figure.facecolor": "black",
    "savefig.facecolor": "black",
}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG; the file appears whole or not at all. Raises TonnoError where it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, format="png", dpi=DPI)
        partial.replace(path)
    except OSError as error:
        raise TonnoError(f"{path}: cannot write the picture ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def cold_hot() -> Colormap:
    """Blue below zero, orange above; as opaque as the value is large, so that the anatomy stays visible."""
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    values = np.linspace(0, 1, 511)
    colours = LinearSegmentedColormap.from_list("cold-hot", _COLD_HOT, N=values.size)(values)
    colours[:, 3] = 0.9 * np.abs(2 * values - 1) ** 1.3
    return ListedColormap(colours)


def outlined(axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], **options: Any) -> None:
    """Text that can be read on black and on white, offset (typographic points) from a point."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=3, foreground="black")]
    axes.annotate(text, point, offset, textcoords="offset points", va="center", path_effects=outline, **options)


def finite(planes: Sequence[Float]) -> Float:
    return np.concatenate([plane[np.isfinite(plane)] for plane in planes])


def shorten(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" \N{HORIZONTAL ELLIPSIS}")
