"""What the engine's answers become in the scene: a preview that sharpens, a heatmap for each class, their segments.

Each function is a piece of work for one turn of the event loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tonno_core.output import Json
from ToNNOSlicerLib.labels import forPanel
from ToNNOSlicerLib.logic import results
from ToNNOSlicerLib.logic.heatmap import Heatmap, histogramOf, modelsMinPeak, showHeatmap
from ToNNOSlicerLib.logic.scene import removeNode
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, segmentOf
from ToNNOSlicerLib.run import Outcome, Run

_NOT_FOR_THE_RECORD = ("heatmaps", "inside", "profiles", "classes")


@dataclass(frozen=True)
class Part:
    """A class of an answer.

    Attributes:
        className: The class.
        answer: The event with this class's values.
        array: The heatmap, float32 Z Y X.
        inside: The foreground, uint8 Z Y X.
    """

    className: str
    answer: Json
    array: np.ndarray
    inside: np.ndarray


def read(event: Json, method: str) -> list[Part]:
    """Read the heatmaps of an answer and count their histograms. On any thread.

    Args:
        event: The ``result``.
        method: The method whose heatmaps are read.

    Returns:
        The classes, the first of the run first.
    """
    inside = np.load(event["inside"])
    parts = []
    for className, ofClass in (event.get("classes") or {event.get("class_name"): {}}).items():
        answer = {**event, **ofClass, "class_name": className}
        array = np.nan_to_num(np.load(answer["heatmaps"][method]["array"]), copy=False)
        parts.append(Part(className, {**answer, "histogram": histogramOf(array, inside)}, array, inside))
    return parts


def _shown(run: Run):
    """Return the run's first heatmap; None where there is none, or no longer."""
    return next((node for node in run.nodes[:1] if node.GetScene() is not None), None)


def showPreview(run: Run, event: Json):
    """Show a preview's voxels in the run's heatmap.

    Args:
        run: The run.
        event: The ``preview``.

    Returns:
        The heatmap node; None where the file is gone.
    """
    array = _load(event["heatmaps"].get(run.request.method))
    if array is None:
        return None
    remembered = {"directions": event.get("directions"), "planned": event.get("of"), "preview": True}
    run.nodes[:1] = [_show(run, run.request.className, array, None, None, _shown(run), remembered)]
    return run.nodes[0]


def showPart(run: Run, part: Part) -> None:
    """Show the final heatmap of a class; the first takes the preview's place.

    Args:
        run: The run.
        part: The class.
    """
    count = run.answer.get("shown", 0)
    known = _shown(run) if count == 0 else None
    node = _show(run, part.className, part.array, part.inside, part.answer, known, run.remembered())
    run.nodes[count:] = [node]
    run.answer["shown"] = len(run.nodes)


def writeSegments(logic, run: Run) -> Outcome:
    """Write each heatmap's segment. From here on the heatmaps are whole and stay, also if this fails.

    A result of the same settings that nobody has worked on makes room; what was decided on it is taken over.

    Args:
        logic: A ToNNOLogic.
        run: The run.

    Returns:
        What the run has left in the scene.

    Raises:
        ToNNOUserError: If a segment cannot be written.
    """
    request, answer = run.request, run.answer
    nodes, run.nodes = run.nodes, []
    into = None
    for node in nodes:
        threshold, smallest, minPeak = _replaceEarlier(logic, node)
        record = results.recordOf(node)
        first = results.firstThreshold(record) if threshold is None else threshold
        smallest = request.minMm3 if smallest is None else smallest
        if minPeak is None:
            minPeak = modelsMinPeak(record) if request.dropWeak else -math.inf
        into, _segmentId = logic.segments.writeNew(node, first, smallest, into, minPeak)
    record = {name: value for name, value in answer.items() if name not in _NOT_FOR_THE_RECORD}
    return Outcome(tuple(nodes), request, record, run.kind)


def dropPreview(run: Run) -> None:
    """Remove the heatmaps of a run that has not succeeded.

    Args:
        run: The run.
    """
    nodes, run.nodes = run.nodes, []
    for node in nodes:
        if node.GetScene() is not None:
            removeNode(node)


def _replaceEarlier(logic, node) -> tuple[float | None, float | None, float | None]:
    """Remove results of the same settings without work by hand; returns the reader's threshold and parts."""
    known: tuple[float | None, float | None, float | None] = (None, None, None)
    for earlier in results.predecessorsOf(node):
        segment = segmentOf(earlier)
        if segment is not None and isEditedByHand(*segment):
            continue
        known = results.inherit(node, earlier)
        results.remove(earlier, logic.segments)
    return known


def _show(run: Run, className: str, array, inside, answer, node, remembered: Json):
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
    """Load a preview; None where a newer preview or the end has replaced it."""
    try:
        return None if path is None else np.load(path)
    except (OSError, ValueError):
        return None
