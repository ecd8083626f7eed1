"""Volumes from and to other libraries, whose arrays are ``X Y Z`` with an affine: nibabel, MONAI and TorchIO."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.volume.header import same_grid
from tonno_core.volume.itk import check_affine
from tonno_core.volume.volume import MOST_CHANNELS, Matrix, Volume

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from torchio import ScalarImage

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def stack_channels(volumes: Sequence[Volume]) -> Volume:
    """Make one volume of several channels, such as PET and CT, of volumes on one grid.

    Args:
        volumes: The channels in their order; the first says where the patient is, and pictures show it.

    Returns:
        The volume.

    Raises:
        TonnoError: One lies on another grid than the first, or there is none.
    """
    if not volumes:
        raise TonnoError("`volumes`: is empty, expected a volume for each channel")
    first = volumes[0]
    for number, other in enumerate(volumes[1:], start=2):
        if not same_grid(first, other):
            raise TonnoError(
                f"channel {number}, {other}, lies on another grid than channel 1, {first}; resample it to that"
            )
    return dataclasses.replace(
        first,
        concerns=tuple(dict.fromkeys(concern for volume in volumes for concern in volume.concerns)),
        further=tuple(array for volume in volumes for array in volume.channels)[1:],
    )


def from_xyz(array: npt.ArrayLike, affine: npt.ArrayLike) -> Volume:
    """Make a volume of an array and an affine as nibabel gives them (``image.get_fdata()`` and ``image.affine``).

    Args:
        array: ``X Y Z``, or ``X Y Z C`` of several channels; finite numbers.
        affine: 4 x 4, from the centre of voxel (x, y, z, 1) to RAS mm.

    Returns:
        The volume, ``Z Y X``.

    Raises:
        TonnoError: The array is of other dimensions or not of finite numbers, or the affine is none.
    """
    values, matrix = np.asarray(array), np.array(affine, dtype=np.float64)
    if values.ndim not in (3, 4) or not values.size:
        raise TonnoError(f"`volume`: an array of shape {values.shape}, expected X Y Z, or X Y Z C of several channels")
    if values.ndim == 4 and values.shape[3] > MOST_CHANNELS:
        raise TonnoError(
            f"`volume`: an array of shape {values.shape}, expected X Y Z C of at most {MOST_CHANNELS} channels; take "
            "the channels that a model looks at"
        )
    if (
        matrix.shape != (4, 4)
        or not np.isfinite(matrix).all()
        or not matrix[:3, :3].any(axis=0).all()
        or not np.array_equal(matrix[3], (0, 0, 0, 1))
    ):
        raise TonnoError("`volume`: its affine is expected to be an invertible matrix of 4 x 4, from voxels to RAS mm")
    check_affine("`volume`", matrix)
    channels = values.T if values.ndim == 4 else values.T[None]
    with np.errstate(over="ignore"):  # becomes infinite
        first, *further = (np.ascontiguousarray(channel, dtype=np.float32) for channel in channels)
    if not all(np.isfinite(channel).all() for channel in (first, *further)):
        raise TonnoError("`volume`: has voxels that are NaN, infinite or beyond float32; replace them first")
    return Volume(first, matrix, further=tuple(further))


def to_xyz(volume: Volume) -> tuple[npt.NDArray[np.float32], Matrix]:
    """Give a volume as nibabel takes it: ``nibabel.Nifti1Image(*to_xyz(volume))``.

    Args:
        volume: Any.

    Returns:
        ``X Y Z``, or ``X Y Z C`` of several channels, and 4 x 4 from voxels to RAS mm; both are copies.
    """
    array = np.stack(volume.channels) if volume.further else volume.array
    return np.array(array.T, order="C"), volume.ijk_to_ras.copy()


def from_monai(image: MetaTensor) -> Volume:
    """Make a volume of a MONAI image.

    Args:
        image: ``C X Y Z``, as `LoadImage` with ``ensure_channel_first`` gives it, or ``X Y Z``.

    Returns:
        The volume.

    Raises:
        TonnoError: It has no channels or other dimensions, or values that are no numbers.
    """
    affine = image.affine.detach().cpu().numpy().astype(np.float64)
    if str(image.meta.get("space", "RAS")).rpartition(".")[2] == "LPS":  # a reader with affine_lps_to_ras=False
        affine = _LPS_TO_RAS @ affine
    return from_xyz(_channels_last(image.detach().cpu().numpy()), affine)


def to_monai(volume: Volume) -> MetaTensor:
    """Give a volume as a MONAI image.

    Args:
        volume: Any.

    Returns:
        ``C X Y Z`` float32, with its affine to RAS mm.

    Raises:
        ImportError: MONAI is not installed.
    """
    import torch
    from monai.data import MetaTensor

    array, affine = to_xyz(volume)
    # MONAI's writers and `Spacing` look for these two beside the affine.
    meta = {"space": "RAS", "original_affine": affine.copy(), "original_channel_dim": 0}
    return MetaTensor(torch.as_tensor(_channels_first(array)), affine=torch.as_tensor(affine), meta=meta)


def from_torchio(image: ScalarImage) -> Volume:
    """Make a volume of a TorchIO image.

    Args:
        image: ``C X Y Z``, as all of TorchIO's are.

    Returns:
        The volume.

    Raises:
        TonnoError: It has values that are no numbers.
    """
    return from_xyz(_channels_last(image.data.detach().cpu().numpy()), image.affine)


def to_torchio(volume: Volume) -> ScalarImage:
    """Give a volume as a TorchIO image.

    Args:
        volume: Any.

    Returns:
        ``C X Y Z`` float32, with its affine to RAS mm.

    Raises:
        ImportError: TorchIO is not installed.
    """
    import torch
    from torchio import ScalarImage

    array, affine = to_xyz(volume)
    return ScalarImage(tensor=torch.as_tensor(_channels_first(array)), affine=affine)


def _channels_first(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bring ``X Y Z`` or ``X Y Z C`` to ``C X Y Z``."""
    return array[None] if array.ndim == 3 else np.ascontiguousarray(np.moveaxis(array, 3, 0))


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring ``C X Y Z`` to ``X Y Z`` of one channel, or ``X Y Z C``."""
    if array.ndim == 4 and len(array):
        return np.asarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, 3))
    if array.ndim == 3:
        return array
    raise TonnoError(f"`volume`: an image of shape {tuple(array.shape)}, expected C X Y Z; choose one of a batch")
