"""What the engine is timed against: plain ToNNO (`plain.py`), and PyEPRI's inversion of plane integrals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.benchmark import plain
from tonno_core.benchmark.measure import Spread, plain_network, run_whole, timed
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.directions import hemisphere, sphere
from tonno_core.slicing.frame import within_ball
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.preparation import prepare_volume
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import invert
from tonno_core.tomography.projection import Projections
from tonno_core.volume.grid import ijk_to_grid
from tonno_core.volume.volume import Volume

Array = npt.NDArray[np.floating]


@dataclass
class Comparison:
    """The engine beside something else that does the same, measured in turn.

    Attributes:
        name: Name of the other.
        what: What both do.
        other: Runs the other: an array.
        engine: Runs the engine: an array of the same shape.
        agree: Says by some numbers how well the two arrays agree.
        seconds: Seconds of the other and of the engine in each repeat.
        agreement: What ``agree`` said in the first repeat.
    """

    name: str
    what: str
    other: Callable[[], Array]
    engine: Callable[[], Array]
    agree: Callable[[Array, Array], dict[str, float]]
    seconds: list[tuple[float, float]] = field(default_factory=list)
    agreement: dict[str, float] = field(default_factory=dict)

    def repeat(self) -> None:
        """Run and time both once."""
        (other_seconds, other), (engine_seconds, engine) = timed(self.other), timed(self.engine)
        self.seconds.append((other_seconds, engine_seconds))
        self.agreement = self.agreement or self.agree(other, engine)

    def _spreads(self) -> tuple[Spread, Spread]:
        other, engine = zip(*self.seconds, strict=True)
        return Spread(other), Spread(engine)

    def text(self) -> str:
        """Format the result for the terminal.

        Returns:
            Two lines.
        """
        other, engine = self._spreads()
        agreement = ", ".join(f"{name} {value:.6g}" for name, value in self.agreement.items())
        return (
            f"{self.name}: {(other / engine).text()} times as fast ({other.text()} s to {engine.text()} s); "
            f"{agreement}\n  {self.what}"
        )

    def as_json(self) -> Json:
        """Return the result for ``bench.json``.

        Returns:
            JSON object.
        """
        other, engine = self._spreads()
        spreads = {"seconds": other, "engine_seconds": engine, "times_as_fast": other / engine}
        return {"what": self.what, **{name: each.as_json() for name, each in spreads.items()}, **self.agreement}


# --- ToNNO


def compare_with_plain(
    volume: Volume, bundle: Bundle, ready: ReadyModel, settings: ReconstructionSettings
) -> Comparison:
    """Compare the engine with plain ToNNO at every voxel, with the paper's second difference.

    Args:
        volume: What is looked at.
        bundle: The model.
        ready: The same on its device.
        settings: How it is looked at; what plain ToNNO has not is left out.

    Returns:
        Comparison of the two heatmaps.
    """
    settings = replace(settings, methods=("tonno",), grid="volume", smooth_mm=0.0, filter="second-difference")
    heatmap = plain_heatmap(volume, bundle, settings, ready.device)

    def engine() -> Array:
        return run_whole(volume, ready, settings).result.heatmaps["tonno"].array

    def correlation(other: Array, engine: Array) -> dict[str, float]:
        inside = other != 0
        return {"heatmap correlation": float(np.corrcoef(other[inside], engine[inside])[0, 1])}

    what = (
        "one grid_sample per direction, float32, nothing folded or skipped, every voxel; ToNNO with grid volume, "
        f"M = {settings.slices}, L = {settings.directions}, {ready.slice_size} px, "
        f"engine in {str(ready.precision).removeprefix('torch.')}"
    )
    return Comparison("plain reference", what, heatmap, engine, correlation)


def plain_heatmap(
    volume: Volume, bundle: Bundle, settings: ReconstructionSettings, device: torch.device
) -> Callable[[], npt.NDArray[np.float32]]:
    """Prepare plain ToNNO for a volume, with the planes that the engine looks at.

    Args:
        volume: What is looked at.
        bundle: The model.
        settings: How it is looked at.
        device: Where to compute.

    Returns:
        Function that computes the heatmap: Z Y X, on the volume's grid, zero where the planes do not reach.
    """
    spec, size = bundle.spec, settings.slice_size or bundle.spec.slice_size
    prepared = prepare_volume(
        volume, frame=settings.frame, intensity=spec.intensity, slice_size=size,
        pixel_mm=spec.pixel_mm if settings.slice_size is None else None, radius_mm=settings.radius_mm,
    )  # fmt: skip
    count = settings.directions_for("tonno")
    normals = hemisphere(count) if settings.lattice == "hemisphere" else sphere(count)
    voxels = torch.as_tensor(prepared.volume.array - prepared.fill).to(device)
    frame_to_ijk = np.linalg.inv(prepared.volume.ijk_to_ras) @ prepared.frame_to_ras
    scan = plain.Scan(voxels, prepared.fill, torch.as_tensor(frame_to_ijk))
    kji = np.indices(volume.array.shape).reshape(3, -1)
    ijk_to_frame = np.linalg.inv(prepared.frame_to_ras) @ volume.ijk_to_ras
    points = torch.as_tensor(kji[::-1].T @ ijk_to_frame[:3, :3].T + ijk_to_frame[:3, 3]).float().to(device)
    shown = within_ball(volume, prepared.frame_to_ras) if settings.frame == "physical" else True
    network = plain_network(bundle, size).to(device)
    index = spec.classes.index(settings.class_name) if settings.class_name else 0
    convention = spec.convention

    def classify(slices: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = convention.logits(network(convention.input(slices)))[:, index]
        return logits

    def heatmap() -> npt.NDArray[np.float32]:
        values = plain.tonno(scan, classify, torch.as_tensor(normals), points, slices=settings.slices, pixels=size)
        return np.where(shown, values.cpu().numpy().reshape(volume.array.shape), np.float32(0.0))

    return heatmap


# --- inversion alone


@dataclass(frozen=True)
class Balls:
    """Six Gaussian balls, whose plane integrals are known, and how they are to be reconstructed.

    Attributes:
        side: Nodes along each axis of the grid over [-1, 1]^3.
        directions: L.
        slices: M.
    """

    side: int = 96
    directions: int = 1000
    slices: int = 96

    @property
    def balls(self) -> tuple[Array, Array, Array]:
        """Return centres 6 3, standard deviations 6, and heights 6."""
        rng = np.random.default_rng(0)
        return rng.uniform(-0.35, 0.35, (6, 3)), rng.uniform(0.08, 0.16, 6), rng.uniform(0.5, 1.5, 6)

    @property
    def axis(self) -> npt.NDArray[np.float64]:
        """Return the coordinates of the nodes along an axis."""
        return np.linspace(-1.0, 1.0, self.side, dtype=np.float64)

    @property
    def squared_radius(self) -> Array:
        """Return the squared distance of each node from the middle: Z Y X."""
        return self._squared_distance(np.zeros(3))

    def truth(self) -> Array:
        """Sum up the balls at the nodes.

        Returns:
            Values: Z Y X.
        """
        total = np.zeros((self.side,) * 3)
        for centre, sigma, height in zip(*self.balls, strict=True):
            total += height * np.exp(-self._squared_distance(centre) / (2.0 * sigma**2))
        return total

    def plane_integrals(
        self, normals: Array, offsets: Array, *, blur: float = 0.0, derivative: bool = False
    ) -> npt.NDArray[np.float64]:
        """Integrate the balls over the planes x . n = s.

        Args:
            normals: Unit vectors n: L 3.
            offsets: s: T.
            blur: Standard deviation of a Gaussian along s.
            derivative: Return the derivative by s.

        Returns:
            Integrals: L T.
        """
        total = np.zeros((len(normals), len(offsets)))
        for centre, sigma, height in zip(*self.balls, strict=True):
            variance = sigma**2 + blur**2
            distance = offsets - (normals @ centre)[:, None]
            area = height * 2.0 * np.pi * sigma**3 / np.sqrt(variance)
            integral = area * np.exp(-(distance**2) / (2.0 * variance))
            total += -distance / variance * integral if derivative else integral
        return total

    def _squared_distance(self, centre: Array) -> Array:
        z, y, x = np.meshgrid(self.axis, self.axis, self.axis, indexing="ij")
        return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)


def compare_with_pyepri(balls: Balls) -> Comparison:
    """Compare the engine's inversion with PyEPRI's.

    Args:
        balls: The object that both reconstruct from its plane integrals.

    Returns:
        Comparison of the two reconstructions.

    Raises:
        TonnoError: If PyEPRI is not installed.
    """

    def differences(other: Array, engine: Array) -> dict[str, float]:
        ball, truth = balls.squared_radius <= 1.0, balls.truth()
        pairs = {
            "largest difference over the peak": (engine, other),
            "of the engine from the truth": (engine, truth),
            "of PyEPRI from the truth": (other, truth),
        }
        return {name: float(np.abs(a - b)[ball].max() / truth.max()) for name, (a, b) in pairs.items()}

    what = (
        f"eprfbp3d (NumPy) at every node; {balls.side}^3 nodes, L = {balls.directions}, M = {balls.slices}, float32 "
        "on the CPU, the engine at the nodes in the ball"
    )
    return Comparison("PyEPRI's inversion", what, pyepri_inversion(balls), engine_inversion(balls), differences)


def engine_inversion(balls: Balls, *, every_node: bool = False) -> Callable[[], npt.NDArray[np.float32]]:
    """Prepare the engine's inversion of the balls' plane integrals.

    Args:
        balls: The object.
        every_node: Reconstruct also the nodes outside of the unit ball, which the engine does not show.

    Returns:
        Function that inverts: Z Y X.
    """
    pixels = 96
    plan = SlicePlan(np.eye(4), hemisphere(balls.directions), balls.slices, pixels)
    # The encoder's mean of the pixels of a slice whose side is 2 S / (S - 1).
    area = (2.0 * pixels / (pixels - 1)) ** 2
    logits = torch.as_tensor(balls.plane_integrals(plan.directions, plan.offsets) / area).float()
    shape = (balls.side, balls.side, balls.side)
    grid = TargetGrid(shape, ijk_to_grid(shape), math.inf if every_node else 1.0)
    variant = Variant("tonno")

    def action() -> npt.NDArray[np.float32]:
        projections = [Projections(slice(0, balls.directions), logits, {})]
        heatmap: npt.NDArray[np.float32] = invert(projections, plan, grid, [variant]).heatmaps[variant].numpy()
        return heatmap

    return action


def pyepri_inversion(balls: Balls) -> Callable[[], npt.NDArray[np.float64]]:
    """Prepare PyEPRI's `eprfbp3d` for the same object at the same nodes.

    In its terms: a field gradient of one unit along n spreads the object over B = -x . n; the measured spectrum is the
    object's profile convolved with the derivative of an absorption line, here a Gaussian of one and a half steps. Its
    directions are a grid of angles, weighted by the sine of the tilt.

    Args:
        balls: The object.

    Returns:
        Function that inverts: Z Y X.

    Raises:
        TonnoError: If PyEPRI is not installed.
    """
    try:
        from pyepri import backends, processing
    except ImportError:
        raise TonnoError(
            "`compare`: the package pyepri is not installed; it is in the extra 'test': pip install pyepri"
        ) from None
    step = 2.0 / (balls.slices - 1)
    line = 1.5 * step
    azimuths = max(n for n in range(1, int(np.sqrt(balls.directions)) + 1) if balls.directions % n == 0)
    tilts = balls.directions // azimuths
    angles = ((np.arange(count) + 0.5) * np.pi / count for count in (tilts, azimuths))
    azimuth, tilt = (grid.ravel() for grid in np.meshgrid(*angles))
    normals = np.stack([np.sin(tilt) * np.cos(azimuth), np.sin(tilt) * np.sin(azimuth), np.cos(tilt)], axis=1)
    count = 2 * int(np.ceil(1.75 / step)) + 1  # out to the corners of the cube
    field_axis = np.asarray((np.arange(count) - count // 2) * step, dtype=np.float64)
    spectra = -balls.plane_integrals(normals, -field_axis, blur=line, derivative=True)
    absorption = np.exp(-(field_axis**2) / (2.0 * line**2)) / (np.sqrt(2.0 * np.pi) * line)
    reference = np.diff(absorption, prepend=0.0) / step  # whose running sum is the absorption line again
    # It takes the range of angles from the outermost of them, half a cell inside on either end of half a turn.
    covered = (1.0 - 1.0 / azimuths) * (1.0 - 1.0 / tilts)
    backend = backends.create_numpy_backend()
    axis = balls.axis

    def action() -> npt.NDArray[np.float64]:
        volume = processing.eprfbp3d(
            spectra, normals.T.copy(), reference, field_axis, axis, axis, axis,
            lambda xp, fp, x: np.interp(x.ravel(), xp, fp.ravel(), left=0.0, right=0.0),
            backend=backend,
        )  # fmt: skip
        return np.asarray(volume).transpose(2, 0, 1) / covered  # from Y X Z

    return action
