"""What a reconstruction gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Matrix, Volume


@dataclass(frozen=True)
class Reconstruction:
    """Heatmaps, and what is known about their making.

    Attributes:
        heatmaps: On the input's grid, by name.
        variants: What each name stands for; without variants of the caller's own each method is a name.
        inside: Bool Z Y X, the voxels that the planes cover.
        profiles: The logit along R, A and S.
        settings: That were asked for.
        class_name: Of the model's classes.
        frame_to_ras: 4 x 4.
        slice_size: S pixels.
        score: Mean of the highest tenth of all logits, the volume-level score; NaN without planes.
        explained: Share of the logits' variance that the ToNNO heatmap's own plane integrals explain; None without
            ``tonno``, of a region alone, and where ``stopped``.
        seconds: By step; ``total`` is all of it.
        slices_total: Slices that were looked at.
        slices_blank: Those of them that showed nothing and were skipped.
        device: Where the encoder ran.
        precision: Of its numbers.
        layout: Memory format of the encoder's numbers, "" where it has none; it decides how sums round.
        warnings: For whoever reads the result; arguments in backquotes.
        directions: How many were backprojected, 0 without any; where ``stopped``, of the pass that it was in.
        planned: How many directions a whole run has.
        stopped: Whether the caller ended the run early.
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
    def ended_at(self) -> int | None:
        """How many directions the heatmaps are made of where the run ended early, else None."""
        return self.directions or None if self.stopped else None
