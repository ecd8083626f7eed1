"""Normalisation of voxel intensities to the numbers that an encoder sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.volume.volume import FloatArray

# How ``pixel-sum`` takes a volume. No model has it: a classifier sees outside of a volume what it saw in training.
IMAGE = "image"
LOWEST_HU = -1024.0
NOISY_AIR_HU = 1.25 * LOWEST_HU  # air's first percentile lies above it up to a noise of 100 HU
_SAMPLES = 500_000
# Between how each of a volume's channels is normalised.
_EACH = "/"


class Intensity(NamedTuple):
    """How intensities are normalized.

    Attributes:
        kind: Of the normalization.
        low: Of the window, or of the lowest of several, in the volume's own units.
        high: Of the window, or of the highest of several.
        windows: By channel of the encoder's input its share of ``low`` to ``high``; empty for one window.
    """

    kind: Literal["none", "image", "zscore", "window"]
    low: float = 0.0
    high: float = 1.0
    windows: tuple[tuple[float, float], ...] = ()


def by_channel(spec: str) -> tuple[str, ...]:
    """Split how intensities are normalised by the channels of a volume, whose number it tells.

    Args:
        spec: See `parse_intensity`; of volumes of several channels one for each, separated by slashes:
            ``window:0:20/window:-160:240``.

    Returns:
        One for each channel.

    Raises:
        TonnoError: one of several is a window for each channel of an encoder.
    """
    specs = tuple(spec.split(_EACH))
    for one in specs if len(specs) > 1 else ():
        if parse_intensity(one).windows:
            raise TonnoError(
                f"`intensity` {spec}: {one} has several windows, expected one for each channel of the volumes"
            )
    return specs


def of_channels(specs: Sequence[str]) -> str:
    """Join how each channel of a volume is normalised; `by_channel` splits it again.

    Args:
        specs: Of one channel or more, see `parse_intensity`.

    Returns:
        Of all of them.
    """
    return _EACH.join(specs)


def windows_of(spec: str) -> tuple[tuple[float, float], ...]:
    """Return by channel of an encoder's input its window, see `Intensity`.

    Args:
        spec: See `by_channel`.

    Returns:
        The windows; empty where every channel gets what it is given, as for volumes of several channels.
    """
    specs = by_channel(spec)
    return parse_intensity(spec).windows if len(specs) == 1 else ()


def inputs_of(spec: str) -> int:
    """Count the channels of an input that what a volume's intensities become asks for.

    Args:
        spec: See `by_channel`.

    Returns:
        That of the volume's channels, or of the windows of its only one; 1 where any number gets the same.
    """
    return max(len(by_channel(spec)), len(windows_of(spec)))


def has_unit_range(spec: str) -> bool:
    """Tell whether intensities become numbers from 0 to 1, in all channels.

    Args:
        spec: See `by_channel`.

    Returns:
        Whether all are windows.
    """
    return all(parse_intensity(one).kind == "window" for one in by_channel(spec))


def check_inputs(spec: str, channels: int) -> None:
    """Check that a network of slices has an input for each channel of its volumes.

    Args:
        spec: See `by_channel`.
        channels: Of its input.

    Raises:
        TonnoError: it has others.
    """
    count = len(by_channel(spec))
    if count > 1 and channels != count:
        raise TonnoError(
            f"`channels` is {channels}, expected {count}: `intensity` {spec} is of volumes of {count} channels, all of "
            "which the network gets"
        )


def check_channels(found: int, spec: str) -> None:
    """Check that volumes have the channels that a model looks at. All that looks at volumes comes through here.

    Args:
        found: Channels of a volume.
        spec: The model's, see `by_channel`.

    Raises:
        TonnoError: they are more or fewer.
    """
    expected = len(by_channel(spec))
    if found == expected:
        return
    if spec == IMAGE:
        raise TonnoError(
            f"the volume has {found} channels, and this model looks at one; extract that (docs/datasets.md)"
        )
    if expected == 1:
        raise TonnoError(
            f"the volume has {found} channels, the model's intensities ({spec}) are for volumes of one; extract the "
            "channel that it was trained on (docs/datasets.md), or train with one for each, such as `intensity` "
            f"{_EACH.join(['zscore'] * found)}"
        )
    has = "one channel" if found == 1 else f"{found} channels"
    raise TonnoError(
        f"the volume has {has}, the model's intensities ({spec}) are for volumes of {expected}; give one file that has "
        "these channels in this order, such as a 4D NIfTI"
    )


def parse_intensity(spec: str) -> Intensity:
    """Read how intensities are normalised.

    Args:
        spec: ``none``, ``zscore`` or ``window:LO:HI`` with LO < HI in the volume's own units; for an encoder of several
            channels also a window for each, ``window:LO:HI,LO:HI,...``.

    Returns:
        The kind, and the window's bounds.

    Raises:
        TonnoError: it is anything else, also one for each of several channels (`by_channel`).
    """
    if spec == "none":
        return Intensity("none")
    if spec == IMAGE:
        return Intensity("image")
    if spec == "zscore":
        return Intensity("zscore")
    wrong = TonnoError(
        f"`intensity` {spec!r}: expected none, zscore or window:LO:HI with LO < HI, as window:-100:300, "
        "or a window for each channel, as window:0:80,-20:180,-800:2000; for volumes of several channels one for each, "
        "as window:0:20/window:-160:240"
    )
    kind, _, rest = spec.partition(":")
    try:
        bounds = [tuple(float(text) for text in window.split(":")) for window in rest.split(",")]
    except ValueError:
        raise wrong from None
    good = all(len(pair) == 2 and all(map(math.isfinite, pair)) and pair[0] < pair[1] for pair in bounds)
    if kind != "window" or not good:
        raise wrong
    low, high = min(pair[0] for pair in bounds), max(pair[1] for pair in bounds)
    shares = tuple(((pair[0] - low) / (high - low), (pair[1] - low) / (high - low)) for pair in bounds)
    return Intensity("window", low, high, shares if len(bounds) > 1 else ())


def shown_window(spec: str) -> tuple[float, float] | None:
    """Return the values that a picture, of a volume's first channel, shows as black and as white.

    They are those that the classifier sees so.

    Args:
        spec: See `by_channel`.

    Returns:
        The window, the first of several; None where the intensities are no window.
    """
    kind, low, high, windows = parse_intensity(by_channel(spec)[0])
    if kind != "window":
        return None
    start, stop = windows[0] if windows else (0.0, 1.0)
    return low + start * (high - low), low + stop * (high - low)


def normalise(array: FloatArray, mask: npt.NDArray[np.bool_], spec: str) -> tuple[FloatArray, float]:
    """Normalise voxels.

    - ``none``: the array itself; 0 outside the volume, following the paper.
    - ``image``: the array itself; 0 outside, or, where some are negative, the background's median: air goes on as air,
      also in what a CT pads.
    - ``zscore``: mean 0 and standard deviation 1 over the foreground; outside, and where a scan is padded, the minimum.
    - ``window:LO:HI``: LO..HI to 0..1, clipped; 0 outside. Of several windows, from the lowest to the highest bound.

    Args:
        array: ``Z Y X``.
        mask: ``Z Y X``, the foreground.
        spec: one of these.

    Returns:
        Voxels ``Z Y X``, and the value of the space outside of the volume.

    Raises:
        TonnoError: a bad ``spec``, or a foreground without contrast to divide by.
    """
    kind, low, high, _ = parse_intensity(spec)
    if kind == "none":
        return array, 0.0
    if kind == "image":
        background = array[~mask]
        if not background.size or array.min() >= 0:
            return array, 0.0
        padding = find_padding(array)
        if padding is None:
            return array, float(np.median(every_nth(background)))
        background = background[background != padding]
        fill = float(np.median(every_nth(background))) if background.size else padding
        return np.where(array == np.float32(padding), np.float32(fill), array), fill
    if kind == "window":
        scaled = (array - np.float32(low)) / np.float32(high - low)
        return np.clip(scaled, 0, 1, out=scaled), 0.0
    array = without_padding(array)
    foreground = array[mask].astype(np.float64)
    std = float(foreground.std()) if foreground.size else 0.0
    if std == 0:
        raise TonnoError(
            f"`intensity` zscore: the {foreground.size} foreground voxels have no contrast; "
            "expected different values: use `intensity` none or window:LO:HI"
        )
    scaled = (array - np.float32(foreground.mean())) / np.float32(std)
    return scaled, float(scaled.min())


def find_padding(array: FloatArray) -> float | None:
    """Find the value below air's with which CT fills what lies outside of its circle.

    It is that of half of the voxels at the slices' corners, whichever axis the slices lie along, where air is what
    else lies lowest.

    Args:
        array: ``Z Y X``.

    Returns:
        The value, None where there is none.
    """
    for axis in range(3):
        corners = np.moveaxis(array, axis, 0)[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        values, counts = np.unique(corners, return_counts=True)
        value = float(values[counts.argmax()])
        if value < LOWEST_HU and 2 * counts.max() >= corners.size:
            voxels = every_nth(array)
            scanned = voxels[voxels != value]
            return value if scanned.size and np.percentile(scanned, 1) > NOISY_AIR_HU else None
    return None


def without_padding(array: FloatArray) -> FloatArray:
    """Give padding the lowest value that was scanned: beside it, air would be grey in a picture, and tissue white.

    Args:
        array: ``Z Y X``.

    Returns:
        ``Z Y X``, the array itself where there is none.
    """
    padding = find_padding(array)
    if padding is None:
        return array
    scanned = array != np.float32(padding)
    return np.where(scanned, array, array[scanned].min())


def every_nth(array: FloatArray) -> FloatArray:
    """Take every n-th voxel.

    Args:
        array: any shape.

    Returns:
        About half a million of its voxels, or all.
    """
    return array.ravel()[:: array.size // _SAMPLES | 1]  # odd: not in step with a grid of 2^n
