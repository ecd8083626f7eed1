"""What a reconstruction gives."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.calibration import ModelThreshold
from tonno_core.encoding.encoder import PixelSum
from tonno_core.errors import TonnoError, TonnoWarning
from tonno_core.segmentation.threshold import NO_FINDINGS, Segmentation, parts_of, segment, unsegmented
from tonno_core.settings import SEGMENTER, ReconstructionSettings, Variant
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Matrix, Volume

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Prediction:
    """A regressor's answer for a volume, and what its ``tonno`` heatmap adds up to.

    The sum of the heatmap over a region, times `per_mm3` and a voxel's mm3, is what the region adds to `value`.

    Attributes:
        name: Of the quantity.
        value: Mean of its answers for the slices between the foreground's ends, over all directions, in its own unit;
            None of a region alone, or where nothing was seen.
        per_mm3: What 1 mm3 adds to it where the heatmap is 1.
    """

    name: str
    value: float | None
    per_mm3: float

    @property
    def text(self) -> str:
        """The answer in words."""
        return f"{self.name} {'unknown' if self.value is None else format(self.value, '.4g')}"


@dataclass(frozen=True)
class Reconstruction:
    """Heatmaps, and what is known about their making.

    Attributes:
        heatmaps: On the input's grid, by name.
        variants: What each name stands for; without variants of the caller's own each method is a name.
        inside: Bool Z Y X, the voxels that the planes cover.
        profiles: The logit along R, A and S.
        settings: The settings that were asked for.
        class_name: The class that was looked for.
        frame_to_ras: 4 x 4, from the frame in which planes are laid to RAS mm.
        slice_size: S, the pixels along a side of a slice.
        score: Mean of the highest tenth of all logits, the volume-level score; NaN without planes. Of a segmenter the
            highest logit that 100 mm3 of what was looked at reach; of a regressor its prediction's value.
        explained: Share of the logits' variance that the ToNNO heatmap's own plane integrals explain; None without
            ``tonno``, of a region alone, and where ``stopped``.
        seconds: By step; ``total`` is all of it.
        slices_total: Slices that were looked at.
        slices_blank: Those of them that showed nothing and were skipped.
        device: Where the encoder ran.
        precision: Number format of the encoder.
        layout: Memory format of the encoder's numbers, "" where it has none; it decides how sums round.
        warnings: For whoever reads the result; arguments in backquotes.
        passes: Slices, masked ones too, that went through the network for ScoreCAM's maps; 0 for other maps.
        windows: Windows that a segmenter answered; 0 for an encoder of slices.
        directions: How many were backprojected, 0 without any; where ``stopped``, of the pass that it was in.
        planned: How many directions a whole run has.
        stopped: Whether the caller ended the run early.
        image: The scan; None where only heatmaps were asked for (`execute`).
        window: The scan's values that pictures show as black and as white; None for nearly the whole range.
        thresholds: The model's own thresholds by the heatmaps' names; None where it has none.
        prediction: What a regressor predicts; None of other models, and without planes over the sphere.
        unit: Unit of the heatmaps and profiles: ``logit``, or the name of a regressor's quantity.
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
    passes: int = 0
    windows: int = 0
    directions: int = 0
    planned: int = 0
    stopped: bool = False
    image: Volume | None = None
    window: tuple[float, float] | None = None
    thresholds: dict[str, ModelThreshold | None] = field(default_factory=dict)
    prediction: Prediction | None = None
    unit: str = "logit"

    def __repr__(self) -> str:
        made = f"{', '.join(self.heatmaps)} of class {self.class_name}"
        return f"Reconstruction({made}; {self.looked_at} in {self.seconds.get('total', 0.0):.1f} s)"

    def segment(
        self,
        name: str | None = None,
        *,
        threshold: float | str = "auto",
        min_volume_mm3: float | None = None,
        min_peak: float | None = None,
    ) -> Segmentation:
        """Binarize a heatmap, as `tonno reconstruct` does.

        Args:
            name: Of the heatmap, None for the first.
            threshold: ``auto`` for the model's own, Otsu's where it has none, of a regressor an empty segmentation;
                ``otsu``; or a number.
            min_volume_mm3: Smallest component that is kept; None for the model's own, which a classifier has not.
            min_peak: What the highest value of a component reaches that is kept; None likewise, ``-math.inf`` for all.

        Returns:
            The segmentation; a mask that is hardly a finding is warned of.

        Raises:
            TonnoError: There is no such heatmap, or Otsu's method cannot split it.
        """
        name = self._name(name)
        known, heatmap = self.thresholds.get(name), self.heatmaps[name]
        if self.unit != "logit" and str(threshold) == "auto":
            return unsegmented(heatmap)
        odds = self.variants[name].method == SEGMENTER
        parts = parts_of(known, min_volume_mm3, min_peak)
        made = segment(name, heatmap, self.inside, known, threshold=str(threshold), parts=parts, odds=odds)
        if made.warning is not None and not self._of_pixels:
            warnings.warn(made.warning, TonnoWarning, stacklevel=2)
        return made

    def show(self, name: str | None = None, *, threshold: float | str = "auto") -> Image:
        """Draw a heatmap over the scan in three planes, with the segmentation's outline and the logit's profiles.

        Args:
            name: Of the heatmap, None for the first.
            threshold: See `segment`.

        Returns:
            The picture, which a notebook shows; ``show().save("overview.png")`` writes it.

        Raises:
            TonnoError: There is no such heatmap.
        """
        from tonno_core.pictures.drawing import Scene
        from tonno_core.pictures.overview import overview

        name = self._name(name)
        made = self.segment(name, threshold=threshold)
        image = self.heatmaps[name] if self.image is None else self.image
        return overview(
            Scene(
                image,
                self.heatmaps[name],
                None if made.source == NO_FINDINGS else made.mask,
                window=self.window,
                unit="intensity" if self._of_pixels else self.unit,
                odds=self.variants[name].method == SEGMENTER,
            ),
            profiles=self.profiles,
            title=f"{name}: {self.class_name}",
            subtitle=made.source if made.source == NO_FINDINGS else f"threshold {made.threshold:.4g} ({made.source})",
        )

    @property
    def looked_at(self) -> str:
        """What the model answered, in words."""
        if self.windows:
            return f"{self.windows} window{'s' * (self.windows != 1)}"
        masked = f", {self.passes:,} passes of the network for scorecam" if self.passes else ""
        return f"{self.slices_total} slices{masked}"

    @property
    def _of_pixels(self) -> bool:
        """Whether the heatmaps are of intensities, which may be anything, rather than of a classifier."""
        return self.class_name in PixelSum.classes

    def _name(self, name: str | None) -> str:
        if name is None:
            return next(iter(self.heatmaps))
        if name not in self.heatmaps:
            raise TonnoError(f"'{name}': no such heatmap, expected one of {', '.join(self.heatmaps)}")
        return name

    @property
    def ended_at(self) -> int | None:
        """How many directions the heatmaps are made of where the run ended early, else None."""
        return self.directions or None if self.stopped else None
