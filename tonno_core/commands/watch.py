"""`--stop-when stable`: segments the previews of a run, and ends it when they no longer change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tonno_core.bundle.ready import ReadyModel
from tonno_core.commands.recipe import Recipe
from tonno_core.control import Control, Preview
from tonno_core.reconstruction import Reconstruction
from tonno_core.reconstruction.run import resolve
from tonno_core.segmentation.binarize import binarize
from tonno_core.segmentation.stability import STABLE_DICE, Stability
from tonno_core.segmentation.threshold import find_threshold


class Watch:
    """Each preview is segmented as the result will be: by the same threshold, or by Otsu's of the moment."""

    def __init__(self, ready: ReadyModel, recipe: Recipe) -> None:
        self._recipe, self._stability = recipe, Stability()
        self._ready, self._variants = ready, resolve(None, recipe.settings, ready)

    def control(self, progress: Callable[[int, int], None]) -> Control:
        """For `reconstruct`."""
        return Control(
            progress=progress, preview=self._look, stopped=lambda: self._stability.reached, every_preview=True
        )

    def record(self, result: Reconstruction) -> dict[str, Any]:
        """For the report. directions: how many were needed, or all."""
        return {
            "stable": self._stability.reached,
            "directions": result.directions,
            "checks": [dataclasses.asdict(check) for check in self._stability.checks],
        }

    def summary(self, result: Reconstruction) -> str:
        """One line for the terminal."""
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
        settings = dataclasses.replace(self._recipe.settings, directions=preview.directions)
        for name, heatmap in preview.heatmaps.items():
            known = self._ready.threshold(self._variants[name], settings)
            threshold, _ = find_threshold(heatmap, preview.inside, self._recipe.threshold, known)
            masks[name] = binarize(heatmap, threshold, min_volume_mm3=self._recipe.min_volume_mm3)
        self._stability.add(preview.directions, masks)
