"""What the engine is measured against: PyEPRI's inversion; the plain reference is `plain.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.errors import TonnoError
from tonno_core.settings import Variant
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import invert
from tonno_core.tomography.projection import Projections
from tonno_core.volume.grid import ijk_to_grid

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class InversionTask:
    """A few Gaussian balls, whose plane integrals are known: the same object for both inversions.

    side: nodes along an axis, over [-1, 1]. directions: L. slices: M.
    """

    side: int = 96
    directions: int = 1000
    slices: int = 96

    @property
    def balls(self) -> tuple[_Array, _Array, _Array]:
        """Centres B 3, standard deviations B, heights B."""
        rng = np.random.default_rng(0)
        return rng.uniform(-0.35, 0.35, (6, 3)), rng.uniform(0.08, 0.16, 6), rng.uniform(0.5, 1.5, 6)

    @property
    def axis(self) -> _Array:
        """Coordinates of the nodes."""
        return np.linspace(-1.0, 1.0, self.side)

    def truth(self) -> _Array:
        """The object at the nodes: Z Y X."""
        z, y, x = np.meshgrid(self.axis, self.axis, self.axis, indexing="ij")
        total = np.zeros(z.shape)
        for centre, sigma, height in zip(*self.balls, strict=True):
            squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
            total += height * np.exp(-squared / (2.0 * sigma**2))
        return total

    def plane_integrals(
        self, normals: _Array, offsets: _Array, *, blur: float = 0.0, derivative: bool = False
    ) -> _Array:
        """L T: over the planes x . n = s, blurred along s by a Gaussian, or their derivative by s."""
        total = np.zeros((len(normals), len(offsets)))
        for centre, sigma, height in zip(*self.balls, strict=True):
            variance = sigma**2 + blur**2
            at = offsets - (normals @ centre)[:, None]
            one = height * 2.0 * np.pi * sigma**3 / np.sqrt(variance) * np.exp(-(at**2) / (2.0 * variance))
            total += -at / variance * one if derivative else one
        return total


def own_inversion(task: InversionTask, *, every_node: bool = False) -> Callable[[], npt.NDArray[np.float32]]:
    """The engine's, on the nodes in the ball, as it shows no others: Z Y X. The data are made now, the call inverts.

    every_node: at those outside of the ball too.
    """
    pixels = 96
    plan = SlicePlan(np.eye(4), hemisphere(task.directions), task.slices, pixels)
    # The encoder's mean of the pixels of a slice whose side is 2 S / (S - 1).
    area = (2.0 * pixels / (pixels - 1)) ** 2
    logits = torch.as_tensor(task.plane_integrals(plan.directions, plan.offsets) / area).float()
    shape = (task.side, task.side, task.side)
    grid = TargetGrid(shape, ijk_to_grid(shape), math.inf if every_node else 1.0)
    variant = Variant("tonno")

    def action() -> npt.NDArray[np.float32]:
        projections = [Projections(slice(0, task.directions), logits, {})]
        found: npt.NDArray[np.float32] = invert(projections, plan, grid, [variant]).heatmaps[variant].numpy()
        return found

    return action


def pyepri_inversion(task: InversionTask) -> Callable[[], _Array]:
    """PyEPRI's `eprfbp3d` of the same object at the same nodes: Z Y X; TonnoError where it is not installed.

    In its terms: a field gradient of one unit along n spreads the object over B = -x . n; the measured spectrum is the
    object's profile convolved with the derivative of an absorption line, here a Gaussian of one and a half steps. Its
    directions are a grid of angles, weighted by the sine of the tilt.
    """
    try:
        from pyepri import backends, processing
    except ImportError:
        raise TonnoError(
            "`compare`: the package pyepri is not installed; it is in the extra 'test': pip install pyepri"
        ) from None
    step = 2.0 / (task.slices - 1)
    line = 1.5 * step
    turns = max(one for one in range(1, int(np.sqrt(task.directions)) + 1) if task.directions % one == 0)
    tilts = task.directions // turns
    angles = ((np.arange(count) + 0.5) * np.pi / count for count in (tilts, turns))
    turn, tilt = (one.ravel() for one in np.meshgrid(*angles))
    normals = np.stack([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)], axis=1)
    count = 2 * int(np.ceil(1.75 / step)) + 1  # out to the corners of the cube
    field = np.asarray((np.arange(count) - count // 2) * step, dtype=np.float64)
    spectra = -task.plane_integrals(normals, -field, blur=line, derivative=True)
    absorption = np.exp(-(field**2) / (2.0 * line**2)) / (np.sqrt(2.0 * np.pi) * line)
    reference = np.diff(absorption, prepend=0.0) / step  # whose running sum is the absorption line again
    # It takes the range of angles from the outermost of them, half a cell inside on either end of half a turn.
    covered = (1.0 - 1.0 / turns) * (1.0 - 1.0 / tilts)
    backend = backends.create_numpy_backend()
    axis = task.axis

    def action() -> _Array:
        volume = processing.eprfbp3d(
            spectra, normals.T.copy(), reference, field, axis, axis, axis,
            lambda xp, fp, x: np.interp(x.ravel(), xp, fp.ravel(), left=0.0, right=0.0),
            backend=backend,
        )  # fmt: skip
        return np.asarray(volume).transpose(2, 0, 1) / covered  # from Y X Z

    return action
