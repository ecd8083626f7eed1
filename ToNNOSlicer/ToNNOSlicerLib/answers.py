"""What the engine's answers become in the scene: a preview that sharpens, a heatmap for each class, their segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ToNNOSlicerLib.labels import forPanel
from ToNNOSlicerLib.logic import results
from ToNNOSlicerLib.logic.heatmap import Heatmap, histogramOf, showHeatmap
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, segmentOf
from ToNNOSlicerLib.run import Outcome, Run

_NOT_FOR_THE_RECORD = ("heatmaps", "inside", "profiles", "classes")


@dataclass(frozen=True)
class Part:
    """One class of an answer. answer: the event with this class's values. array: float32 Z Y X. inside: its like."""

    className: str
    answer: dict[str, Any]
    array: np.ndarray
    inside: np.ndarray


def read(event: dict[str, Any], method: str) -> list[Part]:
    """Read the heatmaps of an answer, the first class first, and count their histograms. On any thread."""
    inside = np.load(event["inside"])
    parts = []
    for className, ofClass in (event.get("classes") or {event.get("class_name"): {}}).items():
        answer = {**event, **ofClass, "class_name": className}
        array = np.nan_to_num(np.load(answer["heatmaps"][method]["array"]), copy=False)
        parts.append(Part(className, {**answer, "histogram": histogramOf(array, inside)}, array, inside))
    return parts


class Answers:
    """Puts them into the scene of a ToNNOLogic; each method is a piece of work for one turn of the event loop."""

    def __init__(self, logic) -> None:
        self._logic = logic

    def isThere(self, node) -> bool:
        """Whether a node is (still) in the scene."""
        return node is not None and node.GetScene() is self._logic.scene

    def showPreview(self, run: Run, event: dict[str, Any]):
        """The run's heatmap with the preview's voxels; None where the file is gone."""
        array = _load(event["heatmaps"].get(run.request.method))
        if array is None:
            return None
        known = run.nodes[0] if run.nodes and self.isThere(run.nodes[0]) else None
        remembered = {"directions": event.get("directions"), "planned": event.get("of"), "preview": True}
        run.nodes[:1] = [self._show(run, run.request.className, array, None, None, known, remembered)]
        return run.nodes[0]

    def showPart(self, run: Run, part: Part) -> None:
        """The heatmap of a class with its final voxels; the first takes the preview's place."""
        isFirst = run.answer.get("shown", 0) == 0
        known = run.nodes[0] if isFirst and run.nodes and self.isThere(run.nodes[0]) else None
        node = self._show(run, part.className, part.array, part.inside, part.answer, known, run.remembered())
        run.nodes[run.answer.get("shown", 0) :] = [node]
        run.answer["shown"] = len(run.nodes)

    def writeSegments(self, run: Run) -> Outcome:
        """Each heatmap's segment; the heatmaps are whole and stay from here on, also where this raises ToNNOUserError.

        A result of the same settings that nobody has worked on makes room; what was decided on it is taken over.
        """
        request, answer = run.request, run.answer
        nodes, run.nodes = run.nodes, []
        into = request.segmentationNode if self.isThere(request.segmentationNode) else None
        for node in nodes:
            threshold, smallest = self._replaceEarlier(node)
            first = results.firstThreshold(results.recordOf(node)) if threshold is None else threshold
            smallest = request.minMm3 if smallest is None else smallest
            into, _segmentId = self._logic.newSegment(node, first, smallest, into)
        warnings = (*run.input.warnings, *(forPanel(text) for text in answer.get("warnings") or ()))
        record = {name: value for name, value in answer.items() if name not in _NOT_FOR_THE_RECORD}
        return Outcome(tuple(nodes), request, record, tuple(text for text in warnings if text), run.kind)

    def dropPreview(self, run: Run) -> None:
        """A run that has not succeeded leaves no heatmap."""
        nodes, run.nodes = run.nodes, []
        for node in nodes:
            if self.isThere(node):
                self._logic.scene.RemoveNode(node)

    def _replaceEarlier(self, node) -> tuple[float | None, float | None]:
        """Remove results of the same settings without work by hand; returns the reader's threshold, smallest part."""
        threshold = smallest = None
        for earlier in results.predecessorsOf(node):
            known = segmentOf(earlier)
            if known is not None and isEditedByHand(*known):
                continue
            threshold, smallest = results.inherit(node, earlier)
            results.remove(earlier, self._logic.segments)
        return threshold, smallest

    def _show(self, run: Run, className: str, array, inside, answer, node, remembered: dict[str, Any]):
        request = run.request
        event = answer or {}
        record = event.get("heatmaps", {}).get(request.method, {}).get("threshold") or request.threshold
        warnings = [forPanel(text) for text in (*run.input.warnings, *(event.get("warnings") or ()))]
        if answer is not None:
            event = {**answer, "warnings": [text for text in warnings if text]}
        heatmap = Heatmap(
            array,
            run.input.ijkToRAS,
            request.method,
            className or event.get("class_name") or "",
            record,
            inside,
            event,
            request.zoom,
            remembered,
        )
        return showHeatmap(request.volumeNode, heatmap, node)


def _load(path: str | None) -> np.ndarray | None:
    """A preview; None where it is gone, because a newer one or the end has replaced it."""
    try:
        return None if path is None else np.load(path)
    except (OSError, ValueError):
        return None
