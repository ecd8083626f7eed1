"""Planes of the patient through a volume of any orientation: where their pixels lie, and what is there.

Radiological convention: the patient's right is on the picture's left; in the sagittal plane the front is on
the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.volume.volume import Matrix, Volume

Float = npt.NDArray[np.float64]

_TOWARDS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_MAX_PIXELS = 400  # along the longest side of the field of view


@dataclass(frozen=True)
class Plane:
    """An anatomical plane as it is shown: the letter of its normal, and those at its right and top edges."""

    name: str
    normal: str
    right: str
    top: str


PLANES = (Plane("Axial", "S", "L", "A"), Plane("Coronal", "A", "L", "S"), Plane("Sagittal", "R", "P", "S"))


@dataclass(frozen=True)
class Cut:
    """Pixel centres of one plane, squares of pixel_mm: u (U, mm) grows to the right, v (V) to the top."""

    plane: Plane
    pixel_mm: float
    u: Float
    v: Float
    points_ras: Float  # V U 3
    centre_uv: tuple[float, float]
    centre_mm: float  # where the plane cuts its normal's axis

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edges in mm, as matplotlib's imshow takes them."""
        half = self.pixel_mm / 2
        return self.u[0] - half, self.u[-1] + half, self.v[0] - half, self.v[-1] + half


def cut_plane(plane: Plane, volume: Volume, centre_ras: npt.ArrayLike) -> Cut:
    """The plane through centre_ras (RAS mm) over the volume's bounding box in the patient.

    Pixels are squares of the volume's smallest spacing, larger where the box would take over 400 of them.
    """
    low, high = _box_ras(volume)
    pixel_mm = max(float(volume.spacing_mm.min()), float((high - low).max()) / _MAX_PIXELS)
    centre = np.asarray(centre_ras, dtype=np.float64)
    right, top, normal = (np.array(_TOWARDS[letter]) for letter in (plane.right, plane.top, plane.normal))
    u, v = (_pixel_centres(centre @ axis, low @ axis, high @ axis, pixel_mm) for axis in (right, top))
    points = (centre @ normal) * normal + u[:, np.newaxis] * right + v[:, np.newaxis, np.newaxis] * top
    centre_uv = float(centre @ right), float(centre @ top)
    return Cut(plane, pixel_mm, u, v, points, centre_uv, float(centre @ normal))


def sample(array: npt.NDArray[np.number], ijk_to_ras: Matrix, points_ras: Float) -> Float:
    """Linear interpolation of a Z Y X array at points (... 3, RAS mm); NaN beyond the outer voxels' edges."""
    from scipy.ndimage import map_coordinates

    ras_to_ijk = np.linalg.inv(ijk_to_ras)
    kji = np.moveaxis(points_ras @ ras_to_ijk[:3, :3].T + ras_to_ijk[:3, 3], -1, 0)[::-1]
    size = np.array(array.shape).reshape(3, *[1] * (kji.ndim - 1))
    inside = ((kji >= -0.5) & (kji <= size - 0.5)).all(axis=0)
    values = map_coordinates(array, kji, output=np.float64, order=1, mode="nearest")
    return np.where(inside, values, np.nan)


def _box_ras(volume: Volume) -> tuple[Float, Float]:
    """Lowest and highest R, A, S of the volume's eight corners (edges of the outermost voxels)."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in volume.size_ijk]), axis=-1).reshape(-1, 3)
    corners_ras = corners @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]
    return corners_ras.min(axis=0), corners_ras.max(axis=0)


def _pixel_centres(centre: float, one_end: float, other_end: float, pixel_mm: float) -> Float:
    """Pixels between the two ends, one of them at the centre: the peak lies on a pixel, not between two."""
    low, high = (np.array(sorted((one_end, other_end))) - centre) / pixel_mm
    first = int(np.ceil(low))
    last = max(int(np.floor(high)), first + 1)  # a contour needs two pixels
    return centre + pixel_mm * np.arange(first, last + 1, dtype=np.float64)
