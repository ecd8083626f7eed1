"""Writing images of many values per voxel, one value after the other, so that they never lie in memory at once.

NIfTI keeps such an image in this order: X Y Z 1 D with the intent "vector", as ITK writes and reads it, and with it
SimpleITK and 3D Slicer; nibabel sees five dimensions.
"""

from __future__ import annotations

import errno
import gzip
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tonno_core.errors import TonnoError
from tonno_core.output import atomic_file
from tonno_core.volume.io import check_writable
from tonno_core.volume.itk import LPS_TO_RAS, captured_stderr
from tonno_core.volume.volume import Matrix

ENDING = ".nii.gz"
# Where a NIfTI header keeps its eight dimensions; the most of one.
_DIMENSIONS, _MOST = 40, 32767
_HEADER_BYTES = 352
# Features are noise in their last digits: the slower levels save no more than this one.
_LEVEL = 1


def check_channels(path: Path, ijk_to_ras: Matrix, count: int) -> None:
    """Check before a long computation that `write_channels` can write this.

    Args:
        path: The file.
        ijk_to_ras: 4 x 4, of the image.
        count: D, values per voxel.

    Raises:
        TonnoError: The name ends otherwise, or NIfTI cannot hold the geometry or as many values.
    """
    if not path.name.endswith(ENDING):
        raise TonnoError(f"{path}: cannot write this format; name it {ENDING}")
    check_writable(ijk_to_ras, path)
    if count > _MOST:
        raise TonnoError(f"{path}: {count} values per voxel, NIfTI holds {_MOST}; write fewer `components`")


def write_channels(
    path: Path, channels: Iterable[npt.NDArray[np.float32]], count: int, shape: tuple[int, int, int], ijk_to_ras: Matrix
) -> None:
    """Write a compressed NIfTI image of D values per voxel; ``path`` then holds all of it or is untouched.

    Args:
        path: The file.
        channels: D times ``Z Y X``; each is asked for when the one before it is written.
        count: D.
        shape: Z Y X.
        ijk_to_ras: 4 x 4.

    Raises:
        TonnoError: `check_channels` refuses it, or the disk is full, read-only and so on.
        ValueError: There are not D channels, or one has another shape.
    """
    check_channels(path, ijk_to_ras, count)
    with atomic_file(path) as partial:
        header = _header(partial.with_name("header.nii"), count, shape, ijk_to_ras)
        written = 0
        # No name and time in it: the same numbers are the same file.
        with partial.open("wb") as file, gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as stream:
            stream.write(header)
            for channel in channels:
                if channel.shape != shape:
                    raise ValueError(f"a channel of shape {channel.shape} in an image of shape {shape}")
                stream.write(np.ascontiguousarray(channel, dtype="<f4").data)
                written += 1
        if written != count:
            raise ValueError(f"{written} channels, {count} were announced")


def _header(scratch: Path, count: int, shape: tuple[int, int, int], ijk_to_ras: Matrix) -> bytes:
    """Let ITK write the header of the smallest vector image at this place, and put in the sizes."""
    image = sitk.GetImageFromArray(np.zeros((2, 2, 2, 2), dtype=np.float32), isVector=True)
    ijk_to_lps = LPS_TO_RAS @ ijk_to_ras
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())
    try:
        with captured_stderr():
            sitk.WriteImage(image, str(scratch), useCompression=False)
    except RuntimeError as error:
        scratch.write_bytes(bytes(_HEADER_BYTES))  # the system says why, ITK does not
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
    header = bytearray(scratch.read_bytes()[:_HEADER_BYTES])
    if len(header) < _HEADER_BYTES:  # of a full disk ITK says nothing
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    struct.pack_into("<8h", header, _DIMENSIONS, 5, *shape[::-1], 1, count, 1, 1)
    return bytes(header)
