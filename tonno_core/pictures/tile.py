"""A case's line of the contact sheet: a plane through the image, the heatmaps and the masks. Free of torch."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError, one_line
from tonno_core.output import write_bytes
from tonno_core.pictures.cuts import PLANES, Float, Plane, View, cut_plane, sample
from tonno_core.segmentation.binarize import covered
from tonno_core.volume.intensity import without_padding
from tonno_core.volume.volume import Volume

BoolArray = npt.NDArray[np.bool_]

# Between slices so much farther apart than their pixels a plane across them would show more gaps than anatomy.
_ANISOTROPIC = 1.5
_MARGIN_MM = 6.0
# What NumPy and zipfile raise of damaged files; RuntimeError where bits say that it is encrypted.
_DAMAGE = (
    OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """Image, heatmaps and masks of a case on one plane: arrays (V, U), NaN outside of the volume.

    Attributes:
        where: The plane's name and place, such as "Axial S 8 mm".
        view: The pixels.
        image: The image's values.
        truth: Share of the true mask, 0 to 1, linear between voxels; None if it is not known.
        heatmaps: By method, its heatmap's values.
        masks: By method, the share of its mask.
    """

    where: str
    view: View
    image: Float
    truth: Float | None
    heatmaps: dict[str, Float]
    masks: dict[str, Float]


def make_tile(
    image: Volume,
    heatmaps: Mapping[str, npt.NDArray[np.floating]],
    masks: Mapping[str, BoolArray],
    truth: BoolArray | None,
    foreground: BoolArray,
    *,
    odds: Collection[str] = (),
) -> Tile:
    """Sample a case on the plane with the most truth, else through the peak of the first heatmap.

    Args:
        image: The image; all arrays are Z Y X on its grid.
        heatmaps: By method.
        masks: By method.
        truth: The true mask; None if it is not known.
        foreground: Where the patient is; only a peak within it counts, and the plane is cropped to it.
        odds: The methods that are a segmenter's, see `Scene`.

    Returns:
        The plane, cropped to foreground and truth with a margin.
    """
    plane = _plane_of(image)
    if truth is not None and truth.any():
        centre = _most_of(truth, image, plane)
    else:
        centre = _peak_of(next(iter(heatmaps.values())), image, foreground)
    cut = cut_plane(plane, image, centre)
    points = cut.points_ras

    def on_plane(array: npt.NDArray[np.number]) -> Float:
        return sample(array, image.ijk_to_ras, points)[box]

    box = (slice(None), slice(None))
    shown = foreground if truth is None else foreground | truth
    box = _box(np.nan_to_num(on_plane(shown.astype(np.uint8))) >= 0.5, _MARGIN_MM / cut.view.pixel_mm)
    return Tile(
        where=f"{plane.name} {cut.position()}",
        view=View(cut.view.u[box[1]], cut.view.v[box[0]], plane.edges),
        image=on_plane(without_padding(image.array)),
        truth=None if truth is None else on_plane(truth.astype(np.uint8)),
        heatmaps={
            name: np.maximum(on_plane(array), 0.0) if name in odds else on_plane(array)
            for name, array in heatmaps.items()
        },
        masks={name: on_plane(mask.astype(np.uint8)) for name, mask in masks.items()},
    )


def save_tile(path: Path, tile: Tile) -> None:
    """Write a compressed npz.

    Args:
        path: The file; it appears whole or not at all.
        tile: What `load_tile` shall return, rounded to float32, shares to float16.

    Raises:
        TonnoError: The file cannot be written.
    """
    view = tile.view
    arrays = {"where": np.array(tile.where), "edges": np.array(view.edges), "u": view.u, "v": view.v}
    arrays |= {"names": np.array(list(tile.heatmaps)), "image": tile.image.astype(np.float32)}
    if tile.truth is not None:
        arrays["truth"] = tile.truth.astype(np.float16)
    for number, name in enumerate(tile.heatmaps):
        arrays[f"heatmap{number}"] = tile.heatmaps[name].astype(np.float32)
        arrays[f"mask{number}"] = tile.masks[name].astype(np.float16)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())


def load_tile(path: Path) -> Tile:
    """Read what `save_tile` wrote.

    Args:
        path: The file.

    Returns:
        The tile.

    Raises:
        TonnoError: The file is damaged or of another kind.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return _tile_of({name: file[name] for name in file.files})
    except _DAMAGE as error:
        said = one_line(error)
        raise TonnoError(f"{path}: not readable as a case's planes ({said}); delete it and its .json") from error


def _tile_of(data: Mapping[str, npt.NDArray[Any]]) -> Tile:
    """Return the tile that arrays of a file stand for; a ValueError or LookupError says why there is none."""
    names = [str(name) for name in data["names"]]
    left, right, bottom, top = (str(letter) for letter in data["edges"])
    view = View(data["u"], data["v"], (left, right, bottom, top))
    pictures = {
        name: data[name].astype(np.float64) for name in data if name not in ("names", "edges", "u", "v", "where")
    }
    for name, pixels in (("u", view.u), ("v", view.v)):
        if pixels.ndim != 1 or pixels.size < 2 or not np.isfinite(pixels).all() or not (np.diff(pixels) > 0).all():
            raise ValueError(f"{name} is no row of pixels")
    for name, picture in pictures.items():
        if picture.shape != (view.v.size, view.u.size):
            raise ValueError(f"{name} has {picture.shape} pixels")
    return Tile(
        where=str(data["where"]),
        view=view,
        image=pictures["image"],
        truth=pictures.get("truth"),
        heatmaps={name: pictures[f"heatmap{number}"] for number, name in enumerate(names)},
        masks={name: pictures[f"mask{number}"] for number, name in enumerate(names)},
    )


def _plane_of(image: Volume) -> Plane:
    """Choose the axial plane, or that of the slices where they are far apart."""
    spacing = image.spacing_mm
    coarsest = int(np.argmax(spacing))
    if spacing[coarsest] < _ANISOTROPIC * np.median(spacing):
        return PLANES[0]
    axis = np.abs(image.ijk_to_ras[:3, coarsest])
    letter = "RAS"[int(np.argmax(axis))]
    return next(plane for plane in PLANES if plane.normal == letter)


def _most_of(truth: BoolArray, image: Volume, plane: Plane) -> Float:
    """Find the plane with the most true voxels; return the one nearest to their mean (RAS mm)."""
    axis = "RAS".index(plane.normal)
    points = image.ijk_to_ras[:3, :3] @ np.argwhere(truth).T[::-1] + image.ijk_to_ras[:3, 3:]
    # Planes as far apart as the voxels are along the normal.
    step = np.abs(image.ijk_to_ras[axis, :3]).max()
    bins = np.round((points[axis] - points[axis].min()) / step).astype(int)
    inside = points[:, bins == int(np.argmax(np.bincount(bins)))]
    distances = np.linalg.norm(inside - inside.mean(axis=1, keepdims=True), axis=0)
    # A voxel's centre: pixels that fall between voxels would blur image and contours.
    return np.asarray(inside[:, int(np.argmin(distances))], dtype=np.float64)


def _peak_of(heatmap: npt.NDArray[np.floating], image: Volume, foreground: BoolArray) -> Float:
    """Find the highest point (RAS mm) within the foreground that planes cover."""
    k, j, i = np.unravel_index(int(np.argmax(np.where(foreground & covered(heatmap), heatmap, -np.inf))), heatmap.shape)
    return np.asarray(image.ijk_to_ras @ np.array([i, j, k, 1.0]))[:3]


def _box(shown: BoolArray, margin: float) -> tuple[slice, slice]:
    """Find the rows and columns of a mask (V, U) with a margin in pixels; all of them if it is empty."""
    if not shown.any():
        return slice(None), slice(None)
    spans, wide = [], math.ceil(margin)
    for axis in (1, 0):
        used = np.flatnonzero(shown.any(axis=axis))
        spans.append(slice(max(0, int(used[0]) - wide), int(used[-1]) + wide + 1))
    return spans[0], spans[1]
