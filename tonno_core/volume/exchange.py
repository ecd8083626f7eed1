"""Volumes from and to other libraries, whose arrays are ``X Y Z`` with an affine: nibabel, MONAI and TorchIO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.volume.itk import check_affine
from tonno_core.volume.volume import Matrix, Volume

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from torchio import ScalarImage

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def from_xyz(array: npt.ArrayLike, affine: npt.ArrayLike) -> Volume:
    """Make a volume of an array and an affine as nibabel gives them (``image.get_fdata()`` and ``image.affine``).

    Args:
        array: ``X Y Z``, finite numbers.
        affine: 4 x 4, from the centre of voxel (x, y, z, 1) to RAS mm.

    Returns:
        The volume, ``Z Y X``.

    Raises:
        TonnoError: The array is not of three dimensions or not of finite numbers, or the affine is none.
    """
    values, matrix = np.asarray(array), np.array(affine, dtype=np.float64)
    if values.ndim != 3 or not values.size:
        raise TonnoError(f"`volume`: an array of shape {values.shape}, expected X Y Z, a single image")
    if (
        matrix.shape != (4, 4)
        or not np.isfinite(matrix).all()
        or not matrix[:3, :3].any(axis=0).all()
        or not np.array_equal(matrix[3], (0, 0, 0, 1))
    ):
        raise TonnoError("`volume`: its affine is expected to be an invertible matrix of 4 x 4, from voxels to RAS mm")
    check_affine("`volume`", matrix)
    with np.errstate(over="ignore"):  # becomes infinite
        result = np.ascontiguousarray(values.T, dtype=np.float32)
    if not np.isfinite(result).all():
        raise TonnoError("`volume`: has voxels that are NaN, infinite or beyond float32; replace them first")
    return Volume(result, matrix)


def to_xyz(volume: Volume) -> tuple[npt.NDArray[np.float32], Matrix]:
    """Give a volume as nibabel takes it: ``nibabel.Nifti1Image(*to_xyz(volume))``.

    Args:
        volume: Any.

    Returns:
        ``X Y Z``, and 4 x 4 from voxels to RAS mm; both are copies.
    """
    return np.ascontiguousarray(volume.array.T), volume.ijk_to_ras.copy()


def from_monai(image: MetaTensor) -> Volume:
    """Make a volume of a MONAI image.

    Args:
        image: ``1 X Y Z``, as `LoadImage` with ``ensure_channel_first`` gives it, or ``X Y Z``.

    Returns:
        The volume.

    Raises:
        TonnoError: It has several channels or none, or values that are no numbers.
    """
    affine = image.affine.detach().cpu().numpy().astype(np.float64)
    if str(image.meta.get("space", "RAS")).rpartition(".")[2] == "LPS":  # a reader with affine_lps_to_ras=False
        affine = _LPS_TO_RAS @ affine
    return from_xyz(_single_channel(image.detach().cpu().numpy()), affine)


def to_monai(volume: Volume) -> MetaTensor:
    """Give a volume as a MONAI image.

    Args:
        volume: Any.

    Returns:
        ``1 X Y Z`` float32, with its affine to RAS mm.

    Raises:
        ImportError: MONAI is not installed.
    """
    import torch
    from monai.data import MetaTensor

    array, affine = to_xyz(volume)
    # MONAI's writers and `Spacing` look for these two beside the affine.
    meta = {"space": "RAS", "original_affine": affine.copy(), "original_channel_dim": 0}
    return MetaTensor(torch.as_tensor(array[None]), affine=torch.as_tensor(affine), meta=meta)


def from_torchio(image: ScalarImage) -> Volume:
    """Make a volume of a TorchIO image.

    Args:
        image: With a single channel.

    Returns:
        The volume.

    Raises:
        TonnoError: It has several channels, or values that are no numbers.
    """
    return from_xyz(_single_channel(image.data.detach().cpu().numpy()), image.affine)


def to_torchio(volume: Volume) -> ScalarImage:
    """Give a volume as a TorchIO image.

    Args:
        volume: Any.

    Returns:
        ``1 X Y Z`` float32, with its affine to RAS mm.

    Raises:
        ImportError: TorchIO is not installed.
    """
    import torch
    from torchio import ScalarImage

    array, affine = to_xyz(volume)
    return ScalarImage(tensor=torch.as_tensor(array[None]), affine=affine)


def _single_channel(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.ndim == 4 and len(array) == 1:
        return np.asarray(array[0])
    if array.ndim == 3:
        return array
    raise TonnoError(
        f"`volume`: an image of shape {tuple(array.shape)}, expected 1 X Y Z; choose one channel, or one of a batch"
    )
