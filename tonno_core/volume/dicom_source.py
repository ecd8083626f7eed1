"""The DICOM series that results refer to: headers of its slices, checked before a long computation."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tonno_core.errors import TonnoError
from tonno_core.volume.dicom import find_series
from tonno_core.volume.itk import LPS_TO_RAS
from tonno_core.volume.orientation import coincide
from tonno_core.volume.volume import Matrix, Volume

OTHER_FORMATS = "choose `file_format` nii.gz or nrrd, which hold the same voxels"
# Without these nothing can refer to a slice, or say where it is (type 1).
_NEEDED = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
)  # fmt: skip
# These must be there, and may be empty (type 2); anonymizers remove them.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
# Readers that stack frames at right angles may misplace the last slice by this at most, in pixels.
_STRAIGHT = 0.5


@dataclass(frozen=True)
class Source:
    """A series as it was read.

    Attributes:
        headers: data sets of its slices without pixels, along k.
        ijk_to_lps: 4 x 4, from the centre of voxel (i, j, k, 1) of the volume to LPS mm.
    """

    headers: tuple[Any, ...]
    ijk_to_lps: Matrix

    @property
    def step_mm(self) -> float:
        """Distance of neighbouring slices."""
        return float(np.linalg.norm(self.ijk_to_lps[:3, 2]))

    def position(self, k: int) -> list[str]:
        """Return the place of a slice.

        Args:
            k: its number.

        Returns:
            LPS mm of the centre of its first pixel, as DICOM's decimal strings: evenly spaced, as the volume is.
        """
        from pydicom.valuerep import format_number_as_ds

        return [format_number_as_ds(float(mm)) for mm in (self.ijk_to_lps @ (0, 0, k, 1))[:3]]


def read_source(path: Path, volume: Volume) -> Source:
    """Read the headers of a volume's series.

    Args:
        path: the folder.
        volume: that was read from it.

    Returns:
        The series.

    Raises:
        TonnoError: its slices are tilted, or their headers lack what a reference needs.
    """
    series = find_series(path)
    _check_tilt(path, volume)
    with quiet():
        headers = _headers(path, series.files)
    if len(headers) != len(volume.array) or not coincide(volume.ijk_to_ras, _affine(headers), volume.size_ijk):
        raise TonnoError(f"{path}: the files' headers are not those of the volume that was read; {OTHER_FORMATS}")
    source = Source(headers, LPS_TO_RAS @ volume.ijk_to_ras)
    if not headers[0].get("SliceThickness"):
        headers[0].SliceThickness = f"{source.step_mm:.10g}"
    return source


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pydicom and highdicom say of a patient's headers to themselves while a block runs.

    Yields:
        Nothing.
    """
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _headers(path: Path, files: Sequence[Path]) -> tuple[Any, ...]:
    """Read headers, with what highdicom asks of them beyond the standard put right."""
    from pydicom import dcmread

    headers = [dcmread(file, stop_before_pixels=True, force=True) for file in files]
    for file, header in zip(files, headers, strict=True):
        if "SOPClassUID" not in header and "MediaStorageSOPClassUID" in header.file_meta:
            header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID
        absent = [name for name in _NEEDED if not str(header.get(name) or "")]
        if absent:
            raise TonnoError(
                f"{file}: states no {absent[0]}, without which `file_format` dicom cannot refer to a slice; "
                f"{OTHER_FORMATS}"
            )
    first = headers[0]
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if len({str(header[name].value) for header in headers}) > 1:
            raise TonnoError(f"{path}: its files state different {name}s; export the series again, or {OTHER_FORMATS}")
    for header in headers:  # those of a stack that differ in their last digits
        header.ImageOrientationPatient, header.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
    _complete(first)
    return tuple(headers)


def _complete(header: Any) -> None:
    """Put in what must be there and may be empty; its texts are written in Unicode, as ours may be."""
    from pydicom.valuerep import DA, TM

    with suppress(Exception):  # letters of another character set than the file states stay as they are
        header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"
    for name in _MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    for name, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(header[name].value or "")
        except (TypeError, ValueError):
            setattr(header, name, "")


def _check_tilt(path: Path, volume: Volume) -> None:
    """Refuse a tilted gantry's series: each frame would lie right, but most readers stack frames at right angles."""
    axes = volume.ijk_to_ras[:3, :3]
    normal = np.cross(axes[:, 0], axes[:, 1])
    along = float(axes[:, 2] @ normal / np.linalg.norm(normal))
    aside = math.sqrt(max(0.0, float(axes[:, 2] @ axes[:, 2]) - along**2))
    shift = aside * (len(volume.array) - 1)
    if shift > _STRAIGHT * float(volume.spacing_mm[:2].min()):
        degrees = math.degrees(math.atan2(aside, abs(along)))
        raise TonnoError(
            f"{path}: the slices are tilted by {degrees:.2g} degrees (gantry); readers that stack the frames of "
            f"`file_format` dicom would show them up to {shift:.1f} mm off; choose `file_format` nrrd"
        )


def _affine(headers: Sequence[Any]) -> Matrix:
    """Compute the matrix from (column, row, slice, 1) to RAS mm that headers state (DICOM PS3.3, C.7.6.2.1.1)."""
    first, last = headers[0], headers[-1]
    row, column = np.reshape(np.asarray(first.ImageOrientationPatient, dtype=np.float64), (2, 3))
    between_rows, between_columns = (float(mm) for mm in first.PixelSpacing)
    start, end = (np.asarray(header.ImagePositionPatient, dtype=np.float64) for header in (first, last))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 3] = row * between_columns, column * between_rows, start
    lps[:3, 2] = (end - start) / max(1, len(headers) - 1)
    return np.asarray(LPS_TO_RAS @ lps, dtype=np.float64)
