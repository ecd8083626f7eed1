"""Heads with and without lesions at known places, made from a real brain, to train and demonstrate on.

The brain is the MNI ICBM152 2009a T1 average that ships inside the PyPI package ``nilearn`` (Fonov et al.,
NeuroImage 2011, doi 10.1016/j.neuroimage.2010.07.033). Each seed deforms it into another head; lesions that
look like enhancing metastases are implanted in half of them. Nothing but the lesions tells the two apart:
the same seed without lesions gives the same head, noise and vessels included.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.volume.volume import FloatArray, Matrix, Volume

if TYPE_CHECKING:
    from numpy.random import Generator

_BRAIN_FILE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_WHITE_MATTER = 222.0  # median of the file where nilearn's white matter map is above 0.9
_TISSUES = (0.0, 0.30, 0.74, 1.0, 1.15)  # background, fluid, grey, white matter, brightest voxel of `brain()`
_CENTRE_RAS_MM = np.array([0.0, -17.0, 5.0])  # of the brain's bounding box
# Semi-axes in mm and contrasts of lesions, from the least to the greatest; those of a load differ more.
_RADII_MM, _CONTRASTS = (5, 11), (0.2, 0.45)
_FEWEST = 4  # heads to learn from
_LOAD_RADII_MM, _LOAD_CONTRASTS = (6, 13), (0.2, 1.0)
_EXTENT_RAS_MM = np.array([188.0, 228.0, 200.0])  # holds the brain at the largest scale, rotation and shift


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid with a wavy border.

    Attributes:
        centre_ras_mm: Its centre, xyz.
        radii_mm: Its semi-axes, in a random orientation.
        contrast: How much brighter than white matter it is, relative to white matter.
    """

    centre_ras_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    contrast: float


@dataclass(frozen=True)
class Phantom:
    """A head with known lesions.

    Attributes:
        image: The scan.
        truth: Voxels that are at least half lesion: Z Y X, 0 or 1.
        lesions: The lesions.
        load: How much of a lesion each voxel holds, its share times the lesion's contrast: Z Y X.
    """

    image: Volume
    truth: npt.NDArray[np.uint8]
    lesions: tuple[Lesion, ...]
    load: FloatArray

    @property
    def load_ml(self) -> float:
        """The load of all lesions, their volume times their contrast."""
        return float(self.load.sum(dtype=np.float64) * self.image.voxel_mm3 / 1000)


@dataclass(frozen=True)
class _Grid:
    """An isotropic grid along the axes of RAS, or a box of it: coordinates of its voxels in mm."""

    x: FloatArray
    y: FloatArray
    z: FloatArray

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.z), len(self.y), len(self.x)

    @property
    def spacing_mm(self) -> float:
        return float(self.x[1] - self.x[0])

    @property
    def ijk_to_ras(self) -> Matrix:
        matrix = np.diag([self.spacing_mm, self.spacing_mm, self.spacing_mm, 1.0])
        matrix[:3, 3] = self.x[0], self.y[0], self.z[0]
        return matrix

    def box(self, low_mm: npt.ArrayLike, high_mm: npt.ArrayLike) -> tuple[slice, slice, slice]:
        """Find the voxels between two corners (xyz), as slices of a Z Y X array."""
        bounds = zip((self.x, self.y, self.z), np.asarray(low_mm), np.asarray(high_mm), strict=True)
        i, j, k = (slice(*np.searchsorted(axis, (low, high))) for axis, low, high in bounds)
        return k, j, i

    def crop(self, box: tuple[slice, slice, slice]) -> _Grid:
        return _Grid(self.x[box[2]], self.y[box[1]], self.z[box[0]])

    def offsets_mm(self, matrix: npt.NDArray[np.floating], centre: npt.ArrayLike) -> FloatArray:
        """Compute ``matrix @ (point - centre)`` of every voxel: 3 Z Y X."""
        m = np.asarray(matrix, dtype=np.float32)[..., None, None, None]
        cx, cy, cz = np.asarray(centre, dtype=np.float32)
        x, y, z = self.x - cx, (self.y - cy)[:, None], (self.z - cz)[:, None, None]
        return np.asarray(m[:, 0] * x + m[:, 1] * y + m[:, 2] * z, dtype=np.float32)


@lru_cache(maxsize=1)
def brain() -> Volume:
    """Read the skull-stripped MNI brain at 1 mm.

    Returns:
        Volume in which white matter is about 1, and the background exactly 0.

    Raises:
        TonnoError: If nilearn, whose wheel holds the file, is not installed.
    """
    from tonno_core.volume.io import read_volume

    spec = find_spec("nilearn")  # finds the folder without the seconds that importing nilearn takes
    if spec is None or not spec.submodule_search_locations:
        raise TonnoError("package nilearn: not installed; the demo's brain is inside it: pip install nilearn")
    volume = read_volume(Path(spec.submodule_search_locations[0]) / _BRAIN_FILE)
    return volume.with_array(volume.array / _WHITE_MATTER)


def make_phantom(*, seed: int, lesions: bool | int, spacing_mm: float = 2.0, varied: bool = False) -> Phantom:
    """Make the head of a seed. The number of lesions changes nothing outside of them.

    Args:
        seed: Start of all random numbers.
        lesions: How many; True for 1 to 3, False for none.
        spacing_mm: Side of the cubic voxels.
        varied: Whether lesions differ more in size and contrast, for heads of known load.

    Returns:
        The head.

    Raises:
        ValueError: If the brain has no room for so many lesions.
    """
    rng = np.random.default_rng(seed)
    lesion_rng = rng.spawn(1)[0]
    grid = _output_grid(spacing_mm)
    tissue, head = _deformed_brain(rng, grid)
    tissue = np.interp(tissue, _TISSUES, _random_tissues(rng)).astype(np.float32)
    tissue *= 1 + 0.025 * _smooth_noise(rng, grid, 3.0)
    _draw_vessels(rng, grid, tissue, head)

    count = int(lesion_rng.integers(1, 4)) if lesions is True else int(lesions)
    tissue, truth, placed, load = _implant(lesion_rng, grid, tissue, head, count, varied=varied)

    image = tissue * np.exp(0.1 * _smooth_noise(rng, grid, 45.0))
    image += rng.uniform(0.03, 0.04) * rng.standard_normal(grid.shape, dtype=np.float32)
    image = np.where(head, np.maximum(image * rng.uniform(0.7, 1.4), 1e-3), 0)
    return Phantom(Volume(image.astype(np.float32), grid.ijk_to_ras), truth, placed, np.where(head, load, 0))


def write_phantoms(
    folder: str | Path,
    *,
    count: int,
    seed: int,
    lesions: bool | int = True,
    spacing_mm: float = 2.0,
    validation: float = 0.2,
    test: int = 0,
) -> Path:
    """Write heads, every second one with lesions, and their manifest. Sets of different seeds share no head.

    The folder gets ``phantom-NNNN.nii.gz``, ``masks/phantom-NNNN.nii.gz`` for those with lesions, and
    ``manifest.csv`` with the columns volume, label, mask, patient, split. Every head is another patient.

    Args:
        folder: Where to write; it is made if needed.
        count: Number of heads.
        seed: Start of all random numbers.
        lesions: Number of lesions of each head that has some; True for 1 to 3.
        spacing_mm: Side of the cubic voxels.
        validation: Share of the other heads, the last ones, that form split ``val``.
        test: How many heads, the last ones of all, form split ``test``.

    Returns:
        Path of the manifest.

    Raises:
        TonnoError: Fewer than four heads are left to learn from.
    """
    from tonno_core.volume.io import write_volume

    folder = Path(folder)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    learned = _without_test(count, test)
    validated = round(learned * validation)
    splits = ["train"] * (learned - validated) + ["val"] * validated + ["test"] * test
    rows = []
    for index, child in enumerate(np.random.SeedSequence(seed).spawn(count)):
        positive = index % 2 == 1
        name = f"phantom-{index:04d}"
        head_seed = int(child.generate_state(1, np.uint64)[0])
        phantom = make_phantom(seed=head_seed, lesions=lesions if positive else 0, spacing_mm=spacing_mm)
        volume, mask = f"{name}.nii.gz", f"masks/{name}.nii.gz" if positive else ""
        write_volume(phantom.image, folder / volume)
        if positive:
            write_volume(phantom.image.with_array(phantom.truth), folder / mask, dtype="uint8")
        rows.append((volume, int(positive), mask, name, splits[index]))

    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("volume", "label", "mask", "patient", "split"), *rows])
    return manifest


def write_loads(
    folder: str | Path,
    *,
    count: int,
    seed: int,
    most: int = 6,
    spacing_mm: float = 2.0,
    fractions: float = 0.15,
    test: int | None = None,
) -> Path:
    """Write heads with a known load of lesions, from none to many, and their manifest for a regressor.

    The folder gets ``phantom-NNNN.nii.gz``, ``loads/phantom-NNNN.nii.gz`` with the load of each voxel, which training
    never opens, and ``manifest.csv`` with the columns volume, load_ml, patient, split. Every head is another patient.

    Args:
        folder: Where to write; it is made if needed.
        count: Number of heads.
        seed: Start of all random numbers.
        most: Lesions of a head, at most; all numbers from none on are as likely.
        spacing_mm: Side of the cubic voxels.
        fractions: Share of the heads that form split ``val``, and as many split ``test``: the last ones.
        test: How many form split ``test`` instead.

    Returns:
        Path of the manifest.

    Raises:
        TonnoError: Fewer than four heads are left to learn from.
    """
    from tonno_core.volume.io import write_volume

    folder = Path(folder)
    (folder / "loads").mkdir(parents=True, exist_ok=True)
    each = round(count * fractions)
    tested = each if test is None else test
    splits = ["train"] * (_without_test(count, tested) - each) + ["val"] * each + ["test"] * tested
    rows = []
    for index, child in enumerate(np.random.SeedSequence(seed).spawn(count)):
        name = f"phantom-{index:04d}"
        head_seed, lesions = (int(number) for number in child.generate_state(2, np.uint64))
        phantom = make_phantom(seed=head_seed, lesions=lesions % (most + 1), spacing_mm=spacing_mm, varied=True)
        write_volume(phantom.image, folder / f"{name}.nii.gz")
        write_volume(phantom.image.with_array(phantom.load), folder / "loads" / f"{name}.nii.gz")
        rows.append((f"{name}.nii.gz", f"{phantom.load_ml:.6g}", name, splits[index]))
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("volume", "load_ml", "patient", "split"), *rows])
    return manifest


def heads_in(folder: Path) -> set[str]:
    """List what has the name of a head, mask or load of a set.

    Args:
        folder: Of the set.

    Returns:
        Names relative to the folder.
    """
    places = (".", "masks", "loads")
    return {
        file.relative_to(folder).as_posix() for place in places for file in (folder / place).glob("phantom-*.nii.gz")
    }


def _without_test(count: int, test: int) -> int:
    """Return how many heads there are beside those of split ``test``."""
    if test and count - test < _FEWEST:
        raise TonnoError(f"`test` is {test}, expected at most {count - _FEWEST} of {count} heads")
    return count - test


def _output_grid(spacing_mm: float) -> _Grid:
    counts = np.ceil(_EXTENT_RAS_MM / spacing_mm).astype(int)
    steps = ((np.arange(count) - (count - 1) / 2) * spacing_mm for count in counts)
    x, y, z = (np.float32(c) + s.astype(np.float32) for c, s in zip(_CENTRE_RAS_MM, steps, strict=True))
    return _Grid(x, y, z)


def _smooth_noise(rng: Generator, grid: _Grid, scale_mm: float) -> FloatArray:
    """Blur white noise on a coarse grid by a Gaussian of std `scale_mm`: Z Y X, mean 0, std 1."""
    kernels = []
    for axis in (grid.z, grid.y, grid.x):
        knots = np.arange(axis[0] - 3 * scale_mm, axis[-1] + 3 * scale_mm, scale_mm)
        kernel = np.exp(-0.5 * ((axis[:, None] - knots) / scale_mm) ** 2)
        kernels.append(kernel / np.linalg.norm(kernel, axis=1, keepdims=True))
    noise = rng.standard_normal([kernel.shape[1] for kernel in kernels])
    for kernel in kernels:  # contracts the first axis and appends the fine one: after three rounds Z Y X again
        noise = np.tensordot(noise, kernel, axes=(0, 1))
    return np.asarray(noise, dtype=np.float32)


@lru_cache(maxsize=2)
def _blurred_brain(spacing_mm: float) -> tuple[FloatArray, FloatArray]:
    """Blur the brain as voxels of that size do; return it and its foreground (0 or 1), both at 1 mm."""
    from scipy.ndimage import gaussian_filter

    array = brain().array
    # A voxel averages over its own width: a box of that width has the std spacing / sqrt(12).
    return gaussian_filter(array, spacing_mm / np.sqrt(12), mode="constant"), (array > 0).astype(np.float32)


def _deformed_brain(rng: Generator, grid: _Grid) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Deform the brain by a random affine and a random smooth displacement; return it and where it is."""
    from scipy.ndimage import map_coordinates
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec(rng.uniform(-6, 6, 3), degrees=True).as_matrix()
    matrix = rotation @ np.diag(1 / rng.uniform(0.9, 1.1, 3))
    points = grid.offsets_mm(matrix, _CENTRE_RAS_MM + rng.uniform(-4, 4, 3))
    for component in points:
        # 3.5 mm over 25 mm * sqrt 2: each derivative's std is 0.10, so the map folds nowhere in practice.
        component += 3.5 * _smooth_noise(rng, grid, 25.0)
    ras_to_ijk = np.linalg.inv(brain().ijk_to_ras)
    first = ras_to_ijk[:3, :3] @ _CENTRE_RAS_MM + ras_to_ijk[:3, 3]
    ijk = np.einsum("ab,bzyx->azyx", ras_to_ijk[:3, :3], points) + first[:, None, None, None]
    image, foreground = (map_coordinates(a, ijk[::-1], order=1) for a in _blurred_brain(grid.spacing_mm))
    return image, foreground >= 0.5


def _random_tissues(rng: Generator) -> tuple[float, ...]:
    """Draw new values for `_TISSUES`: another scanner, another contrast between the tissues."""
    fluid, grey = rng.uniform(0.2, 0.4), rng.uniform(0.66, 0.82)
    return 0.0, fluid, grey, 1.0, 1.0 + rng.uniform(0.1, 0.2)


def _draw_vessels(rng: Generator, grid: _Grid, tissue: FloatArray, head: npt.NDArray[np.bool_]) -> None:
    """Draw thin bright curved tubes into `tissue`: not everything bright is a lesion."""
    from scipy.spatial import KDTree

    inside = np.argwhere(head)
    for _ in range(rng.integers(8, 15)):
        k, j, i = inside[rng.integers(len(inside))]
        radius_mm, contrast = rng.uniform(1.0, 1.5), rng.uniform(0.25, 0.55)
        # Half-millimetre steps whose heading wanders.
        bends = 0.15 * rng.standard_normal((rng.integers(40, 140), 3))
        headings = rng.standard_normal(3) + np.cumsum(bends, axis=0)
        steps = 0.5 * headings / np.linalg.norm(headings, axis=1, keepdims=True)
        course = np.array([grid.x[i], grid.y[j], grid.z[k]]) + np.cumsum(steps, axis=0)
        box = grid.box(course.min(0) - 4, course.max(0) + 4)
        local = grid.crop(box)
        points = local.offsets_mm(np.eye(3), np.zeros(3)).reshape(3, -1).T
        distance, _ = KDTree(course).query(points, distance_upper_bound=4.0)
        fraction = np.clip(0.5 + (radius_mm - distance) / grid.spacing_mm, 0, 1).reshape(local.shape)
        tissue[box] = np.maximum(tissue[box], tissue[box] + fraction * (1 + contrast - tissue[box]))


def _implant(
    rng: Generator, grid: _Grid, tissue: FloatArray, head: npt.NDArray[np.bool_], count: int, *, varied: bool
) -> tuple[FloatArray, npt.NDArray[np.uint8], tuple[Lesion, ...], FloatArray]:
    """Put lesions into `tissue`, in the brain and apart from each other; return it, truth, lesions and load."""
    total, load = np.zeros(grid.shape, dtype=np.float32), np.zeros(grid.shape, dtype=np.float32)
    enhanced = tissue.copy()
    radii_mm, contrasts = (_LOAD_RADII_MM, _LOAD_CONTRASTS) if varied else (_RADII_MM, _CONTRASTS)
    lesions: list[Lesion] = []
    candidates = np.argwhere(head & (tissue > 0.6))
    for _ in range(1000):
        if len(lesions) == count:
            break
        k, j, i = candidates[rng.integers(len(candidates))]
        centre = np.array([grid.x[i], grid.y[j], grid.z[k]]) + rng.uniform(-0.5, 0.5, 3) * grid.spacing_mm
        lesion = Lesion(_triple(centre), _triple(rng.uniform(*radii_mm, 3)), float(rng.uniform(*contrasts)))
        reach = 1.5 * max(lesion.radii_mm) + 3
        box = grid.box(centre - reach, centre + reach)
        fraction = _lesion_fraction(rng, grid.crop(box), lesion)
        tissue_share = (fraction * (tissue[box] > 0.5) * head[box]).sum() / fraction.sum()
        if tissue_share < 0.9 or (total[box] * fraction).any():
            continue
        texture = 1 + 0.2 * _smooth_noise(rng, grid.crop(box), 3.0)
        # Two thirds of what lay below is lost: fluid and grey matter come close to the lesion's own value.
        gain = lesion.contrast * texture + 0.65 * (1 - tissue[box])
        enhanced[box] += fraction * gain
        total[box] += fraction
        load[box] += fraction * np.float32(lesion.contrast)
        lesions.append(lesion)
    if len(lesions) != count:
        raise ValueError(f"found no room for {count} lesions in the brain")
    return enhanced, ((total >= 0.5) & head).astype(np.uint8), tuple(lesions), load


def _lesion_fraction(rng: Generator, grid: _Grid, lesion: Lesion) -> FloatArray:
    """Compute how much of each voxel is lesion: Z Y X. It falls from 1 to 0 over 1.5 mm across the border."""
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_quat(rng.standard_normal(4)).as_matrix()  # uniform over all rotations
    axes = rotation / np.array(lesion.radii_mm)[:, None]
    radius = np.linalg.norm(grid.offsets_mm(axes, lesion.centre_ras_mm), axis=0)  # 1 on the ellipsoid
    border = 1 + np.clip(0.12 * _smooth_noise(rng, grid, 4.0), -0.36, 0.36)
    mean_radius_mm = float(np.prod(lesion.radii_mm) ** (1 / 3))
    return np.asarray(np.clip(0.5 + (border - radius) * mean_radius_mm / 1.5, 0, 1), dtype=np.float32)


def _triple(values: npt.ArrayLike) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in np.asarray(values))
    return x, y, z
