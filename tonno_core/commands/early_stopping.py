"""Early stopping: segments the previews of a run, and ends it when the segmentations no longer change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tonno_core.commands.request import PreparedRun
from tonno_core.output import Json
from tonno_core.reconstruction import Reconstruction
from tonno_core.reporting import Preview, Reporter
from tonno_core.segmentation.binarize import binarize
from tonno_core.segmentation.stability import STABLE_DICE, Stability
from tonno_core.segmentation.threshold import find_threshold, parts_of


class EarlyStopping:
    """Segments each preview as the result will be: by the same threshold, or by Otsu's of the moment."""

    def __init__(self, prepared: PreparedRun) -> None:
        self._run, self._options = prepared.run, prepared.request.options
        self._stability = Stability()

    def reporter(self, progress: Callable[[int, int], None]) -> Reporter:
        """Return a reporter that ends the run in time.

        Args:
            progress: Called with (slices done, slices in all).

        Returns:
            For `execute`.
        """
        return Reporter(
            progress=progress, preview=self._look, stopped=lambda: self._stability.reached, every_preview=True
        )

    def record(self, result: Reconstruction) -> Json:
        """Return what the report says.

        Args:
            result: Of the run.

        Returns:
            With ``directions``: how many were needed, or all.
        """
        return {
            "stable": self._stability.reached,
            "directions": result.directions,
            "checks": [dataclasses.asdict(check) for check in self._stability.checks],
        }

    def summary(self, result: Reconstruction) -> str:
        """Return a line for the terminal.

        Args:
            result: Of the run.

        Returns:
            Whether and when it was stable.
        """
        if not self._stability.reached:
            return f"not stable (Dice {STABLE_DICE} of successive halves) before all {result.directions} directions"
        last = self._stability.checks[-1]
        least = min(last.dice.values())
        return (
            f"stable after {result.directions} directions: Dice {least:.3f} of the segmentations by {last.half} and "
            f"{last.directions}"
        )

    def _look(self, preview: Preview) -> None:
        masks = {}
        (target,) = self._run.targets
        for name, heatmap in preview.heatmaps.items():
            known = self._run.threshold(target, name, preview.directions)
            threshold, _ = find_threshold(heatmap, preview.inside, self._options.threshold, known)
            parts = parts_of(known, self._options.min_volume_mm3, self._options.min_peak)
            masks[name] = binarize(heatmap, threshold, min_volume_mm3=parts.min_volume_mm3, min_peak=parts.min_peak)
        self._stability.add(preview.directions, masks)
