"""What a reconstruction gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Matrix, Volume


@dataclass(frozen=True)
class PlaneProfile:
    """The classifier's answer to parallel planes of any direction.

    normal_ras: 3, a unit vector. positions_mm: N, the planes' signed distances along it from RAS 0. logits: N.
    """

    normal_ras: npt.NDArray[np.float64]
    positions_mm: npt.NDArray[np.float64]
    logits: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reconstruction:
    """Heatmaps on the input's grid, by name, and what is known about their making.

    variants: what each name stands for, its stage resolved; without variants of the caller's own each
    method of the settings is a name. inside: bool Z Y X, the voxels that the planes cover. profiles: the
    logit along R, A and S. score: mean of the highest tenth of all logits, the volume-level score (NaN
    without planes). explained: share of the logits' variance that the ToNNO heatmap's own plane integrals
    explain (None without ``tonno``, of a region alone, and where ``stopped``).
    layout: of the encoder's numbers in memory ("" where it has none), which decides how sums round.
    seconds: by step; ``total`` is all of it. directions, planned: how many were backprojected, and how many a whole run
    has (0 without any); where ``stopped``, that is, where the caller ended the run early, of the pass that it was in.
    """

    heatmaps: dict[str, Volume]
    variants: dict[str, Variant]
    inside: npt.NDArray[np.bool_]
    profiles: tuple[Profile, ...]
    settings: ReconstructionSettings
    class_name: str
    frame_to_ras: Matrix
    slice_size: int
    score: float
    explained: float | None
    seconds: dict[str, float]
    slices_total: int
    slices_blank: int
    device: str
    precision: str
    layout: str
    warnings: tuple[str, ...]
    directions: int = 0
    planned: int = 0
    stopped: bool = False

    @property
    def backprojected(self) -> ReconstructionSettings:
        """The settings with as many directions as were backprojected, fewer where the run ended early."""
        if not self.stopped or not self.directions:
            return self.settings
        cam = self.settings.cam_directions
        return replace(
            self.settings,
            directions=min(self.settings.directions, self.directions),
            cam_directions=None if cam is None else min(cam, self.directions),
        )
