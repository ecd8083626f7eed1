"""What a model's training images looked like, and whether an image looks like them. numpy alone, some milliseconds.

The histogram of a skull-stripped brain is nearly the same in T1 and in FLAIR; what differs is where its bright voxels
lie. So intensities are compared by depth, from the surface of the foreground to its core (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.volume.intensity import LOWEST_HU, NOISY_AIR_HU, by_channel, find_padding, normalise
from tonno_core.volume.volume import Matrix

# Groups of foreground voxels from the surface to the core, as many in each.
_DEPTHS = 5
# Number of voxels that are sampled: those of a brain at 4 mm.
_SAMPLES = 50_000

# Least distance that counts, in standard deviations of the training images' foreground. From the training images of the
# shipped model a cartoon of the same contrast is 0.31, FLAIR 0.72 and 0.88, a T2-like contrast 1.08
# (docs/demo-model.md).
LEAST_DISTANCE = 0.45
# Or, where training images differ more among themselves, a multiple of the distance within which 95 % of them lie.
TIMES_TRAINING = 1.5
# Lengths beyond the range of the training images by this factor are worth a question.
FACTOR_MM = 1.5


@dataclass(frozen=True)
class Appearance:
    """An image in a few numbers.

    Attributes:
        spacing_mm: along its finest and its coarsest axis.
        extent_mm: the image's longest side.
        foreground_mm: the longest side of its foreground's box along R, A and S.
        thickness_mm: the shortest side of its foreground's box along the image's own axes.
        depths: medians of the normalized foreground by depth, the surface first.
        spread: the standard deviation of the normalized foreground.
    """

    spacing_mm: tuple[float, float]
    extent_mm: float
    foreground_mm: float
    thickness_mm: float
    depths: tuple[float, ...]
    spread: float


def record_of_images(images: Sequence[Appearance], intensity: str, pixel_mm: float | None) -> Json:
    """Summarize training images for ``training["images"]`` of a model's description, in millimetres.

    Args:
        images: at least one.
        intensity: how they were normalized; of several channels the first one counts.
        pixel_mm: pixel size of the training slices, None where they had no physical scale.

    Returns:
        The record.
    """
    depths = np.array([image.depths for image in images])
    mean, spread = depths.mean(axis=0), float(np.mean([image.spread for image in images]))
    distances = np.abs(depths - mean).max(axis=1) / (spread or 1.0)
    finest, coarsest = zip(*(image.spacing_mm for image in images), strict=True)
    return {
        "volumes": len(images),
        "intensity": by_channel(intensity)[0],
        "pixel_mm": pixel_mm,
        "finest_spacing_mm": _range(finest),
        "coarsest_spacing_mm": _range(coarsest),
        "extent_mm": _range([image.extent_mm for image in images]),
        "foreground_mm": _range([image.foreground_mm for image in images]),
        "thickness_mm": _range([image.thickness_mm for image in images]),
        "depths": [round(value, 4) for value in mean.tolist()],
        "spread": round(spread, 4),
        "distance": round(float(np.quantile(distances, 0.95)), 4),
    }


def image_concerns(training: Json, array: npt.NDArray[Any], ijk_to_ras: Matrix) -> list[str]:
    """Tell how an image differs from a model's training images.

    Args:
        training: of the model's description, with the record of `record_of_images` under ``images``.
        array: Z Y X.
        ijk_to_ras: 4 x 4.

    Returns:
        Short sentences for a person; none where it does not differ, or nothing was recorded.
    """
    known = training.get("images") or {}
    try:
        seen = appearance(array, ijk_to_ras, known["intensity"])
        return [] if seen is None else [*_lengths(known, seen), *_contrast(known, seen)]
    except (KeyError, TypeError, ValueError, TonnoError):  # no record, or one of another version
        return []


def _lengths(known: Json, seen: Appearance) -> list[str]:
    """Compare spacing and extents with the record of the training images."""
    concerns = []
    for name, value in zip(("coarsest_spacing_mm", "finest_spacing_mm"), seen.spacing_mm[::-1], strict=True):
        # Finer detail than a slice's pixels never reaches the network.
        least = known["pixel_mm"] or 0.0
        if _beyond(max(value, least), [max(bound, least) for bound in known[name]]):
            concerns.append(f"Voxels of {_mm(value, 1)} mm; the model was trained on {_to(known[name], 1)}.")
            break
    if _beyond(seen.foreground_mm, known["foreground_mm"]):
        trained = _to(known["foreground_mm"])
        concerns.append(f"What the image shows covers {_mm(seen.foreground_mm)} mm; in the training images {trained}.")
    elif "thickness_mm" in known and _beyond(seen.thickness_mm, known["thickness_mm"]):  # earlier models do not tell
        trained = _to(known["thickness_mm"])
        concerns.append(f"What the image shows is {_mm(seen.thickness_mm)} mm thick; in the training images {trained}.")
    elif _beyond(seen.extent_mm, known["extent_mm"]):
        trained = _to(known["extent_mm"])
        concerns.append(f"The image covers {_mm(seen.extent_mm)} mm; the training images {trained}.")
    return concerns


def _contrast(known: Json, seen: Appearance) -> list[str]:
    """Compare intensities by depth with the record of the training images."""
    differences = (np.array(seen.depths) - known["depths"]) / (known["spread"] or 1.0)
    if np.abs(differences).max() <= max(LEAST_DISTANCE, TIMES_TRAINING * known["distance"]):
        return []
    places = {"at the surface": differences[0], "in the core": differences[-1]}
    how = [f"{'brighter' if value > 0 else 'darker'} {place}" for place, value in places.items() if abs(value) > 0.3]
    return [
        "The image's intensities are distributed unlike those of the model's training images"
        f"{' (' + ', '.join(how) + ')' if how else ''}; is it the same kind of image?"
    ]


def _beyond(value: float, bounds: Sequence[float]) -> bool:
    return not bounds[0] / FACTOR_MM <= value <= bounds[1] * FACTOR_MM


def _mm(length: float, digits: int = 0) -> str:
    """Write a length; what is below a millimetre, as in a microscope, by two figures."""
    return f"{length:.{digits}f}" if length >= 1 or not length else f"{length:.2g}"


def _to(bounds: Sequence[float], digits: int = 0) -> str:
    low, high = (_mm(bound, digits) for bound in bounds)
    return f"{low} mm" if low == high else f"{low} to {high} mm"


def _range(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in (min(values), max(values))]


def appearance(array: npt.NDArray[Any], ijk_to_ras: Matrix, intensity: str) -> Appearance | None:
    """Measure an image.

    Args:
        array: Z Y X, numbers of any kind; sampled, never copied as a whole. Of several channels the first.
        ijk_to_ras: 4 x 4.
        intensity: how the model's images are normalized, see `by_channel`.

    Returns:
        The measures, None where there is no foreground or it has no contrast.
    """
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)[::-1]  # Z Y X
    values, inside, steps = _foreground(array, spacing)
    if np.count_nonzero(inside) < _DEPTHS:
        return None
    try:
        foreground = normalise(values, inside, by_channel(intensity)[0])[0][inside]
    except TonnoError:
        return None
    inwards = np.argsort(_depth(inside, spacing * steps)[inside], kind="stable")
    kji = np.argwhere(inside) * steps
    along_ras, along_axes = (
        np.ptp(np.percentile(places, [0.1, 99.9], axis=0), axis=0)
        for places in (kji[:, ::-1] @ ijk_to_ras[:3, :3].T, kji * spacing)
    )
    return Appearance(
        spacing_mm=(float(spacing.min()), float(spacing.max())),
        extent_mm=float((spacing * array.shape).max()),
        foreground_mm=float(along_ras.max()),
        thickness_mm=float((along_axes + spacing).min()),
        depths=tuple(float(np.median(shell)) for shell in np.array_split(foreground[inwards], _DEPTHS)),
        spread=float(foreground.std()),
    )


def _foreground(
    array: npt.NDArray[Any], spacing: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.int_]]:
    """Sample the foreground's box: voxels, which of them are foreground, and the sampling steps (Z Y X)."""
    steps = _steps(array.shape, spacing)
    values = _every(array, steps)
    level = _level(values)
    kji = np.argwhere(values > level) * steps
    if not len(kji):
        return values, values > level, steps
    first, stop = np.maximum(kji.min(axis=0) - steps, 0), kji.max(axis=0) + 2 * steps
    box = array[first[0] : stop[0], first[1] : stop[1], first[2] : stop[2]]
    steps = _steps(box.shape, spacing)
    values = _every(box, steps)
    return values, values > level, steps


def _steps(shape: tuple[int, ...], spacing: npt.NDArray[np.float64]) -> npt.NDArray[np.int_]:
    """Choose sampling steps along Z, Y and X for about `_SAMPLES` voxels at even distances in mm."""
    apart_mm = (np.prod(shape * spacing) / _SAMPLES) ** (1 / 3)
    steps: npt.NDArray[np.int_] = np.maximum(np.rint(apart_mm / spacing), 1.0).astype(np.int_)
    return steps


def _every(array: npt.NDArray[Any], steps: npt.NDArray[np.int_]) -> npt.NDArray[np.float32]:
    """Take every n-th voxel along each axis; the lowest finite value stands for NaN and infinities."""
    values = array[:: steps[0], :: steps[1], :: steps[2]].astype(np.float32)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, values[finite].min(initial=0.0))


def _level(values: npt.NDArray[np.float32]) -> float:
    """Compute the threshold between background and foreground by the rule of `foreground_mask`."""
    low, high = (float(value) for value in np.percentile(values, [1, 99]))
    padding = find_padding(values)
    scanned = values if padding is None else values[values != padding]
    if low < LOWEST_HU < high and np.percentile(scanned, 1) > NOISY_AIR_HU:
        low = LOWEST_HU
    if low == high:
        return low
    counts, edges = np.histogram(np.sqrt(np.clip(values, low, high) - low), bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(counts * centres)
    # Otsu: the largest variance between the two classes.
    difference = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return low + float(edges[1 + np.argmax(below * above * difference**2)]) ** 2


def _depth(inside: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Compute squared distances in mm² to the nearest voxel outside, one axis after the other (Z Y X)."""
    padded = np.pad(inside, 1)
    squared = np.where(padded, np.float32(np.inf), np.float32(0.0))
    for axis, step in enumerate(spacing):
        places = np.arange(padded.shape[axis], dtype=np.float32) * np.float32(step)
        apart = (places[:, None] - places) ** 2
        lines = np.moveaxis(squared, axis, -1)
        squared = np.moveaxis(np.stack([(lines + row).min(axis=-1) for row in apart], axis=-1), -1, axis)
    return squared[1:-1, 1:-1, 1:-1]
