"""Calls into ITK whose failures become one clean line; its LPS millimetres, which are known in this file only."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import SimpleITK as sitk

from tonno_core.errors import TonnoError
from tonno_core.volume.signature import why_unreadable
from tonno_core.volume.volume import Matrix

SPACING_LIMITS_MM = (0.001, 100.0)
ORIGIN_LIMIT_MM = 1e6
# 8 GB of float32, of which a run needs several copies. A CT of 1024 x 1024 x 1000 voxels is half of it.
MOST_VOXELS = 2**31
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_STDERR_LOCK = threading.Lock()
_T = TypeVar("_T")


def run_itk(path: Path, action: Callable[[], _T]) -> _T:
    """Call ITK; its multi-line exceptions become one TonnoError.

    Args:
        path: the file that it is about, for messages.
        action: what to call.

    Returns:
        What ``action`` returns.

    Raises:
        TonnoError: ITK failed, or printed that the file is damaged.
    """
    failed = False
    with captured_stderr() as printed:
        try:
            result = action()
        except RuntimeError as error:
            failed = True
            printed.append(str(error))
    text = "\n".join(printed)
    if "only supports orthonormal direction" in text:
        raise TonnoError(f"{path}: the axes of its affine are sheared or singular; resample or repair it")
    if "unexpected scales in sform" in text:
        raise TonnoError(f"{path}: its sform and pixdim give different spacings; repair the header")
    # MetaIO reports damage on stderr only (versions differ in what they report otherwise).
    if failed or "Uncompress failed" in text or "data not read completely" in text:
        raise TonnoError(f"{path}: cannot be read; {why_unreadable(path)}")
    return result


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Capture what C++ libraries print to file descriptor 2, past ITK's switches, while a block runs.

    Yields:
        A list that holds the lines after the block.
    """
    lines: list[str] = []
    if sys.stderr is not None:
        sys.stderr.flush()
    with _STDERR_LOCK, _sink() as sink:
        try:
            saved = os.dup(2)
        except OSError:  # a windowed application has no stderr
            yield lines
            return
        os.dup2(sink.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            lines += sink.read().decode(errors="replace").splitlines()


def _sink() -> IO[bytes]:
    """Open a file without a name, in memory where the system has such: a scan can be read while the disk is full."""
    in_memory: Callable[[str], int] | None = getattr(os, "memfd_create", None)
    return tempfile.TemporaryFile() if in_memory is None else os.fdopen(in_memory("stderr"), "w+b")


def affine_of(image: sitk.Image | sitk.ImageFileReader) -> Matrix:
    """Return [direction * spacing | origin], converted from LPS to RAS.

    Args:
        image: an image of three axes, whatever further ones it has; or a reader that has read its header.

    Returns:
        4 x 4, from the centre of voxel (i, j, k, 1) to RAS mm.
    """
    ijk_to_lps, axes = np.eye(4), image.GetDimension()
    ijk_to_lps[:3, :3] = np.reshape(image.GetDirection(), (axes, axes))[:3, :3] * image.GetSpacing()[:3]
    ijk_to_lps[:3, 3] = image.GetOrigin()[:3]
    return np.asarray(LPS_TO_RAS @ ijk_to_lps, dtype=np.float64)


def channels_in(reader: sitk.ImageFileReader) -> int:
    """Count the channels of a file: the values of each voxel, or the volumes along a fourth axis.

    Args:
        reader: has read a header.

    Returns:
        Their number.
    """
    along = reader.GetSize()[3] if reader.GetDimension() == 4 else 1
    return int(along * reader.GetNumberOfComponents())


def check_header(path: Path, reader: sitk.ImageFileReader, size: tuple[int, ...], most: int = 1) -> None:
    """Refuse anything but real numbers on a 3D grid, before any voxel is read.

    Args:
        path: the file or folder, for messages.
        reader: has read a header.
        size: numbers of voxels along i, j, k; of several channels along a fourth axis also these.
        most: channels.

    Raises:
        TonnoError: it is anything else.
    """
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    shape = " x ".join(str(n) for n in size)
    if "complex" in kind:
        raise TonnoError(f"{path}: voxels are complex numbers; expected real ones: take the magnitude first")
    values = reader.GetNumberOfComponents()
    if values > most or (values > 1 and len(size) != 3):
        expected = "one: extract a channel first" if most == 1 else f"at most {most}: extract a few channels first"
        raise TonnoError(f"{path}: {values} values per voxel (color or vector image); expected {expected}")
    if 0 in size:
        raise TonnoError(f"{path}: the image is empty ({shape} voxels); export it again")
    if math.prod(size) > MOST_VOXELS:
        raise TonnoError(f"{path}: {shape} voxels; expected at most {MOST_VOXELS:,}: repair the header, or crop it")
    if len(size) != 3 and not (len(size) == 4 and size[3] <= most):
        advice = "give the 3D volume" if len(size) < 3 else "extract one 3D volume first"
        channels = f", or up to {most} channels along a fourth axis" if len(size) > 3 and most > 1 else ""
        raise TonnoError(f"{path}: a {len(size)}D image of {shape} voxels; expected 3D{channels}: {advice}")
    size = size[:3]
    if 1 in size:
        axis = ("first", "second", "third")[size.index(1)]
        raise TonnoError(
            f"{path}: a single slice, the {axis} axis has one voxel ({shape}); expected a volume: two or more"
        )


def check_affine(path: Path | str, ijk_to_ras: Matrix) -> None:
    """Refuse affines that are not finite, singular, or of absurd spacing or origin.

    Args:
        path: the file or folder, or another name, for messages.
        ijk_to_ras: 4 x 4, of the volume.

    Raises:
        TonnoError: it is one of these.
    """
    if not np.isfinite(ijk_to_ras).all():
        raise TonnoError(f"{path}: its affine has numbers that are not finite; repair the header")
    low, high = SPACING_LIMITS_MM
    with np.errstate(over="ignore"):  # 1e200 mm
        spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    if spacing.min() < low or spacing.max() > high:
        size = " x ".join(f"{mm:.4g}" for mm in spacing)
        raise TonnoError(f"{path}: voxels of {size} mm; expected {low:g} to {high:g} mm: repair the header")
    if abs(np.linalg.det(ijk_to_ras[:3, :3] / spacing)) < 1e-3:
        raise TonnoError(f"{path}: its affine is singular, the axes lie in one plane; repair the header")
    if np.abs(ijk_to_ras[:3, 3]).max() > ORIGIN_LIMIT_MM:
        origin = ", ".join(f"{mm:.7g}" for mm in ijk_to_ras[:3, 3])
        raise TonnoError(f"{path}: origin ({origin}) mm; expected within {ORIGIN_LIMIT_MM:g}: repair the header")
