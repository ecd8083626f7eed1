"""What a file is by its first bytes, which files hold its voxels, and why it could not be read."""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

_PART = 65536
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_NRRD, _META, _NIFTI, _DICOM = "NRRD", "MetaImage", "NIfTI-1", "a DICOM file"
_PAIR = "the header of a pair of files (.hdr and .img)"
# First bytes of what is found under an image's name; after a colon, what helps.
_SIGNATURES = (
    (rb"NRRD000\d", _NRRD),
    (rb"(Comment|ObjectType|NDims|ObjectSubType) *=", _META),
    (rb"(?s).{128}DICM", _DICOM),
    (rb"\x1c\x02\0\0n[+i]2|\0\0\x02\x1cn[+i]2", "NIfTI-2: save it as NIfTI-1"),
    (rb"(?s)(\x5c\x01\0\0|\0\0\x01\x5c).{340}n\+1", _NIFTI),
    (rb"(?s)(\x5c\x01\0\0|\0\0\x01\x5c)", _PAIR),
    (rb"\x00\x00\x00\x01\x00\x00", "FreeSurfer's MGH"),
    (rb"\x89HDF|CDF", "MINC or HDF5"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89PNG|\xff\xd8\xff|II\*\0|MM\0\*|GIF8|BM", "a picture"),
    (rb"%PDF", "a PDF"),
    (rb"version https://git-lfs", "a pointer of Git LFS: get the image with git lfs pull"),
    (rb"\S*/annex/objects/", "a pointer of git-annex: get the image with git annex get"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page: download the image again"),
    (rb"\0{256}", "nothing but zeros, as a copy that was not finished: copy it again"),
)  # fmt: skip
_EXPECTED = {".nii": _NIFTI, ".nrrd": _NRRD, ".nhdr": _NRRD, ".mha": _META, ".mhd": _META}
_NIFTI_TYPES = {2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1792, 2304}  # that ITK has
# A detached header names the files that hold the voxels.
_DATA_FILE = {
    ".mhd": re.compile(rb"^ElementDataFile *= *(.+?)\s*$", re.MULTILINE),
    ".nhdr": re.compile(rb"^data ?file *: *(.+?)\s*$", re.MULTILINE | re.IGNORECASE),
}
_NUMBERED = re.compile(r"(.*)(%0?\d{0,2})[diu](\S*)\s+(-?\d{1,9})\s+(-?\d{1,9})(?:\s+([1-9]\d{0,8}))?(?:\s+\d+)?")
# Whatever stands before the line that ends a MetaImage's header; ITK keeps its numbers in arrays of ten.
_META_HEADER = re.compile(rb"(?s).*?(?=^ElementDataFile\b|\Z)", re.MULTILINE)
_DIMENSIONS = re.compile(rb"^\W*NDims\b[ \t]*[=:]?[ \t]*([^\r\n]*)", re.MULTILINE)
# Slices of a volume in files of their own; a header that counts more is damaged, or made to fill the memory.
_MOST_FILES = 65536
_DAMAGED = "it is truncated, damaged or in another format: export or copy it again"


def packing(head: bytes) -> str | None:
    """Tell what has packed a file.

    Args:
        head: its first bytes.

    Returns:
        The program's name; None where it is not packed.
    """
    return next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)


def kind_of(path: Path) -> str | None:
    """Tell what a file is by its first bytes; inside of gzip, if its name says so.

    Args:
        path: the file.

    Returns:
        A name to be read by people, and after a colon what helps; None where the bytes say nothing.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as stream:
        head = stream.read(512)
    if packing(head) == "gzip" and path.suffix.lower() == ".gz":
        try:
            with gzip.open(path) as unpacked:
                head = cast("IO[bytes]", unpacked).read(512)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return None
    packed = packing(head)
    if packed:
        return f"packed by {packed}"
    return next((name for pattern, name in _SIGNATURES if re.match(pattern, head)), None)


def is_dicom(path: Path) -> bool:
    """Look for the mark of a DICOM file.

    Args:
        path: any file.

    Returns:
        True where it is one; False also where it cannot be read.
    """
    with suppress(OSError), path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
    return False


def data_files(path: Path) -> list[Path]:
    """Find the files in which a volume's voxels are.

    Args:
        path: the volume's file, which may be a header that names others.

    Returns:
        The files, whether they are there or not; none where a header names none, or in a way that is not known.

    Raises:
        OSError: the header cannot be read.
    """
    pattern = _DATA_FILE.get(path.suffix.lower())
    if pattern is None:
        return [path]
    with path.open("rb") as stream:
        head = stream.read(_PART)
    match = pattern.search(head)
    if match is None:
        return []
    name = os.fsdecode(match[1])
    if name.upper() == "LOCAL":
        return [path]
    if re.fullmatch(r"LIST( +\S+)?", name):
        lines = os.fsdecode(head[match.end() :]).splitlines()
        return [path.parent / line.strip() for line in lines if line.strip()]
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        return [] if "%" in name else [path.parent / name]
    before, pattern_of_number, after = numbered[1], f"{numbered[2]}d", numbered[3]
    numbers = range(int(numbered[4]), int(numbered[5]) + 1, int(numbered[6] or 1))[:_MOST_FILES]
    return [path.parent / f"{before}{pattern_of_number % number}{after}" for number in numbers]


def missing_data(path: Path) -> str | None:
    """Say which files a detached header names that are not there or are empty.

    Args:
        path: the volume's file.

    Returns:
        The sentence; None where all are there.

    Raises:
        OSError: the header cannot be read.
    """
    files = [] if path.suffix.lower() not in _DATA_FILE else data_files(path)
    sizes = {file: file.stat().st_size if file.is_file() else None for file in files}
    absent = [file for file, size in sizes.items() if size is None]
    empty = [file for file, size in sizes.items() if size == 0]
    for found, what in ((absent, "not there: put it beside the header, or correct its name in it"), (empty, "empty")):
        if found:
            more = f" ({len(found)} of {len(files)} such files)" if len(found) > 1 else ""
            return f"its data file {found[0]}{more} is {what}"
    return None


def odd_dimensions(path: Path) -> str | None:
    """Say which number of dimensions a MetaImage's header claims that ITK would take without a look at it.

    Args:
        path: the volume's file.

    Returns:
        The sentence; None where there is nothing to say.

    Raises:
        OSError: it cannot be opened.
    """
    if _EXPECTED.get(path.suffix.lower()) != _META:
        return None
    with path.open("rb") as stream:
        header = _META_HEADER.match(stream.read(_PART))
    said = _DIMENSIONS.findall(header[0] if header else b"")
    kind = kind_of(path)
    if not said and kind is None:
        return _DAMAGED
    for found in said or [b""] * (kind == _META):  # another kind is named as such
        if re.fullmatch(rb"0*([1-9]|10)[ \t]*", found) is None:
            return f"its header has NDims {found[:30].decode(errors='replace')!r}, expected 3: repair it"
    return None


def is_lone_header(path: Path) -> bool:
    """Tell whether a NIfTI file is the header of a pair under another name, without voxels.

    Args:
        path: the file.

    Returns:
        Whether it is.

    Raises:
        OSError: it cannot be opened.
    """
    return path.suffix.lower() == ".nii" and path.stat().st_size <= 352 and kind_of(path) == _PAIR


def why_unreadable(path: Path) -> str:
    """Say why ITK could not read a file or folder, and what helps.

    Args:
        path: the file or folder.

    Returns:
        The second half of a sentence.
    """
    try:
        if path.is_dir():
            return _DAMAGED
        kind = kind_of(path)
        return _why(path, kind) or _DAMAGED
    except OSError:
        return _DAMAGED


def _why(path: Path, kind: str | None) -> str | None:
    """Say why a file of this kind could not be read; None where nothing but damage explains it."""
    name = path.name.lower()
    expected = _EXPECTED.get(".nii" if name.endswith(".nii.gz") else path.suffix.lower())
    if kind == _DICOM:
        return _why_dicom(path, expected)
    if kind is not None and kind.startswith("packed by"):
        gzipped = kind.endswith("gzip") and name.endswith(".nii") and not name.endswith(".gz")
        return f"it is {kind}: {'name it .nii.gz' if gzipped else 'unpack it'}"
    if kind is not None and expected is not None and kind != expected:
        found, _, advice = kind.partition(": ")
        usual = "give it its own suffix" if kind in (_NRRD, _META, _NIFTI) else "export it as such"
        return f"by its first bytes it is {found}, not {expected}: {advice or usual}"
    with path.open("rb") as stream:
        head = stream.read(_PART)
    if kind == _NRRD and head[7:8] not in b"12345":
        return f"it is NRRD of version {head[4:8].decode()}; versions 1 to 5 are read: write it again"
    encoding = re.search(rb"(?m)^encoding: *(bzip2|bz2)", head) if kind == _NRRD else None
    if encoding:
        return "its voxels are packed by bzip2: write it with encoding gzip or raw"
    if kind == _NIFTI and name.endswith(".nii"):
        (datatype,) = struct.unpack("<h" if head[0] == 0x5C else ">h", head[70:72])
        if datatype not in _NIFTI_TYPES:
            return f"its voxels are of NIfTI's datatype {datatype}, which ITK cannot read: save it as float32"
    absent = missing_data(path)
    if absent:
        return absent
    others = [file for file in data_files(path) if file != path]
    return f"its data in {others[0]} are truncated or damaged: export or copy both again" if others else None


def _why_dicom(path: Path, expected: str | None) -> str | None:
    """Say why a DICOM file could not be read."""
    from pydicom import dcmread

    if expected is not None:
        return f"by its first bytes it is {_DICOM}, not {expected}: give the folder of its series"
    try:
        syntax = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta.TransferSyntaxUID
    except Exception:  # damaged bytes make pydicom raise nearly any kind
        return None
    if not syntax.is_private and syntax.is_transfer_syntax and not syntax.is_compressed:
        return None
    return (
        f"its pixels are compressed as {syntax.name}, and are damaged or of a kind that ITK cannot decode: "
        "export it uncompressed, or copy it again"
    )
