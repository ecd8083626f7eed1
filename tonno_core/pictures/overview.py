"""One picture that tells a reader what was found and where: three planes, the overlay, the logit profiles.

Planes lie in the patient (RAS), not in the voxel grid, so an oblique scan shows upright.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tonno_core.pictures.cuts import OPPOSITE, PLANES, Cut, Float, Plane, cut_plane, sample
from tonno_core.pictures.drawing import (
    CONTOURS,
    CURVE,
    MARK,
    QUIET,
    STYLE,
    cold_hot,
    finite,
    outlined,
    save_figure,
    shorten,
)
from tonno_core.segmentation.binarize import components
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Mask = npt.NDArray[np.generic]

_WIDTH_INCHES = 16.0  # 1760 pixels wide


def write_overview(
    path: str | os.PathLike[str],
    image: Volume,
    heatmap: Volume,
    segmentation: Mask,
    *,
    truth: Mask | None = None,
    profiles: Sequence[Profile] = (),
    title: str,
    subtitle: str = "",
    centre_ras: npt.ArrayLike | None = None,
    unit: str = "logit",
) -> None:
    """Write the picture as a PNG of 1760 pixels' width; the file appears whole or not at all.

    Rows: the image; heatmap and contours over it; the profile along each plane's normal, where there is one.
    segmentation, truth: Z Y X masks on the heatmap's grid, which may differ from the image's.
    centre_ras: where the three planes meet (RAS mm, inside the image); by default the peak of the
        segmentation's highest component, or of the heatmap where the segmentation is empty.
    unit: of the heatmap and of the logits. Raises TonnoError where the file cannot be written.
    """
    import matplotlib

    if any(mask is not None and mask.shape != heatmap.array.shape for mask in (segmentation, truth)):
        raise ValueError(f"masks are expected on the heatmap's grid, of shape {heatmap.array.shape}")
    centre = _peak_ras(segmentation, heatmap) if centre_ras is None else np.asarray(centre_ras, np.float64)
    for volume in (image, heatmap):
        if np.isnan(sample(volume.array, volume.ijk_to_ras, centre[np.newaxis])).any():
            raise ValueError(f"planes through {centre.tolist()} mm, outside the image or the heatmap")
    cuts = [cut_plane(plane, image, centre) for plane in PLANES]
    by_axis = {profile.axis: profile for profile in profiles}
    if not by_axis.keys() <= {"R", "A", "S"}:
        raise ValueError(f"profiles along {sorted(by_axis)}, expected 'R', 'A' or 'S'")
    with matplotlib.rc_context(STYLE):
        figure, rows = _layout(cuts, with_profiles=bool(by_axis))
        _draw_title(figure, title, subtitle)
        _draw_images(rows[:2], cuts, image)
        _draw_heatmap(rows[1], cuts, heatmap, unit)
        _draw_contours(rows[1], cuts, heatmap, {"segmentation": segmentation, "truth": truth})
        _draw_rulers(rows[0], cuts)
        _draw_profiles(rows[2], cuts, by_axis, unit)
        save_figure(figure, Path(path))


def _peak_ras(segmentation: Mask, heatmap: Volume) -> Float:
    found = components(segmentation, heatmap)
    if found:
        return np.array(found[0].peak_ras)
    k, j, i = np.unravel_index(int(np.argmax(heatmap.array)), heatmap.array.shape)
    return np.asarray(heatmap.ijk_to_ras @ np.array((i, j, k, 1.0)))[:3]


def _layout(cuts: Sequence[Cut], *, with_profiles: bool) -> tuple[Figure, list[list[Axes]]]:
    """Three columns at one scale where the shapes allow it, rows as high as the highest plane; inches."""
    from matplotlib.figure import Figure

    left, right, gap, top, between, profile, bottom = 0.3, 1.15, 0.3, 1.3, 0.25, 1.7, 0.75
    spans = np.array([cut.pixel_mm * cut.u.size for cut in cuts])
    shares = np.maximum(spans / spans.sum(), 0.24)
    widths = (_WIDTH_INCHES - left - right - 2 * gap) * shares / shares.sum()
    row = min(7.0, max(w * c.v.size / c.u.size for w, c in zip(widths, cuts, strict=True)))
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
        figure.text(middle, (first + row + 0.08) / height, _plane_title(cut), size=13, ha="center")
    rows = [axes_row(first, row), axes_row(first - between - row, row)]
    rows.append(axes_row(bottom, profile, indent=0.55) if with_profiles else [])
    return figure, rows


def _plane_title(cut: Cut) -> str:
    normal = cut.plane.normal
    side = normal if cut.centre_mm >= 0 else OPPOSITE[normal]
    return f"{cut.plane.name}   {side} {abs(cut.centre_mm):.1f} mm"


def _draw_title(figure: Figure, title: str, subtitle: str) -> None:
    inch = 1 / figure.get_figheight()
    left, right = 0.3 / _WIDTH_INCHES, 1 - 0.3 / _WIDTH_INCHES
    convention = "Radiological convention: the patient's right is on the picture's left"
    figure.text(left, 1 - 0.25 * inch, shorten(title, 100), size=17, weight="bold", va="top")
    figure.text(left, 1 - 0.65 * inch, shorten(subtitle, 110), color=QUIET, va="top")
    figure.text(right, 1 - 0.65 * inch, convention, color=QUIET, va="top", ha="right")


def _draw_images(rows: Sequence[Sequence[Axes]], cuts: Sequence[Cut], image: Volume) -> None:
    planes = [sample(image.array, image.ijk_to_ras, cut.points_ras) for cut in cuts]
    # Half a percent on either side: a few bright vessels or an implant must not darken the rest.
    low, high = np.percentile(finite(planes), (0.5, 99.5))
    for row in rows:
        for axes, cut, plane in zip(row, cuts, planes, strict=True):
            _show(axes, cut, plane, cmap="gray", vmin=low, vmax=high)
            axes.set_axis_off()
            _draw_letters(axes, cut.plane)


def _draw_letters(axes: Axes, plane: Plane) -> None:
    for letter, edge, inwards in (
        (OPPOSITE[plane.right], (0, 0.5), (9, 0)), (plane.right, (1, 0.5), (-9, 0)),
        (OPPOSITE[plane.top], (0.5, 0), (0, 11)), (plane.top, (0.5, 1), (0, -11)),
    ):  # fmt: skip
        outlined(axes, letter, edge, inwards, xycoords="axes fraction", ha="center", size=13, weight="bold")


def _draw_heatmap(row: Sequence[Axes], cuts: Sequence[Cut], heatmap: Volume, unit: str) -> None:
    planes = [sample(heatmap.array, heatmap.ijk_to_ras, cut.points_ras) for cut in cuts]
    # The planes go through the peak: their percentile sees a lesion that the whole volume's would miss.
    limit = float(np.percentile(np.abs(finite(planes)), 99.9)) or 1.0
    colours = cold_hot()
    for axes, cut, plane in zip(row, cuts, planes, strict=True):
        shown = _show(axes, cut, plane, cmap=colours, vmin=-limit, vmax=limit)
    figure = row[-1].figure
    box = row[-1].get_position(original=True)
    left, width = box.x1 + 0.35 / _WIDTH_INCHES, 0.16 / _WIDTH_INCHES
    bar_box = (left, box.y0 + 0.12 * box.height, width, 0.76 * box.height)
    bar = figure.colorbar(shown, cax=figure.add_axes(bar_box), extend="both")
    bar.ax.set_title(f"heatmap\n({unit})", size=11, pad=10)
    bar.outline.set_visible(False)
    bar.ax.set_facecolor("#6a6a6a")  # the colours as they look over grey anatomy


def _draw_contours(row: Sequence[Axes], cuts: Sequence[Cut], heatmap: Volume, masks: dict[str, Mask | None]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for (name, mask), (colour, dashes) in zip(masks.items(), CONTOURS, strict=True):
        if mask is None:
            continue
        voxels = (mask != 0).astype(np.uint8)
        for axes, cut in zip(row, cuts, strict=True):
            plane = np.nan_to_num(sample(voxels, heatmap.ijk_to_ras, cut.points_ras))
            if plane.min() < 0.5 < plane.max():
                line = {"colors": colour, "linewidths": 1.6, "linestyles": [dashes]}
                axes.contour(cut.u, cut.v, plane, levels=[0.5], **line)
        label = name if mask.any() else f"{name} (empty)"
        handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=2, label=label))
    box = row[1].get_position(original=True)
    row[1].figure.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, box.y0), ncols=2, frameon=False,
        handlelength=3.5,
    )  # fmt: skip


def _draw_rulers(row: Sequence[Axes], cuts: Sequence[Cut]) -> None:
    shortest = min(cut.pixel_mm * cut.u.size for cut in cuts)
    length = max((mm for mm in (2, 5, 10, 20, 50, 100) if 3 * mm < shortest), default=1)
    for axes, cut in zip(row, cuts, strict=True):
        _draw_crosshair(axes, cut)
        left, right, bottom, top = cut.extent
        x, y = left + 0.04 * (right - left), bottom + 0.04 * (top - bottom)
        axes.plot((x, x + length), (y, y), color="white", linewidth=2.5, solid_capstyle="butt")
        outlined(axes, f"{length} mm", (x, y), (0, 9), ha="left", size=10)
        axes.set(xlim=(left, right), ylim=(bottom, top))


def _draw_crosshair(axes: Axes, cut: Cut) -> None:
    """Where the other two planes cut this one, with a gap so that the spot itself stays clear."""
    left, right, bottom, top = cut.extent
    u, v = cut.centre_uv
    gap, edge = 0.06 * max(right - left, top - bottom), 0.06 * min(right - left, top - bottom)
    for start, stop in ((left + edge, u - gap), (u + gap, right - edge)):
        axes.plot((start, max(start, stop)), (v, v), color=MARK, linewidth=0.8, alpha=0.6)
    for start, stop in ((bottom + edge, v - gap), (v + gap, top - edge)):
        axes.plot((u, u), (start, max(start, stop)), color=MARK, linewidth=0.8, alpha=0.6)


def _draw_profiles(row: Sequence[Axes], cuts: Sequence[Cut], by_axis: dict[str, Profile], unit: str) -> None:
    for axes, cut in zip(row, cuts, strict=False):  # no axes where there is no profile at all
        normal = cut.plane.normal
        if normal not in by_axis:
            axes.set_visible(False)
            continue
        if axes is not row[0]:
            axes.sharey(row[0])
        axes.axhline(0.0, color="#4a5058", linewidth=0.8)
        axes.plot(by_axis[normal].offsets_mm, by_axis[normal].logits, color=CURVE, linewidth=1.6)
        axes.axvline(cut.centre_mm, color=MARK, linewidth=1.2)
        axes.margins(x=0.0, y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        where = f"{cut.plane.name.lower()} plane at (mm)"
        axes.set(xlabel=f"{OPPOSITE[normal]}  \u2190  {where}  \u2192  {normal}", ylabel=unit)


def _show(axes: Axes, cut: Cut, plane: Float, **options: Any) -> Any:
    return axes.imshow(plane, extent=cut.extent, origin="lower", interpolation="bilinear", **options)
