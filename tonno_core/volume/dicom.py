"""The one DICOM series of a folder: which files are its slices, and what becomes of the others."""

from __future__ import annotations

import re
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tonno_core.errors import TonnoError, reason_of
from tonno_core.output import check_name
from tonno_core.volume.itk import SPACING_LIMITS_MM, affine_of, check_affine, check_header, run_itk
from tonno_core.volume.signature import packing
from tonno_core.volume.volume import FloatArray, Matrix

# What tells images at one position apart, and what else is asked of a header.
_PHASES = (
    "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue",
    "TriggerTime", "NominalPercentageOfCardiacPhase", "ConvolutionKernel", "ImageType", "AcquisitionNumber",
    "SliceThickness",
)  # fmt: skip
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber", "ImagesInAcquisition", "NumberOfSlices",
    "ImagePositionPatient", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames", *_PHASES,
]  # fmt: skip
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Of one slice; one of 8192 x 8192 pixels has 128 MB.
_MOST_INFLATED, _PART = 1 << 28, 1 << 16
_DIRECTORY = "1.2.840.10008.1.3.10"
# Endings that are added to a name while a file is packed or on its way.
_ADDED = re.compile(r"\.(gz|bz2|xz|zst|lz4|z|zip|part|partial|filepart|crdownload|download|tmp)$", re.IGNORECASE)
_SHOWN = 3
# A value as these elements have it; where lengths are damaged, any other element's may be in its place.
_TECHNICAL = re.compile(r"[\w .+-]{1,24}|\[[\w ',.+-]{1,80}\]")
_NO_PIXELS = "without pixels, or cut off before them"


@dataclass(frozen=True)
class Series:
    """The slices of a folder.

    Attributes:
        files: along the normal of the slices.
        ijk_to_ras: 4 x 4, from the centre of voxel (i, j, k, 1) to RAS mm.
        first: has read the header of the first file.
        concerns: what a reader of the results should know of the folder.
    """

    files: tuple[Path, ...]
    ijk_to_ras: Matrix
    first: sitk.ImageFileReader
    concerns: tuple[str, ...]

    def read(self) -> FloatArray:
        """Read the voxels.

        Returns:
            ``Z Y X``.

        Raises:
            TonnoError: a file cannot be decoded.
        """
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(file) for file in self.files])
        reader.SetOutputPixelType(sitk.sitkFloat32)  # before rescaling: slopes may differ between slices (PET)
        try:
            array: FloatArray = sitk.GetArrayFromImage(run_itk(self.files[0].parent, reader.Execute))
        except TonnoError:
            for file in self.files:
                _decode(file)  # raises with the name of the one at fault
            raise
        return array


@dataclass(frozen=True)
class _File:
    """What a look at a file has found.

    Attributes:
        path: its place.
        header: what it says of itself, where it is DICOM.
        fault: why it gives no image; None where it does.
        dicom: whether it claims to be DICOM.
    """

    path: Path
    header: dict[str, Any]
    fault: str | None
    dicom: bool

    @property
    def kind(self) -> str:
        """Name of its SOP class."""
        from pydicom.uid import UID

        stated = str(self.header.get("SOPClassUID", ""))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one that does not conform, with all that it says
            name = str(UID(stated).name)
        if name == stated:  # none that is known; a damaged header may say anything there, a patient's name too
            return "an unknown SOP class" if stated else "no SOP class"
        return name.removesuffix(" Storage")

    def number(self, name: str) -> int:
        """Return a whole number of the header, 0 where it has none."""
        try:
            return int(self.header.get(name, 0))
        except (TypeError, ValueError):
            return 0


def find_series(folder: Path) -> Series:
    """Find the files of a folder's only series, look into each file's header, and check that the slices are a stack.

    Args:
        folder: its subfolders are not looked into.

    Returns:
        The series.

    Raises:
        TonnoError: there is none or more than one; a file claims to belong and gives no image; the slices are no stack.
    """
    paths = sorted(folder.iterdir())
    for path in paths:
        check_name(path)
    folders = [path for path in paths if path.is_dir()]
    looked = [_look(path) for path in paths if path.is_file() or not path.exists()]
    images = [file for file in looked if file.fault is None]
    rest = [file for file in looked if file.fault is not None]
    faulty = [file for file in rest if _claims(file, images)]
    if faulty:
        advice = "export or copy them again" if images else "expected the slices of one series"
        raise TonnoError(
            f"{folder}: {len(faulty)} of {len(images) + len(faulty)} files give no image: {_by_fault(faulty)}; {advice}"
        )
    if not images:
        inside = f" ({_by_fault(rest)})" if rest else ""
        inside += f"; folders in it are not looked into ({len(folders)})" if folders else ""
        raise TonnoError(f"{folder}: no DICOM image in this folder{inside}; expected the slices of one series")
    images = _of_one_series(folder, images)
    images, copies = _without_copies(images)
    files, affine, first = _sort_slices(folder, images)
    check_affine(folder, affine)
    concerns = [*_aside(rest), *_copied(copies), *_incomplete(files)]
    return Series(tuple(file.path for file in files), affine, first, tuple(concerns))


# -------------------- one file


def _look(path: Path) -> _File:
    """Look into a file, which may be a link to nothing or closed to this user."""
    try:
        return _open(path)
    except OSError as error:
        fault = "a link to nothing" if not path.exists() else f"cannot be opened ({reason_of(error)})"
        return _File(path, {}, fault, False)


def _open(path: Path) -> _File:
    """Read a file's header and see whether its pixels are all there."""
    from pydicom import dcmread

    with path.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that do not conform
        head = stream.read(132)
        dicom = head[128:] == b"DICM"
        if not dicom and head[:2] != b"\x08\x00":  # a file without preamble begins with group 8
            packed = packing(head)
            return _File(path, {}, "empty" if not head else f"packed by {packed}" if packed else "no DICOM file", False)
        try:
            if dicom and _inflates_too_far(stream):
                return _File(path, {}, f"of more than {_MOST_INFLATED >> 20} MB once it is inflated", dicom)
            stream.seek(0)
            read = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
            header = {name: value for name in _TAGS if (value := _value(read, name)) is not None}
            syntax = str(read.file_meta.get("TransferSyntaxUID", "")) if dicom else ""
            if dicom:
                header.setdefault("SOPClassUID", str(read.file_meta.get("MediaStorageSOPClassUID", "")))
            if syntax == _DEFLATED:
                stream.seek(0)
                pixels = dcmread(stream).get("PixelData")
                fault: str | None = _NO_PIXELS if pixels is None else _too_short(len(pixels), header)
            else:
                fault = _fault_of_pixels(stream, path.stat().st_size, header)
        except Exception:  # damaged bytes make pydicom raise nearly any kind
            return _File(path, {}, "cut off or damaged in its header", dicom)
        return _File(path, header, fault, dicom or "SOPClassUID" in header)


def _inflates_too_far(stream: IO[bytes]) -> bool:
    """Tell whether a deflated file, which pydicom inflates whole, is made to fill the memory."""
    head = stream.read(12)  # its group of transfer syntax and the like, which begins with its length
    meta = stream.read(min(int.from_bytes(head[8:], "little"), _PART))
    if _DEFLATED.encode() not in meta:
        return False
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while size <= _MOST_INFLATED and (block := inflater.unconsumed_tail or stream.read(_PART)):
        size += len(inflater.decompress(block, _PART))
    return size > _MOST_INFLATED


def _value(header: Any, name: str) -> Any:
    """Return a value of a header; None where it is absent, empty or does not conform."""
    try:
        value = header.get(name)
    except Exception:
        return None
    return None if value is None or str(value) == "" else value


def _fault_of_pixels(stream: IO[bytes], size: int, header: dict[str, Any]) -> str | None:
    """Say why the pixels, at whose tag a stream stands, are not all there; None where they are."""
    start = stream.tell()
    tag = stream.read(12)
    little = tag[:2] == b"\xe0\x7f"
    if not little and tag[:2] != b"\x7f\xe0":
        return _NO_PIXELS
    explicit = tag[4:6] in (b"OW", b"OB", b"UN", b"OF", b"OD")
    length = int.from_bytes(tag[8:12] if explicit else tag[4:8], "little" if little else "big")
    begin = start + (12 if explicit else 8)
    if length != 0xFFFFFFFF:
        return "cut off in its pixels" if begin + length > size else _too_short(length, header)
    stream.seek(begin)
    fragments = -1  # the first item is a table of offsets
    while (item := stream.read(8))[:4] == b"\xfe\xff\x00\xe0" and len(item) == 8:
        stream.seek(int.from_bytes(item[4:], "little"), 1)
        fragments += 1
    return None if item[:4] == b"\xfe\xff\xdd\xe0" and fragments > 0 else "cut off in its pixels"


def _too_short(length: int, header: dict[str, Any]) -> str | None:
    """Say that uncompressed pixels are fewer bytes than rows and columns ask for, if they are."""
    if int(header.get("SamplesPerPixel", 1)) != 1:  # colors may share bytes
        return None
    count = int(header.get("Rows", 0)) * int(header.get("Columns", 0)) * int(header.get("NumberOfFrames", 1))
    asked = count * int(header.get("BitsAllocated", 1)) // 8
    return None if 0 < asked <= length else "of fewer pixels than its header says"


def _claims(file: _File, images: Sequence[_File]) -> bool:
    """Tell whether a file without an image claims to be a slice of the series."""
    if file.path.name.startswith("."):  # what macOS and others put beside each file
        return False
    if file.dicom:
        kind = file.header.get("SOPClassUID")
        return not kind or "Image" in file.kind or kind in {image.header.get("SOPClassUID") for image in images}
    names = [image.path.name for image in images]
    name = _ADDED.sub("", file.path.name)
    alike = _pattern(name) in {_pattern(image) for image in names if re.search(r"\d", image)}
    suffixes = {Path(image).suffix.lower() for image in names}
    suffix = Path(name).suffix.lower()
    return alike or (suffix in suffixes and (suffix != "" or file.fault == "empty"))


def _pattern(name: str) -> str:
    """Return a name with a # for each number."""
    return re.sub(r"\d+", "#", name.lower())


# -------------------- the folder


def _of_one_series(folder: Path, images: Sequence[_File]) -> list[_File]:
    """Return the images, which must be of one series and of one kind."""
    series: dict[str, list[_File]] = defaultdict(list)
    for image in images:
        series[str(image.header.get("SeriesInstanceUID", ""))].append(image)
    found = sorted(series.values(), key=len, reverse=True)
    if len(found) > 1:
        counts = ", ".join(str(len(files)) for files in found)
        others = "; ".join(f"{files[0].kind}: {_names(files)}" for files in found[1:4])
        raise TonnoError(
            f"{folder}: {len(found)} series ({counts} slices); expected one: copy it to a folder of its own "
            f"(not of the largest: {others}{'; ...' if len(found) > 4 else ''})"
        )
    usual = _most(image.kind for image in images)
    odd = [image for image in images if image.kind != usual]
    if odd:
        raise TonnoError(f"{folder}: {_names(odd)}: {odd[0].kind}, the other files {usual}; take it out of the folder")
    return list(images)


def _without_copies(images: Sequence[_File]) -> tuple[list[_File], list[_File]]:
    """Separate copies of an instance, whose geometry and pixels must be its own, from the images."""
    first: dict[str, _File] = {}
    kept, copies = [], []
    for image in images:
        instance = image.header.get("SOPInstanceUID")
        original = first.setdefault(str(instance), image) if instance else image
        if original is image:
            kept.append(image)
            continue
        one, other = _decode(original.path), _decode(image.path)
        same = one.GetSize() == other.GetSize() and np.allclose(affine_of(one), affine_of(other), rtol=0, atol=1e-6)
        if not (same and np.array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(other))):
            raise TonnoError(
                f"{image.path}: states the same SOPInstanceUID as {original.path.name}, but is another image; "
                "take out the one that does not belong, or export the series again"
            )
        copies.append(image)
    return kept, copies


def _decode(path: Path) -> sitk.Image:
    """Read one file with its pixels."""
    return run_itk(path, lambda: sitk.ReadImage(str(path)))


def _aside(rest: Sequence[_File]) -> list[str]:
    """Count the files that are no images of the series; hidden files and a DICOMDIR go without saying."""
    told = [
        file for file in rest if not file.path.name.startswith(".") and file.header.get("SOPClassUID") != _DIRECTORY
    ]
    objects, others = [file for file in told if file.dicom], [file for file in told if not file.dicom]
    parts = [f"{_files(objects)} of DICOM without an image ({_names(objects, kind=True)})"] if objects else []
    parts += [f"{_files(others)} of another kind ({_names(others)})"] if others else []
    return [f"left aside in the folder: {', '.join(parts)}"] if parts else []


def _copied(copies: Sequence[_File]) -> list[str]:
    """Say which files were copies."""
    return [f"left out as identical copies of other slices: {_names(copies)}"] if copies else []


def _incomplete(files: Sequence[_File]) -> list[str]:
    """Say why a series may end early or begin late, as far as its headers tell."""
    reasons = []
    numbers = sorted({file.number("InstanceNumber") for file in files if "InstanceNumber" in file.header})
    if len(numbers) == len(files):
        step = min(after - before for before, after in pairwise(numbers))  # one phase of n has each nth number
        absent = (numbers[-1] - numbers[0]) // step + 1 - len(numbers)
        if numbers[0] > step:
            reasons.append(f"their instance numbers begin at {numbers[0]}")
        if absent:
            reasons.append(f"{absent} instance numbers between {numbers[0]} and {numbers[-1]} are absent")
    counts = Counter(file.number("AcquisitionNumber") for file in files)
    stated: Counter[int] = Counter()
    for file in files:
        acquisition = file.number("AcquisitionNumber")
        stated[acquisition] = max(stated[acquisition], file.number("ImagesInAcquisition"))
    if any(counts[acquisition] < stated[acquisition] for acquisition in counts):
        reasons.append(f"their headers count {sum(stated.values())} images in the acquisition")
    of_series = max(file.number("NumberOfSlices") for file in files)
    if len(files) < of_series:
        reasons.append(f"their headers count {of_series} slices")
    return [f"{len(files)} slices are here, but {' and '.join(reasons)}: some may be missing"] if reasons else []


# -------------------- the stack


def _sort_slices(folder: Path, files: Sequence[_File]) -> tuple[list[_File], Matrix, sitk.ImageFileReader]:
    """Sort files along the slice normal and fit the affine to their positions, which must be evenly spaced."""
    headers = [_slice_header(file.path) for file in files]
    first = headers[0]
    for file, header in zip(files, headers, strict=True):
        if header.GetSize()[2] > 1:
            raise TonnoError(
                f"{file.path}: DICOM of {header.GetSize()[2]} frames in a file; expected one: convert it to NIfTI"
            )
    width, height, _ = first.GetSize()
    check_header(folder, first, (width, height, len(files)))
    affines = np.array([affine_of(header) for header in headers])
    columns = affines[:, :3, :2]
    # 1e-4 of a pixel moves the far edge of 1000 pixels by a tenth of a pixel.
    limit = 1e-4 * min(first.GetSpacing()[:2])
    if len({_layout(header) for header in headers}) > 1 or np.ptp(columns, axis=0).max() > limit:
        raise TonnoError(
            f"{folder}: slices differ in size, pixel spacing or orientation; expected one stack"
            f"{_odd_ones(files, headers, columns, limit)}"
        )
    positions = affines[:, :3, 3]
    order = np.argsort(positions @ np.cross(columns[0, :, 0], columns[0, :, 1]), kind="stable")
    affine = np.eye(4)
    affine[:3, :2] = columns[0]
    ordered = [files[i] for i in order]
    affine[:3, 2] = _even_step(folder, ordered, positions[order])
    affine[:3, 3] = positions[order[0]]
    return ordered, affine, headers[order[0]]


def _slice_header(path: Path) -> sitk.ImageFileReader:
    """Return a reader that has read the header of one file of a series."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    run_itk(path, reader.ReadImageInformation)
    return reader


def _layout(header: sitk.ImageFileReader) -> tuple[int, ...]:
    """Return what all slices have in common: columns, rows, values per pixel."""
    return (*header.GetSize()[:2], header.GetNumberOfComponents())


def _odd_ones(
    files: Sequence[_File],
    headers: Sequence[sitk.ImageFileReader],
    columns: npt.NDArray[np.float64],
    limit: float,
) -> str:
    """Name the slices that differ from most: in size, or else in pixel spacing or orientation."""
    layouts = [_layout(header) for header in headers]
    usual = _most(layouts)
    odd = [file for file, layout in zip(files, layouts, strict=True) if layout != usual]
    how = f"most have {usual[0]} x {usual[1]} pixels"
    if not odd:
        away = np.abs(columns - np.median(columns, axis=0)).max(axis=(1, 2))
        odd = [file for file, far in zip(files, away, strict=True) if far > limit]
        how = "the others agree"
    return f": take out {_names(odd)} ({how})" if 0 < len(odd) <= len(files) / 2 else ""


def _even_step(folder: Path, files: Sequence[_File], positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Compute the vector (3) in mm from each slice to the next; positions: slices x 3, in the order of the files."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    typical = float(np.median(steps))
    nowhere = [file for file in files if "ImagePositionPatient" not in file.header]
    unplaced = f"; without a position: {_names(nowhere)}" if nowhere else ""
    if steps.min() < 0.01 * typical or typical < SPACING_LIMITS_MM[0]:
        at = int(np.argmin(steps))
        raise TonnoError(
            f"{folder}: several slices lie at one position, such as {_pair(files[at], files[at + 1])}{unplaced}; "
            "expected one slice per position: export phases, echoes or series separately"
        )
    even = np.linspace(positions[0], positions[-1], len(positions))
    # A missing slice moves some slice by half a step or more; positions rounded to 0.1 mm move one far less.
    if np.linalg.norm(positions - even, axis=1).max() > 0.2 * typical:
        missing = int(np.sum(np.maximum(np.rint(steps / typical) - 1, 0)))
        at = int(np.argmax(steps))
        raise TonnoError(
            f"{folder}: slices are not evenly spaced: {steps.min():.4g} to {steps.max():.4g} mm apart, "
            f"mostly {typical:.4g}, {missing} missing, the widest gap between {files[at].path.name} and "
            f"{files[at + 1].path.name}{unplaced}; export the complete series, or resample it"
        )
    return np.asarray((positions[-1] - positions[0]) / (len(positions) - 1), dtype=np.float64)


def _pair(one: _File, other: _File) -> str:
    """Name two files, and what tells them apart."""
    for name in _PHASES:
        values = [str(file.header.get(name, "none")) for file in (one, other)]
        if values[0] != values[1]:
            shown = " and ".join(value if _TECHNICAL.fullmatch(value) else "another" for value in values)
            return f"{one.path.name} and {other.path.name} ({name} {shown})"
    return f"{one.path.name} and {other.path.name}"


# -------------------- words


def _by_fault(files: Sequence[_File]) -> str:
    """Name files by what is wrong with them."""
    faults: dict[str, list[_File]] = defaultdict(list)
    for file in files:
        faults[str(file.fault)].append(file)
    return "; ".join(f"{fault}: {_names(found)}" for fault, found in faults.items())


def _names(files: Sequence[_File], *, kind: bool = False) -> str:
    """Name the first files, and count the others."""
    shown = [f"{file.path.name}, {file.kind}" if kind else file.path.name for file in files[:_SHOWN]]
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ("; " if kind else ", ").join(shown) + more


def _files(files: Sequence[_File]) -> str:
    return f"{len(files)} file{'s' * (len(files) != 1)}"


def _most(values: Iterable[Any]) -> Any:
    """Return the most frequent value."""
    return Counter(values).most_common(1)[0][0]
