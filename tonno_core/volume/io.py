"""Reading and writing volumes with SimpleITK."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tonno_core.errors import TonnoError, reason_of
from tonno_core.output import atomic_file, check_name, partial_folder
from tonno_core.volume.dicom import find_series
from tonno_core.volume.header import Header
from tonno_core.volume.intensity import check_channels
from tonno_core.volume.itk import (
    LPS_TO_RAS,
    affine_of,
    captured_stderr,
    channels_in,
    check_affine,
    check_header,
    run_itk,
)
from tonno_core.volume.orientation import describes, orientation_concerns, put_forms, read_forms
from tonno_core.volume.signature import is_lone_header, kind_of, missing_data, odd_dimensions
from tonno_core.volume.volume import MOST_CHANNELS, FloatArray, Forms, Matrix, Volume
from tonno_core.words import IMAGE_ENDINGS

WRITABLE = (".nii", ".nii.gz", ".nrrd")
# NIfTI's codes of RGB and RGBA.
_COLORS = ("128", "2304")
# Bytes that are unpacked at a time.
_BLOCK = 1 << 22
# Accepted magnitudes of voxels, and least contrast; beyond these, sums of squares leave float32.
LARGEST_VOXEL, SMALLEST_CONTRAST = 1e15, 1e-15


def read_volume(
    path: str | os.PathLike[str], *, replace_nonfinite: bool = False, intensity: str | None = None
) -> Volume:
    """Read NIfTI, NRRD, MetaImage, or a folder that holds one DICOM series.

    Where a NIfTI file's qform and sform disagree, ITK's choice holds, the same as in 3D Slicer: the sform if its
    code is 1 (and it has no shear) or the qform's is 0, else the qform. A tilted gantry gives a sheared ``ijk_to_ras``.

    A file of several channels is one whose voxels have several values, or a 4D one: the volumes along its fourth axis.

    Args:
        path: a file or folder.
        replace_nonfinite: put a channel's lowest finite value where its voxels are NaN or infinite.
        intensity: of the model that is to look at it, which tells how many channels it has to have; None for any.

    Returns:
        The volume.

    Raises:
        TonnoError: it is anything else than a 3D volume of finite, varying numbers in a sane position, or has other
            channels than the model looks at.
    """
    path = Path(path)
    volume = _read(path)
    if intensity is not None:
        try:
            check_channels(len(volume.channels), intensity)
        except TonnoError as error:
            raise TonnoError(f"{path}: {error}") from None
    several = bool(volume.further)
    first, *others = (
        _check_voxels(f"{path}: channel {number}" if several else str(path), array, replace_nonfinite)
        for number, array in enumerate(volume.channels, start=1)
    )
    return dataclasses.replace(volume, array=first, further=tuple(others))


def read_mask(path: str | os.PathLike[str]) -> Volume:
    """Read a mask or label map, which may be empty, from any format of `read_volume`.

    Args:
        path: a file or folder.

    Returns:
        The mask.

    Raises:
        TonnoError: it cannot be read, or holds other values than whole numbers.
    """
    path = Path(path)
    mask = _single(path, _read(path), "a mask")
    odd = mask.array[mask.array != np.rint(mask.array)]  # includes NaN
    if odd.size:
        raise TonnoError(f"{path}: {odd.size} voxels are no whole numbers, such as {odd[0]:g}; expected a mask")
    return mask


def read_heatmap(path: str | os.PathLike[str]) -> Volume:
    """Read what `write_volume` wrote, of whatever values: a heatmap may be the same everywhere.

    Args:
        path: a file.

    Returns:
        The heatmap.

    Raises:
        TonnoError: it cannot be read.
    """
    return _single(Path(path), _read(Path(path)), "a heatmap")


def _single(path: Path, volume: Volume, what: str) -> Volume:
    """Refuse what has several channels."""
    if volume.further:
        raise TonnoError(f"{path}: has {len(volume.channels)} channels; expected {what}, of one: extract it first")
    return volume


def _read(path: Path) -> Volume:
    """Read a file or folder."""
    check_name(path)
    try:
        if path.is_dir():
            series = find_series(path)
            return Volume(series.read(), series.ijk_to_ras, concerns=series.concerns)
        (array, *further), ijk_to_ras = _read_file(path)
        z, y, x = array.shape
        return Volume(array, ijk_to_ras, *_orientation(path, ijk_to_ras, (x, y, z)), further=tuple(further))
    except OSError as error:
        raise TonnoError(f"{path}: cannot be opened: {reason_of(error)}") from None


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read grid and type of voxels of a volume in milliseconds: no voxel is read.

    Args:
        path: a file or folder, see `read_volume`.

    Returns:
        The header.

    Raises:
        TonnoError: `read_volume` would refuse it, damage and values of the voxels aside.
    """
    path = Path(path)
    check_name(path)
    read: tuple[Forms | None, tuple[str, ...]] = (None, ())
    try:
        if path.is_dir():
            series = find_series(path)
            reader, ijk_to_ras, read = series.first, series.ijk_to_ras, (None, series.concerns)
            width, height = reader.GetSize()[:2]
            size, channels = (width, height, len(series.files)), 1
        else:
            reader = _open_file(path)
            size, ijk_to_ras, channels = reader.GetSize()[:3], affine_of(reader), channels_in(reader)
            read = _orientation(path, ijk_to_ras, size)
    except OSError as error:
        raise TonnoError(f"{path}: cannot be opened: {reason_of(error)}") from None
    voxels = sitk.GetPixelIDValueAsString(reader.GetPixelID()).removeprefix("vector of ")
    return Header(size, ijk_to_ras, voxels, *read, channels=channels)


def write_volume(
    volume: Volume, path: str | os.PathLike[str], *, dtype: Literal["float32", "uint8"] = "float32"
) -> None:
    """Write compressed NIfTI or NRRD with the volume's geometry; ``path`` then holds all of it or is untouched.

    A NIfTI file gets qform, sform and codes of the file that the volume, or the scan under it, was read from.

    Args:
        volume: the volume; of several channels, each voxel gets as many values.
        path: the file.
        dtype: of the stored voxels; ``uint8`` for masks and label maps.

    Raises:
        TonnoError: `check_writable` refuses it, or the disk is full, read-only and so on.
        ValueError: ``uint8`` cannot hold the values, or another ``dtype`` was asked for.
    """
    path, stored = Path(path), ""
    with suppress(TypeError):  # no type at all
        stored = np.dtype(dtype).name  # np.uint8 is one of them, too
    if stored not in ("float32", "uint8"):
        raise ValueError(f"dtype is {dtype}, expected float32 or uint8")
    check_writable(volume.ijk_to_ras, path)
    values = np.stack(volume.channels, axis=-1) if volume.further else volume.array
    with np.errstate(invalid="ignore"):  # a NaN that becomes uint8 is found by the comparison below
        array = values.astype(stored, copy=False)
    if stored == "uint8" and not np.array_equal(array, values):
        raise ValueError("uint8 was asked for, but the volume holds other values than 0..255")
    with atomic_file(path) as partial:
        _write_and_verify(array, volume, partial, path)


def check_writable(ijk_to_ras: Matrix, path: str | os.PathLike[str]) -> None:
    """Check before a long computation that `write_volume` can write this name and geometry.

    Args:
        ijk_to_ras: 4 x 4, of the volume.
        path: the file.

    Raises:
        TonnoError: the format is unknown, or cannot hold the geometry.
    """
    path = Path(path)
    check_name(path)
    suffix = _suffix(path)
    if suffix not in WRITABLE:
        raise TonnoError(f"{path}: cannot write this format; name it {' or '.join(WRITABLE)}")
    axes = ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    # ITK silently straightens a sheared NIfTI; below 1e-4 the far corner of 500 voxels moves by 0.05 voxel.
    if suffix != ".nrrd" and cosine > 1e-4:
        degrees = 90 - math.degrees(math.acos(min(cosine, 1.0)))
        raise TonnoError(
            f"{path}: the volume's axes are {degrees:.2g} degrees away from perpendicular, "
            "which NIfTI cannot hold here; write .nrrd, or resample the input to perpendicular axes"
        )


# -------------------- files


def _read_file(path: Path) -> tuple[list[FloatArray], Matrix]:
    """Read the voxels of each channel, NaN and infinities as NaN, and ijk_to_ras of a file."""
    with _alone(path) as file:
        reader = _open_file(path, file)
        several = reader.GetNumberOfComponents() > 1
        reader.SetOutputPixelType(sitk.sitkVectorFloat32 if several else sitk.sitkFloat32)
        nonfinite = _nifti_nonfinite(path, reader) if _suffix(path) in (".nii", ".nii.gz") else None
        array = sitk.GetArrayFromImage(run_itk(path, reader.Execute))
    if several:
        array = np.moveaxis(array, 3, 0)
    channels = [array] if array.ndim == 3 else [np.ascontiguousarray(channel) for channel in array]
    if nonfinite is not None:  # NIfTI keeps one channel after the other
        for channel, places in zip(channels, nonfinite.reshape(-1, *channels[0].shape), strict=True):
            channel[places] = np.nan
    return channels, affine_of(reader)


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Yield a name under which ITK reads this file: of x.nii.gz beside an x.nii it would read the voxels of x.nii."""
    if _suffix(path) != ".nii.gz" or not path.with_suffix("").exists():
        yield path
        return
    with partial_folder(Path(tempfile.gettempdir())) as folder:
        link = folder / path.name
        try:
            link.symlink_to(path.absolute())
        except OSError:  # as on Windows without the right to
            shutil.copyfile(path, link)
        yield link


def _open_file(path: Path, file: Path | None = None) -> sitk.ImageFileReader:
    """Return a reader, of ``file`` where it is another name of it, that has read a 3D volume's header."""
    suffix = _suffix(path)
    if not path.exists():
        raise TonnoError(f"{path}: no such file or folder; check the path")
    if not path.is_file():  # opening a pipe would wait for whoever writes to it, for ever
        raise TonnoError(f"{path}: is a pipe or a device, expected a file; copy the image into one")
    if suffix not in IMAGE_ENDINGS:
        kind = (kind_of(path) or "").partition(":")[0]
        raise TonnoError(
            f"{path}: unknown format{f' ({kind})' if kind else ''}; expected a file {', '.join(IMAGE_ENDINGS)} or a "
            "folder with one DICOM series"
        )
    with path.open("rb") as stream:
        if not stream.read(1):
            raise TonnoError(f"{path}: the file is empty; export or copy it again")
    wrong = odd_dimensions(path) or missing_data(path)
    if wrong:
        raise TonnoError(f"{path}: {wrong}")
    if is_lone_header(path):
        raise TonnoError(f"{path}: the header of a pair of files without its voxels (.img); save both as one .nii")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file or path))
    run_itk(path, reader.ReadImageInformation)
    if suffix in (".nii", ".nii.gz") and reader.GetMetaData("datatype") in _COLORS:
        raise TonnoError(
            f"{path}: {reader.GetNumberOfComponents()} values per voxel, a color (RGB); expected one: make it grey"
        )
    check_header(path, reader, reader.GetSize(), MOST_CHANNELS)
    check_affine(path, affine_of(reader))
    return reader


def _nifti_nonfinite(path: Path, reader: sitk.ImageFileReader) -> npt.NDArray[np.bool_] | None:
    """Find the voxels of a file of floats that are NaN or infinite: ITK would silently give 0 for them.

    Refuses a truncated file: ITK would fill what is missing with zeros, too.
    """
    count = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    start = int(float(reader.GetMetaData("vox_offset")))
    stop = start + count * int(reader.GetMetaData("bitpix")) // 8
    kind = {"16": "f4", "64": "f8"}.get(reader.GetMetaData("datatype"))
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    content, size = bytearray(), 0
    try:
        with gzip.open(path) if compressed else path.open("rb") as unpacked:
            # To the end, where gzip's checksum is; what is no voxel of floats is not kept, however much it unpacks to.
            while block := cast("IO[bytes]", unpacked).read(_BLOCK):
                content += block[: max(0, stop - size)] if kind else b""
                size += len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise TonnoError(f"{path}: truncated or damaged gzip data; copy it again") from None
    if size < stop:
        raise TonnoError(f"{path}: truncated: {size} bytes, its header asks for {stop}; copy it again")
    if kind is None:
        return None
    order = "<" if content.startswith((348).to_bytes(4, "little")) else ">"
    return np.asarray(~np.isfinite(np.frombuffer(content, order + kind, count, start)))


def _check_voxels(path: str, array: FloatArray, replace_nonfinite: bool) -> FloatArray:
    """Refuse voxels that are not finite, do not vary or are too large for float32; returns the voxels."""
    finite = np.isfinite(array)
    bad = array.size - int(np.count_nonzero(finite))
    if bad == array.size:
        raise TonnoError(f"{path}: no finite voxel in it; expected an image")
    if bad and not replace_nonfinite:
        raise TonnoError(
            f"{path}: {bad} of {array.size} voxels are NaN or infinite; clean the file, "
            "or use `replace_nonfinite` to give them the lowest finite value"
        )
    if bad:
        array[~finite] = array[finite].min()
    if array.min() == array.max():
        raise TonnoError(f"{path}: every voxel is {array.flat[0]:g}; expected an image with contrast")
    low, high = float(array.min()), float(array.max())
    largest, contrast = max(-low, high), high - low
    if largest > LARGEST_VOXEL or contrast < SMALLEST_CONTRAST:
        raise TonnoError(
            f"{path}: voxels from {array.min():g} to {array.max():g}; expected magnitudes up to {LARGEST_VOXEL:g} and "
            f"differences from {SMALLEST_CONTRAST:g}: repair the image, or its rescaling"
        )
    return array


# -------------------- geometry


def _orientation(
    path: Path, ijk_to_ras: Matrix, size_ijk: tuple[int, int, int]
) -> tuple[Forms | None, tuple[str, ...]]:
    """Read what a file states of its orientation, and say where that is doubtful."""
    forms = read_forms(path) if _suffix(path) in (".nii", ".nii.gz") else None
    return forms, tuple(orientation_concerns(path, forms, (ijk_to_ras, size_ijk)))


def _suffix(path: Path) -> str:
    """Return the suffix in lower case, ``.nii.gz`` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


# -------------------- writing


def _write_and_verify(array: npt.NDArray[np.generic], volume: Volume, temporary: Path, path: Path) -> None:
    """Write ``Z Y X`` or ``Z Y X C``, read back and compare: niftilib reports success on a full disk."""
    ijk_to_ras, forms = volume.ijk_to_ras, volume.forms
    if _suffix(path) == ".nrrd" or (forms and not describes(forms, ijk_to_ras, volume.size_ijk)):
        forms = None
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    ijk_to_lps = LPS_TO_RAS @ ijk_to_ras
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())
    try:
        with captured_stderr():
            write_image(image, temporary, forms)
            size = image.GetSize()
            del image  # three copies of a large heatmap at once would be its run's most memory
            written = sitk.ReadImage(str(temporary))
        intact = written.GetSize() == size and _equal(sitk.GetArrayViewFromImage(written), array)
    except RuntimeError:
        intact = False
    if not intact:
        cause = _why_writing_failed(temporary, array.nbytes)
        raise TonnoError(f"{path}: cannot be written: {cause}; check the folder, or choose another")
    last = [n - 1 for n in size]
    corners = np.array([[i, j, k, 1] for i in (0, last[0]) for j in (0, last[1]) for k in (0, last[2])])
    moved = np.abs(corners @ (affine_of(written) - ijk_to_ras).T).max()
    # NIfTI stores the affine as float32: 1e-7 of the distance; a twentieth of a voxel is far above it.
    if moved > 0.05 * spacing.min():
        raise TonnoError(f"{path}: this format would move the image by {moved:.2g} mm; write .nrrd")


def _equal(written: npt.NDArray[np.generic], array: npt.NDArray[np.generic]) -> bool:
    """Compare voxels plane by plane, to spare memory; NaN is equal to NaN."""
    planes = zip(written, array, strict=True)
    return all(np.array_equal(one, other, equal_nan=array.dtype != np.uint8) for one, other in planes)


def write_image(image: sitk.Image, path: Path, forms: Forms | None) -> None:
    """Write an ITK image compressed; NIfTI with qform and sform as given: ITK would write its own choice as both.

    Args:
        image: the image.
        path: in a folder of its own, see `atomic_file`: a file ``plain.nii`` may lie there meanwhile.
        forms: None for ITK's.

    Raises:
        RuntimeError: ITK failed.
        OSError: the disk is full or the like.
    """
    if forms is None:
        sitk.WriteImage(image, str(path), useCompression=True)
        return
    plain = path.with_name("plain.nii")
    sitk.WriteImage(image, str(plain))
    put_forms(plain, forms)
    if _suffix(path) == ".nii":
        plain.replace(path)
        return
    with plain.open("rb") as content, gzip.GzipFile(path, "wb", compresslevel=6, mtime=0) as packed:
        shutil.copyfileobj(content, packed)  # without the hour: the same image is the same file
    plain.unlink()


def _why_writing_failed(temporary: Path, size: int) -> str:
    """Let the operating system name the cause, which ITK hides: write as many plain bytes there."""
    try:
        temporary.write_bytes(bytes(size))
    except OSError as error:
        return f"{reason_of(error)} (about {size / 1e6:.2g} MB needed)"
    return "what was written cannot be read back"
