"""From a scan to the volume that is sliced: intensities, smoothing against aliasing, the frame.

Training and reconstruction both come through here, so a classifier sees in use what it saw in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tonno_core.errors import TonnoError
from tonno_core.slicing.frame import normalized_frame, physical_frame
from tonno_core.volume.foreground import foreground_ball, foreground_mask
from tonno_core.volume.intensity import by_channel, check_channels, normalise
from tonno_core.volume.volume import Matrix, Volume

# Enough points to know the foreground's extent along any direction to about a voxel.
_FOREGROUND_POINTS = 2048


@dataclass(frozen=True)
class PreparedVolume:
    """A volume ready to be sliced, and its frame.

    Attributes:
        volume: its intensities normalised, smoothed to the slices' resolution.
        fill: value of the space outside it; of several channels the first one's.
        frame_to_ras: 4 x 4.
        radius_mm: of the ball of a physical frame, None in the normalized one.
        foreground: of the scan, bool ``Z Y X``; None where nobody looked for it.
        further_fills: of the other channels.
    """

    volume: Volume
    fill: float
    frame_to_ras: Matrix
    radius_mm: float | None
    foreground: npt.NDArray[np.bool_] | None = None
    further_fills: tuple[float, ...] = ()

    @property
    def fills(self) -> tuple[float, ...]:
        """Values of the space outside, by channel."""
        return self.fill, *self.further_fills


def prepare_volume(
    volume: Volume,
    *,
    frame: str,
    intensity: str,
    slice_size: int,
    pixel_mm: float | None = None,
    radius_mm: float | None = None,
    centre_ras: npt.NDArray[np.float64] | None = None,
) -> PreparedVolume:
    """Normalise intensities, lay the frame, and smooth away what the slices' pixels cannot hold.

    Without ``radius_mm`` the ball of a physical frame holds the foreground, and at least the window of the
    classifier's training (``slice_size`` pixels of ``pixel_mm``), so that anatomy appears at the trained scale
    wherever it fits. Of a volume of several channels the first one's foreground counts.

    Args:
        volume: the scan.
        frame: ``physical``, or ``normalized`` for the paper's plain slices of the volume's own voxels.
        intensity: how intensities are normalised, see `volume.intensity.by_channel`.
        slice_size: S, pixels along a slice's side.
        pixel_mm: pixel size of the training slices, None where they had no physical scale.
        radius_mm: of the physical frame's ball, None for the default.
        centre_ras: 3, of the physical frame's ball in mm, None for the foreground's.

    Returns:
        The volume and its frame.

    Raises:
        TonnoError: the volume has other channels than ``intensity``, or no foreground.
    """
    check_channels(len(volume.channels), intensity)
    foreground = foreground_mask(volume)
    normalised, (fill, *others) = normalise_channels(volume, foreground, intensity)
    further_fills = tuple(others)
    if frame == "normalized":
        return PreparedVolume(normalised, fill, normalized_frame(volume), None, foreground, further_fills)
    if radius_mm is None or centre_ras is None:
        foreground_centre, foreground_mm = foreground_ball(volume, foreground)
        centre_ras = foreground_centre if centre_ras is None else centre_ras
    if radius_mm is None:
        window_mm = (slice_size - 1) / 2.0 * pixel_mm if pixel_mm is not None else 0.0
        radius_mm = max(foreground_mm, window_mm)
    smooth = limit_resolution(normalised, 2.0 * radius_mm / (slice_size - 1))
    return PreparedVolume(smooth, fill, physical_frame(centre_ras, radius_mm), radius_mm, foreground, further_fills)


def normalise_channels(
    volume: Volume, foreground: npt.NDArray[np.bool_], intensity: str
) -> tuple[Volume, tuple[float, ...]]:
    """Normalise each channel of a volume as if it were alone: by its own foreground.

    Args:
        volume: the scan, with as many channels as ``intensity`` tells.
        foreground: ``Z Y X``, of its first channel.
        intensity: see `volume.intensity.by_channel`.

    Returns:
        The volume, and by channel the value of the space outside of it.
    """
    first, *others = by_channel(intensity)
    made = [normalise(volume.array, foreground, first)]
    for array, spec in zip(volume.further, others, strict=True):
        made.append(normalise(array, foreground_mask(volume.with_array(array)), spec))
    return volume.with_channels([array for array, _ in made]), tuple(fill for _, fill in made)


def foreground_points(prepared: PreparedVolume, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Choose points of what differs from the surroundings by a tenth of the brightest difference, in any channel.

    Training cuts its slices between the outermost of them along each direction.

    Args:
        prepared: the volume.
        rng: chooses the points.

    Returns:
        P 3, in the frame.

    Raises:
        TonnoError: the volume has no contrast.
    """
    volume = prepared.volume
    differs = np.zeros(volume.array.shape, dtype=bool)
    for array, fill in zip(volume.channels, prepared.fills, strict=True):
        strength = np.abs(array - fill)
        differs |= strength > 0.1 * np.quantile(strength, 0.999)
    kji = np.argwhere(differs)
    if not len(kji):
        raise TonnoError("after `intensity` all of it equals the space outside; expected contrast in the window")
    chosen = kji[rng.permutation(len(kji))[:_FOREGROUND_POINTS]]
    ijk_to_frame = np.linalg.inv(np.linalg.inv(volume.ijk_to_ras) @ prepared.frame_to_ras)
    return np.asarray(chosen[:, ::-1] @ ijk_to_frame[:3, :3].T + ijk_to_frame[:3, 3])


def limit_resolution(volume: Volume, pixel_mm: float) -> Volume:
    """Smooth the axes whose voxels are smaller than a slice's pixel, then keep every f-th voxel.

    Trilinear samples ``pixel_mm`` apart would alias finer detail. The Gaussian has sigma = sqrt(r^2 - 1) / 2
    voxels, r = pixel size / voxel size, which brings a voxel-sized blur to a pixel-sized one; f = floor(r) then
    loses nothing and makes slicing of large scans several times cheaper.

    Args:
        volume: the scan.
        pixel_mm: distance of the slices' samples.

    Returns:
        The smoothed volume; the volume itself where no voxel is clearly smaller than a pixel.
    """
    ratio = np.maximum(pixel_mm / volume.spacing_mm, 1.0)  # along i, j, k
    if (ratio < 1.2).all():  # a blur of under a third of a voxel
        return volume
    sigmas = (np.sqrt(ratio**2 - 1.0) / 2.0)[::-1]
    # At least two voxels stay along each axis.
    step = np.minimum(np.floor(ratio).astype(int), np.maximum(np.asarray(volume.size_ijk) - 1, 1))
    # What does not divide is left out at both ends alike, so that a mirrored scan gives the same.
    first = (np.asarray(volume.size_ijk) - 1) % step // 2
    kept_to_ijk = np.diag([*step.astype(float), 1.0])
    kept_to_ijk[:3, 3] = first
    ijk_to_ras = volume.ijk_to_ras @ kept_to_ijk
    kept, *further = (
        np.ascontiguousarray(
            ndimage.gaussian_filter(array, sigmas, mode="nearest", truncate=3.0)[
                first[2] :: step[2], first[1] :: step[1], first[0] :: step[0]
            ]
        )
        for array in volume.channels
    )
    return Volume(kept, ijk_to_ras, further=tuple(further))
