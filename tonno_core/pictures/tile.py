"""One case's line of the contact sheet: a plane through the image, the heatmaps and the masks. Free of torch."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.output import write_bytes
from tonno_core.pictures.cuts import OPPOSITE, PLANES, Float, Plane, cut_plane, sample
from tonno_core.volume.volume import Volume

BoolArray = npt.NDArray[np.bool_]

# Between slices so much farther apart than their pixels a plane across them would show more gaps than anatomy.
_ANISOTROPIC = 1.5
_MARGIN_MM = 6.0


@dataclass(frozen=True)
class Tile:
    """V U float arrays on one plane, NaN outside of the volume; u, v: pixel centres in mm.

    truth, masks: shares of 0 to 1, linear between voxels. truth: None where it is not known.
    """

    where: str
    edges: tuple[str, str, str, str]  # letters of the patient's sides at the left, right, bottom and top
    u: Float
    v: Float
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
) -> Tile:
    """The plane with the most truth, else through the peak of the first heatmap within the foreground.

    All arrays Z Y X on the image's grid.
    """
    plane = _plane_of(image)
    if truth is not None and truth.any():
        centre = _most_of(truth, image, plane)
    else:
        centre = _peak_of(next(iter(heatmaps.values())), image, foreground)
    cut = cut_plane(plane, image, centre)

    def on_plane(array: npt.NDArray[np.number]) -> Float:
        return sample(array, image.ijk_to_ras, cut.points_ras)[box]

    box = (slice(None), slice(None))
    shown = foreground if truth is None else foreground | truth
    box = _box(np.nan_to_num(on_plane(shown.astype(np.uint8))) >= 0.5, _MARGIN_MM / cut.pixel_mm)
    normal = plane.normal if cut.centre_mm >= 0 else OPPOSITE[plane.normal]
    return Tile(
        where=f"{plane.name} {normal} {abs(cut.centre_mm):.0f} mm",
        edges=(OPPOSITE[plane.right], plane.right, OPPOSITE[plane.top], plane.top),
        u=cut.u[box[1]],
        v=cut.v[box[0]],
        image=on_plane(image.array),
        truth=None if truth is None else on_plane(truth.astype(np.uint8)),
        heatmaps={name: on_plane(array) for name, array in heatmaps.items()},
        masks={name: on_plane(mask.astype(np.uint8)) for name, mask in masks.items()},
    )


def save_tile(path: Path, tile: Tile) -> None:
    """Write a compressed npz; the file appears whole or not at all."""
    arrays = {"where": np.array(tile.where), "edges": np.array(tile.edges), "u": tile.u, "v": tile.v}
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
    """Read what `save_tile` wrote."""
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise TonnoError(f"{path}: not readable as a case's planes ({error}); delete it and its .json") from error
    names = [str(name) for name in data["names"]]
    left, right, bottom, top = (str(letter) for letter in data["edges"])
    return Tile(
        where=str(data["where"]),
        edges=(left, right, bottom, top),
        u=data["u"],
        v=data["v"],
        image=data["image"].astype(np.float64),
        truth=data["truth"].astype(np.float64) if "truth" in data else None,
        heatmaps={name: data[f"heatmap{number}"].astype(np.float64) for number, name in enumerate(names)},
        masks={name: data[f"mask{number}"].astype(np.float64) for number, name in enumerate(names)},
    )


def _plane_of(image: Volume) -> Plane:
    """Axial, or the slices' own plane where they are far apart."""
    spacing = image.spacing_mm
    coarsest = int(np.argmax(spacing))
    if spacing[coarsest] < _ANISOTROPIC * np.median(spacing):
        return PLANES[0]
    axis = np.abs(image.ijk_to_ras[:3, coarsest])
    letter = "RAS"[int(np.argmax(axis))]
    return next(plane for plane in PLANES if plane.normal == letter)


def _most_of(truth: BoolArray, image: Volume, plane: Plane) -> Float:
    """A point (RAS mm) on the plane with the most true voxels: that of theirs nearest to their mean."""
    axis = "RAS".index(plane.normal)
    points = image.ijk_to_ras[:3, :3] @ np.argwhere(truth).T[::-1] + image.ijk_to_ras[:3, 3:]
    # Planes as far apart as the voxels are along the normal.
    step = np.abs(image.ijk_to_ras[axis, :3]).max()
    bins = np.round((points[axis] - points[axis].min()) / step).astype(int)
    own = points[:, bins == int(np.argmax(np.bincount(bins)))]
    distances = np.linalg.norm(own - own.mean(axis=1, keepdims=True), axis=0)
    # A voxel's centre: pixels that fall between voxels would blur image and contours.
    return np.asarray(own[:, int(np.argmin(distances))], dtype=np.float64)


def _peak_of(heatmap: npt.NDArray[np.floating], image: Volume, foreground: BoolArray) -> Float:
    """The highest point (RAS mm) within the foreground."""
    k, j, i = np.unravel_index(int(np.argmax(np.where(foreground, heatmap, -np.inf))), heatmap.shape)
    return np.asarray(image.ijk_to_ras @ np.array([i, j, k, 1.0]))[:3]


def _box(shown: BoolArray, margin: float) -> tuple[slice, slice]:
    """Rows and columns that hold all of a V U mask and a margin in pixels; everything if it is empty."""
    if not shown.any():
        return slice(None), slice(None)
    spans, wide = [], math.ceil(margin)
    for axis in (1, 0):
        used = np.flatnonzero(shown.any(axis=axis))
        spans.append(slice(max(0, int(used[0]) - wide), int(used[-1]) + wide + 1))
    return spans[0], spans[1]
