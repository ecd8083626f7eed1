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
    """An anatomical plane as it is shown.

    Attributes:
        name: Its name, such as "Axial".
        normal: Letter of the patient's side that its normal points to.
        right: Letter of the side at the picture's right edge.
        top: Letter of the side at the picture's top edge.
    """

    name: str
    normal: str
    right: str
    top: str

    @property
    def edges(self) -> tuple[str, str, str, str]:
        """Letters at the left, right, bottom and top edges."""
        return OPPOSITE[self.right], self.right, OPPOSITE[self.top], self.top

    def uv(self, point_ras: npt.ArrayLike) -> tuple[float, float]:
        """Project a point onto the picture.

        Args:
            point_ras: RAS mm.

        Returns:
            Millimetres to the right and to the top, from the world's origin.
        """
        point = np.asarray(point_ras, dtype=np.float64)
        return float(point @ _TOWARDS[self.right]), float(point @ _TOWARDS[self.top])


PLANES = (Plane("Axial", "S", "L", "A"), Plane("Coronal", "A", "L", "S"), Plane("Sagittal", "R", "P", "S"))


@dataclass(frozen=True)
class View:
    """The pixels of a plane's picture: squares.

    Attributes:
        u: Pixel centres (U) in mm, growing to the right; two or more.
        v: Pixel centres (V) in mm, growing to the top.
        edges: Letters of the patient's sides at the left, right, bottom and top edges.
    """

    u: Float
    v: Float
    edges: tuple[str, str, str, str]

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel."""
        return float(self.u[1] - self.u[0])

    @property
    def width_mm(self) -> float:
        """From the left edge to the right edge."""
        return self.u.size * self.pixel_mm

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edges in mm, as matplotlib's imshow takes them."""
        half = self.pixel_mm / 2
        return self.u[0] - half, self.u[-1] + half, self.v[0] - half, self.v[-1] + half


@dataclass(frozen=True)
class Cut:
    """A plane through a point of the patient.

    Attributes:
        plane: The anatomical plane.
        centre_ras: The point (3), RAS mm.
        view: Its pixels.
    """

    plane: Plane
    centre_ras: Float
    view: View

    @property
    def points_ras(self) -> Float:
        """Places of the pixels (V, U, 3), RAS mm."""
        right, top, normal = (np.array(_TOWARDS[x]) for x in (self.plane.right, self.plane.top, self.plane.normal))
        u, v = self.view.u[:, np.newaxis], self.view.v[:, np.newaxis, np.newaxis]
        return np.asarray((self.centre_ras @ normal) * normal + u * right + v * top)

    @property
    def centre_uv(self) -> tuple[float, float]:
        """The point in the picture (mm to the right, mm to the top)."""
        return self.plane.uv(self.centre_ras)

    @property
    def centre_mm(self) -> float:
        """Where the plane cuts its normal's axis."""
        return float(self.centre_ras @ _TOWARDS[self.plane.normal])

    def position(self, digits: int = 0) -> str:
        """Say where the plane cuts its normal's axis.

        Args:
            digits: Digits after the point.

        Returns:
            Such as "I 12 mm" for an axial plane 12 mm below the origin.
        """
        side = self.plane.normal if self.centre_mm >= 0 else OPPOSITE[self.plane.normal]
        return f"{side} {abs(self.centre_mm):.{digits}f} mm"

    def close_up(self, side_mm: float, pixels: int) -> Cut:
        """Return the same plane in a square around its centre.

        Args:
            side_mm: Length of the square's sides.
            pixels: Number of pixels along each.

        Returns:
            A cut that may reach beyond the volume.
        """
        offsets = side_mm / pixels * (np.arange(pixels, dtype=np.float64) - (pixels - 1) / 2)
        u, v = self.centre_uv
        return Cut(self.plane, self.centre_ras, View(u + offsets, v + offsets, self.plane.edges))


def cut_plane(plane: Plane, volume: Volume, centre_ras: npt.ArrayLike) -> Cut:
    """Cut a plane through a point, over the volume's bounding box in the patient.

    Args:
        plane: The anatomical plane.
        volume: The volume, of any orientation.
        centre_ras: The point, RAS mm.

    Returns:
        A cut whose pixels are squares of the volume's smallest spacing, larger where the box would take over 400.
    """
    low, high = _box_ras(volume)
    pixel_mm = max(float(volume.spacing_mm.min()), float((high - low).max()) / _MAX_PIXELS)
    centre = np.asarray(centre_ras, dtype=np.float64)
    axes = zip(plane.uv(centre), plane.uv(low), plane.uv(high), strict=True)
    u, v = (_pixel_centres(*ends, pixel_mm) for ends in axes)
    return Cut(plane, centre, View(u, v, plane.edges))


def sample(array: npt.NDArray[np.number], ijk_to_ras: Matrix, points_ras: Float) -> Float:
    """Interpolate an array linearly.

    Args:
        array: Values, Z Y X.
        ijk_to_ras: From its voxels to RAS mm, 4 x 4.
        points_ras: Points (..., 3), RAS mm.

    Returns:
        Values (...), NaN beyond the outer voxels' edges.
    """
    from scipy.ndimage import map_coordinates

    ras_to_ijk = np.linalg.inv(ijk_to_ras)
    kji = np.moveaxis(points_ras @ ras_to_ijk[:3, :3].T + ras_to_ijk[:3, 3], -1, 0)[::-1]
    size = np.array(array.shape).reshape(3, *[1] * (kji.ndim - 1))
    inside = ((kji >= -0.5) & (kji <= size - 0.5)).all(axis=0)
    values = map_coordinates(array, kji, output=np.float64, order=1, mode="nearest")
    return np.where(inside, values, np.nan)


def _box_ras(volume: Volume) -> tuple[Float, Float]:
    """Return the lowest and highest R, A, S of the volume's eight corners (edges of the outermost voxels)."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in volume.size_ijk]), axis=-1).reshape(-1, 3)
    corners_ras = corners @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]
    return corners_ras.min(axis=0), corners_ras.max(axis=0)


def _pixel_centres(centre: float, one_end: float, other_end: float, pixel_mm: float) -> Float:
    """Place pixels between the two ends, one of them at the centre: the peak lies on a pixel, not between two."""
    low, high = (np.array(sorted((one_end, other_end))) - centre) / pixel_mm
    first = int(np.ceil(low))
    last = max(int(np.floor(high)), first + 1)  # a contour needs two pixels
    return centre + pixel_mm * np.arange(first, last + 1, dtype=np.float64)
