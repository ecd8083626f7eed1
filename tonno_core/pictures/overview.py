"""One picture that tells a reader what was found and where: three planes, the overlay, the logit profiles.

Planes lie in the patient (RAS), not in the voxel grid, so an oblique scan shows upright.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tonno_core.pictures.cuts import PLANES, Cut, Float, cut_plane, sample
from tonno_core.pictures.drawing import (
    CURVE,
    DPI,
    MARK,
    QUIET,
    STYLE,
    PlaneLayers,
    Scene,
    column_sizes,
    draw_plane,
    draw_profile,
    draw_scale,
    outline_handles,
    plane_layers,
    save_figure,
    shorten,
)
from tonno_core.segmentation.binarize import components, covered
from tonno_core.slicing.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_WIDTH_INCHES = 16.0  # 1760 pixels wide
_TALLEST_INCHES = 7.0
_LETTERS = 13.0  # typographic points


def write_overview(
    path: str | os.PathLike[str],
    scene: Scene,
    *,
    title: str,
    subtitle: str = "",
    profiles: Sequence[Profile] = (),
    centre_ras: npt.ArrayLike | None = None,
) -> None:
    """Write a PNG: the image, heatmap and outlines over it, and the profile along each plane's normal.

    Args:
        path: The file; it appears whole or not at all, 1760 pixels wide.
        scene: Image, heatmap and masks.
        title: The heading.
        subtitle: A line below it.
        profiles: Along "R", "A" or "S"; where there is none its place stays empty.
        centre_ras: Where the three planes meet (RAS mm, inside the image and the heatmap); None takes the peak of
            the mask's highest component, or of the heatmap where the mask is empty.

    Raises:
        TonnoError: The file cannot be written.
        ValueError: A mask on another grid, a centre outside, or a profile along another axis.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = _figure(scene, title, subtitle, profiles, centre_ras)
        save_figure(figure, Path(path))


def overview(scene: Scene, *, title: str, subtitle: str = "", profiles: Sequence[Profile] = ()) -> Image:
    """Draw what `write_overview` writes.

    Args:
        scene: Image, heatmap and masks.
        title: The heading.
        subtitle: A line below it.
        profiles: Along "R", "A" or "S".

    Returns:
        The picture, 1760 pixels wide.
    """
    import matplotlib
    from PIL import Image

    drawn = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        _figure(scene, title, subtitle, profiles, None).savefig(drawn, format="png", dpi=DPI)
    picture = Image.open(drawn)
    picture.load()
    return picture


def _figure(
    scene: Scene, title: str, subtitle: str, profiles: Sequence[Profile], centre_ras: npt.ArrayLike | None
) -> Figure:
    image, heatmap = scene.image, scene.heatmap
    if any(mask is not None and mask.shape != heatmap.array.shape for mask in (scene.mask, scene.truth)):
        raise ValueError(f"masks are expected on the heatmap's grid, of shape {heatmap.array.shape}")
    centre = _peak_ras(scene) if centre_ras is None else np.asarray(centre_ras, np.float64)
    for volume in (image, heatmap):
        if np.isnan(sample(volume.array, volume.ijk_to_ras, centre[np.newaxis])).any():
            raise ValueError(f"planes through {centre.tolist()} mm, outside the image or the heatmap")
    cuts = [cut_plane(plane, image, centre) for plane in PLANES]
    by_axis = {profile.axis: profile for profile in profiles}
    if not by_axis.keys() <= {"R", "A", "S"}:
        raise ValueError(f"profiles along {sorted(by_axis)}, expected 'R', 'A' or 'S'")
    figure, rows = _layout(cuts, with_profiles=bool(by_axis))
    _draw_title(figure, title, subtitle)
    _draw_planes(rows, cuts, scene)
    _draw_profiles(rows[2], cuts, by_axis, scene.unit)
    return figure


def _peak_ras(scene: Scene) -> Float:
    """Find the peak of the mask's highest component, or of the heatmap where the mask is empty."""
    highest = [] if scene.mask is None else components(scene.mask, scene.heatmap)
    if highest:
        return np.array(highest[0].peak_ras)
    array = scene.heatmap.array
    k, j, i = np.unravel_index(int(np.argmax(np.where(covered(array), array, -np.inf))), array.shape)
    return np.asarray(scene.heatmap.ijk_to_ras @ np.array((i, j, k, 1.0)))[:3]


def _layout(cuts: Sequence[Cut], *, with_profiles: bool) -> tuple[Figure, list[list[Axes]]]:
    """Place two rows of planes and one of profiles, with the planes' titles; all lengths are inches."""
    from matplotlib.figure import Figure

    left, right, gap, top, between, profile, bottom = 0.3, 1.15, 0.3, 1.3, 0.25, 1.7, 0.75
    widths, row = column_sizes(cuts, _WIDTH_INCHES - left - right - 2 * gap, _TALLEST_INCHES)
    legend = 0.6
    height = top + 2 * row + between + legend + (profile + bottom if with_profiles else 0.0)
    figure = Figure(figsize=(_WIDTH_INCHES, height))
    inches = np.array((_WIDTH_INCHES, height, _WIDTH_INCHES, height))
    starts = left + np.cumsum(widths + gap) - widths - gap

    def axes_row(y: float, high: float, indent: float = 0.0) -> list[Axes]:
        boxes = [(x + indent, y, w - indent, high) for x, w in zip(starts, widths, strict=True)]
        return [figure.add_axes(np.array(box) / inches) for box in boxes]

    first = height - top - row
    for x, width, cut in zip(starts, widths, cuts, strict=True):
        middle = (x + width / 2) / _WIDTH_INCHES
        name = f"{cut.plane.name}   {cut.position(1)}"
        figure.text(middle, (first + row + 0.08) / height, name, size=13, ha="center")
    rows = [axes_row(first, row), axes_row(first - between - row, row)]
    rows.append(axes_row(bottom, profile, indent=0.55) if with_profiles else [])
    return figure, rows


def _draw_title(figure: Figure, title: str, subtitle: str) -> None:
    inch = 1 / figure.get_figheight()
    left, right = 0.3 / _WIDTH_INCHES, 1 - 0.3 / _WIDTH_INCHES
    convention = "Radiological convention: the patient's right is on the picture's left"
    figure.text(left, 1 - 0.25 * inch, shorten(title, 100), size=17, weight="bold", va="top")
    figure.text(left, 1 - 0.65 * inch, shorten(subtitle, 110), color=QUIET, va="top")
    figure.text(right, 1 - 0.65 * inch, convention, color=QUIET, va="top", ha="right")


def _draw_planes(rows: Sequence[Sequence[Axes]], cuts: Sequence[Cut], scene: Scene) -> None:
    """Draw the image in the first row, heatmap and outlines over it in the second, their scale and legend."""
    for axes, below, cut, layers in zip(*rows[:2], cuts, plane_layers(scene, cuts), strict=True):
        draw_plane(axes, cut.view, PlaneLayers(layers.image, layers.window), size=_LETTERS)
        _draw_crosshair(axes, cut)
        shown = draw_plane(below, cut.view, layers, size=_LETTERS)
    figure, box = below.figure, below.get_position(original=True)
    left, width = box.x1 + 0.35 / _WIDTH_INCHES, 0.16 / _WIDTH_INCHES
    scale = figure.add_axes((left, box.y0 + 0.12 * box.height, width, 0.76 * box.height))
    scale.set_title(f"heatmap\n({scene.unit})", size=11, pad=10)
    draw_scale(scale, shown, scene.threshold)
    masks = {"segmentation": scene.mask, "truth": scene.truth}
    names = [name if mask.any() else f"{name} (empty)" for name, mask in masks.items() if mask is not None]
    figure.legend(
        handles=outline_handles(names), loc="upper center", bbox_to_anchor=(0.5, box.y0), ncols=2, frameon=False,
        handlelength=3.5,
    )  # fmt: skip


def _draw_crosshair(axes: Axes, cut: Cut) -> None:
    """Draw where the other two planes cut this one, with a gap so that the spot itself stays clear."""
    left, right, bottom, top = cut.view.extent
    u, v = cut.centre_uv
    gap, edge = 0.06 * max(right - left, top - bottom), 0.06 * min(right - left, top - bottom)
    for start, stop in ((left + edge, u - gap), (u + gap, right - edge)):
        axes.plot((start, max(start, stop)), (v, v), color=MARK, linewidth=0.8, alpha=0.6)
    for start, stop in ((bottom + edge, v - gap), (v + gap, top - edge)):
        axes.plot((u, u), (start, max(start, stop)), color=MARK, linewidth=0.8, alpha=0.6)


def _draw_profiles(row: Sequence[Axes], cuts: Sequence[Cut], by_axis: dict[str, Profile], unit: str) -> None:
    """Draw under each plane the profile along its normal, with a line where the plane is."""
    for axes, cut in zip(row, cuts, strict=False):  # no axes where there is no profile at all
        normal = cut.plane.normal
        if normal not in by_axis:
            axes.set_visible(False)
            continue
        if axes is not row[0]:
            axes.sharey(row[0])
        draw_profile(axes, by_axis[normal], CURVE)
        axes.axvline(cut.centre_mm, color=MARK, linewidth=1.2)
        axes.set_ylabel(unit)
