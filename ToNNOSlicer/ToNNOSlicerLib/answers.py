"""What the engine's answers become in the scene: a preview that sharpens, the heatmap, its overlay and its segment."""

from __future__ import annotations

from typing import Any

import numpy as np
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.heatmap import histogramOf
from ToNNOSlicerLib.run import Outcome, Run

_NOT_FOR_THE_RECORD = ("heatmaps", "inside", "profiles")


def read(found: dict[str, Any], inside: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The heatmap, what the planes cover, and its histogram. On any thread."""
    array, covered = np.load(found["array"]), np.load(inside)
    return array, covered, histogramOf(np.nan_to_num(array, copy=False), covered)


class Answers:
    """Puts them into the scene of a ToNNOLogic; each method is a piece of work for one turn of the event loop."""

    def __init__(self, logic) -> None:
        self._logic = logic

    def isThere(self, node) -> bool:
        """Whether a node is (still) in the scene."""
        return node is not None and node.GetScene() is self._logic.scene

    def showPreview(self, run: Run, event: dict[str, Any]):
        """The run's heatmap with the preview's voxels, and its overlay; None where the file is gone."""
        array = _load(event["heatmaps"].get(run.request.method))
        if array is None:
            return None
        run.preview = self._show(run, array, None, None)
        self.overlay(run, _number(run.request.threshold))
        return run.preview

    def showResult(self, run: Run, result: tuple) -> float:
        """The run's heatmap with the final voxels. result: as `read` gave it. Returns the first threshold."""
        array, inside, histogram = result
        run.preview = self._show(run, array, inside, {**run.answer, "histogram": histogram})
        found = run.answer["heatmaps"][run.request.method]
        chosen = (_number(found.get("threshold")), found.get("otsu"), max(histogram["high"] / 2, 1e-6))
        return float(next(value for value in chosen if value is not None))

    def overlay(self, run: Run, threshold: float | None) -> None:
        self._logic.setOverlay(run.preview, 0.0 if threshold is None else threshold, run.request.opacity, True)

    def writeSegment(self, run: Run, threshold: float) -> Outcome:
        """The segment; the heatmap is whole and stays from here on, also where this raises ToNNOUserError."""
        request, node, answer = run.request, run.preview, run.answer
        run.preview = None
        into = request.segmentationNode if self.isThere(request.segmentationNode) else None
        segmentationNode, segmentId = self._logic.newSegment(node, threshold, request.minMm3, into)
        warnings = (*run.input.warnings, *(answer.get("warnings") or ()), *_aboutThreshold(run))
        record = {name: value for name, value in answer.items() if name not in _NOT_FOR_THE_RECORD}
        return Outcome(node, segmentationNode, segmentId, threshold, request, record, warnings, run.isRefinement)

    def dropPreview(self, run: Run) -> None:
        """A run that has not succeeded leaves no heatmap."""
        node, run.preview = run.preview, None
        if self.isThere(node):
            self._logic.scene.RemoveNode(node)

    def _show(self, run: Run, array: np.ndarray, inside, event: dict[str, Any] | None):
        request, event_ = run.request, event or {}
        record = event_.get("heatmaps", {}).get(request.method, {}).get("threshold") or request.threshold
        return self._logic.showHeatmap(
            request.volumeNode,
            array,
            run.input.ijkToRAS,
            inside,
            request.method,
            event_.get("class_name") or request.className,
            record,
            run.preview if self.isThere(run.preview) else None,
            event,
            request.zoom,
        )


def _aboutThreshold(run: Run) -> tuple[str, ...]:
    """A model's threshold that was used where it was not calibrated."""
    record = run.answer["heatmaps"][run.request.method].get("threshold")
    if not run.request.zoom or _number(record) is None:
        return ()
    return (_("The model's threshold was calibrated for the whole volume, not for a finer region: look, and tune it."),)


def _load(path: str | None) -> np.ndarray | None:
    """A preview; None where it is gone, because a newer one or the end has replaced it."""
    try:
        return None if path is None else np.load(path)
    except (OSError, ValueError):
        return None


def _number(record: dict[str, Any] | None) -> float | None:
    value = (record or {}).get("threshold")
    return None if value is None else float(value)
