"""What a file states of a volume's orientation: NIfTI's qform and sform, which results carry on."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from tonno_core.volume.volume import Forms, Matrix

# NIfTI-1's fields, by the names of `Forms`: type of the numbers, their count, first byte.
_LAYOUT = {
    "pixdim": ("f4", 4, 76),
    "units": ("u1", 1, 123),
    "qform_code": ("i2", 1, 252),
    "sform_code": ("i2", 1, 254),
    "quaternion": ("f4", 3, 256),
    "offset": ("f4", 3, 268),
    "sform": ("f4", 12, 280),
}
_HEADER_BYTES = 348
_MM_OF_UNITS = {1: 1000.0, 3: 0.001}  # metres, micrometres; anything else is taken for mm, as ITK does
# The field with which other formats state an orientation.
_STATEMENTS = {
    ".nrrd": rb"(?m)^space:",
    ".nhdr": rb"(?m)^space:",
    ".mha": rb"(?m)^(TransformMatrix|Rotation|Orientation)\b",
    ".mhd": rb"(?m)^(TransformMatrix|Rotation|Orientation)\b",
}


@dataclass(frozen=True)
class Placement:
    """Where readers of a NIfTI file may put its voxels, in the file's own unit of length.

    Attributes:
        qform: 4 x 4, None where its code is 0.
        sform: 4 x 4, None where its code is 0.
        unstated: 4 x 4, where nibabel puts a file with both codes 0: mirrored, around the middle.
    """

    qform: Matrix | None
    sform: Matrix | None
    unstated: Matrix

    @property
    def nibabel(self) -> Matrix:
        """The affine that nibabel gives."""
        if self.sform is not None:
            return self.sform
        return self.unstated if self.qform is None else self.qform


def read_forms(path: Path) -> Forms | None:
    """Read what the header of a NIfTI-1 file states, byte for byte as it is there.

    Args:
        path: the file, compressed or not.

    Returns:
        None for other files.

    Raises:
        OSError: the file cannot be opened.
    """
    head = _head(path, _HEADER_BYTES)
    if len(head) < _HEADER_BYTES or head[344:347] != b"n+1":
        return None
    fields: dict[str, Any] = {name: tuple(values.tolist()) for name, values in _fields(head).items()}
    single = {name: fields.pop(name)[0] for name in ("units", "qform_code", "sform_code")}
    return Forms(**single, **fields)


def put_forms(path: Path, forms: Forms) -> None:
    """Put qform, sform and their codes into the header of a NIfTI-1 file that is there, uncompressed.

    Args:
        path: the file.
        forms: what it is to state.
    """
    with path.open("r+b") as stream:
        head = bytearray(stream.read(_HEADER_BYTES))
        for name, values in _fields(head).items():
            values[:] = getattr(forms, name)
        stream.seek(0)
        stream.write(head)


def placement(forms: Forms, size_ijk: tuple[int, int, int]) -> Placement:
    """Compute the affines that a header states.

    Args:
        forms: of the header.
        size_ijk: numbers of voxels along i, j, k.

    Returns:
        The affines.
    """
    zooms = np.array(forms.pixdim[1:])
    unstated = np.diag([*(zooms * (-1, 1, 1)), 1.0])
    unstated[:3, 3] = -unstated[:3, :3] @ ((np.array(size_ijk) - 1) / 2)
    sform = np.vstack([np.reshape(forms.sform, (3, 4)), (0, 0, 0, 1)])
    return Placement(_qform(forms) if forms.qform_code > 0 else None, sform if forms.sform_code > 0 else None, unstated)


def reversed_slices(forms: Forms, count: int) -> Forms:
    """State the same places for voxels whose k runs the other way, as 3D Slicer's reader turns left-handed grids.

    Args:
        forms: of the file.
        count: number of voxels along k.

    Returns:
        Of the turned grid.
    """
    turned = np.diag([1.0, 1.0, -1.0, 1.0])
    turned[2, 3] = count - 1
    sform = np.vstack([np.reshape(forms.sform, (3, 4)), (0, 0, 0, 1)]) @ turned
    return replace(
        forms,
        pixdim=(1.0 if forms.pixdim[0] < 0 else -1.0, *forms.pixdim[1:]),
        offset=tuple((_qform(forms) @ turned)[:3, 3].tolist()),
        sform=tuple(sform[:3].ravel().tolist()),
    )


def describes(forms: Forms, ijk_to_ras: Matrix, size_ijk: tuple[int, int, int]) -> bool:
    """Tell whether a grid is one that a header states: by qform, by sform, or without both as ITK takes it.

    Args:
        forms: of the header.
        ijk_to_ras: 4 x 4, of the grid.
        size_ijk: numbers of voxels along i, j, k.

    Returns:
        Whether the corners agree to a tenth of a voxel.
    """
    stated = placement(forms, size_ijk)
    places = [place for place in (stated.qform, stated.sform) if place is not None]
    itk = np.diag([*(np.array(forms.pixdim[1:]) * (-1, -1, 1)), 1.0])  # the identity in LPS
    scale = np.diag([*[_MM_OF_UNITS.get(forms.units & 7, 1.0)] * 3, 1.0])
    return any(coincide(ijk_to_ras, scale @ place, size_ijk) for place in places or [itk])


def orientation_concerns(path: Path, forms: Forms | None, header: tuple[Matrix, tuple[int, int, int]]) -> list[str]:
    """Say where readers of one file may disagree on the orientation.

    Args:
        path: the file.
        forms: of its header, where it is NIfTI.
        header: ijk_to_ras (4 x 4) that was read, and the numbers of voxels along i, j, k.

    Returns:
        A sentence, or none.
    """
    guess = "left and right, front and back are a guess"
    if forms is None:
        statement = _STATEMENTS.get(path.suffix.lower())
        # The header is text that an empty line or ElementDataFile ends.
        text = re.split(rb"\r?\n\r?\n|ElementDataFile", _head(path, 65536))[0] if statement else b""
        if statement and not re.search(statement, text):
            return [f"the file states no orientation: {guess} (LPS is taken)"]
        return []
    ijk_to_ras, size_ijk = header
    stated = placement(forms, size_ijk)
    if stated.qform is None and stated.sform is None:
        return [
            f"the file states no orientation (qform and sform codes are 0): {guess}; results state none either, "
            "so that each viewer lays them over the scan"
        ]
    if stated.qform is None or stated.sform is None:
        return []
    moved = _moved(stated.qform, stated.sform, size_ijk)
    scale = _MM_OF_UNITS.get(forms.units & 7, 1.0)
    if moved <= 0.5 * float(np.min(np.abs(forms.pixdim[1:]))):
        return []
    away = [_moved(ijk_to_ras / _homogeneous(scale), place, size_ijk) for place in (stated.qform, stated.sform)]
    used = "the qform counts, as in ITK and 3D Slicer, for nibabel the sform"
    if away[1] < away[0]:
        used = "the sform counts, as in ITK, 3D Slicer and nibabel"
    return [
        f"the file's qform and sform place a corner {moved * scale:.3g} mm apart: here {used}; NIfTI results carry both"
    ]


def coincide(first: Matrix, second: Matrix, size_ijk: tuple[int, int, int]) -> bool:
    """Tell whether two affines put the corners of a grid at the same places, to a tenth of a voxel.

    Formats round an affine (NIfTI to float32, DICOM to 16 characters); that moves a voxel far less.

    Args:
        first: 4 x 4, whose smallest spacing is the scale.
        second: 4 x 4.
        size_ijk: numbers of voxels along i, j, k.

    Returns:
        Whether they coincide.
    """
    smallest = float(np.linalg.norm(first[:3, :3], axis=0).min())
    return _moved(first, second, size_ijk) < 0.1 * smallest


def _moved(first: Matrix, second: Matrix, size_ijk: tuple[int, int, int]) -> float:
    """Return the largest distance between the corners of a grid under two affines."""
    corners = np.array([[*ijk, 1] for ijk in product(*((0, n - 1) for n in size_ijk))])
    with np.errstate(invalid="ignore", over="ignore"):  # a header may hold what is no number, or 1e30 mm
        return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def _homogeneous(scale: float) -> npt.NDArray[np.float64]:
    """Return the column by which rows of an affine are divided to change its unit."""
    return np.array([[scale], [scale], [scale], [1.0]])


def _qform(forms: Forms) -> Matrix:
    """Compute the affine of a quaternion, as NIfTI-1 defines it."""
    vector = np.array(forms.quaternion, dtype=np.float64)
    square = float(vector @ vector)
    if square > 1:  # rounding of a half turn
        vector, square = vector / np.sqrt(square), 1.0
    a, (b, c, d) = float(np.sqrt(1 - square)), vector.tolist()
    axes = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handed = -1.0 if forms.pixdim[0] < 0 else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = axes * forms.pixdim[1:] * np.array([1.0, 1.0, handed])
    matrix[:3, 3] = forms.offset
    return matrix


def _fields(head: bytes | bytearray) -> dict[str, npt.NDArray[np.generic]]:
    """Return views of a header's fields."""
    order = "<" if head[:4] == _HEADER_BYTES.to_bytes(4, "little") else ">"
    return {name: np.frombuffer(head, order + kind, n, start) for name, (kind, n, start) in _LAYOUT.items()}


def _head(path: Path, size: int) -> bytes:
    """Return a file's first bytes, unpacked where gzip has packed them; fewer where they are damaged."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as unpacked:
            return cast("IO[bytes]", unpacked).read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return b""
