"""The part of `make.py` that needs the module for 3D Slicer: a scene as its users saved it.

The old module runs in its own stand-in for Slicer (ToNNOSlicer/Testing/Python of commit 350c810).
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .common import HERE, write_json
from .digest import digest

# Where the extension was when the scene was saved: a place that the next user does not have.
INSTALLED = "/opt/Slicer/lib/ToNNO"
SLICES, DIRECTIONS = 16, 24


def scene() -> None:
    """Three results of a small volume: one that is selected, one that was painted on, one of a run that was stopped."""
    from pythonqt import unwrap
    from qt_host import QtHost
    from walk import MODULE

    host = QtHost()
    widget = host.loadModule(MODULE)
    panel = widget.panel
    _volume(widget)
    first = _run(host, widget, "MATCHED_CAM")
    unwrap(widget.ui.thresholdSlider).drag([panel.logic.otsu(first), 0.9])
    second = _run(host, widget, "TONNO")
    widget.ui.otsuButton.click()
    _paint(*panel.logic.segmentOf(second))
    third = _stopped(host, widget)
    panel.parameters.heatmap = first
    panel.parameters.segmentation, panel.parameters.segmentId = panel.logic.segmentOf(first)
    panel.parameters.opacity = 0.45
    host.process()
    _writeAll(panel.parameters)
    results = [_facts(panel.logic, node) for node in (first, second, third)]
    facts = {"results": results, "parameters": _parameters(panel), "shown": _shown()}
    with tempfile.TemporaryDirectory() as folder:
        saved = host.save(Path(folder) / "scene")
        _keep(saved, Path(sys.argv[2]))
    host.close()
    write_json("scene.json", json.loads(json.dumps(facts).replace(sys.argv[2], INSTALLED)))


def _volume(widget: Any) -> None:
    """Every fourth voxel of the sample, on an oblique grid; coarse planes, and no choice at its default."""
    import slicer.util
    from scenes import rotation
    from ToNNOSlicerLib.parameter_node import Filter, Quality
    from ToNNOSlicerLib.sample import makeSample

    array, ijkToRAS = makeSample()
    turn = np.eye(4)
    turn[:3, :3] = rotation((1, 2, 3), 20)
    matrix = turn @ ijkToRAS @ np.diag([4, 4, 4, 1])
    node = slicer.util.addVolumeFromArray(array[::4, ::4, ::4].copy(), ijkToRAS=matrix, name="Head")
    parameters = widget.panel.parameters
    parameters.inputVolume = node
    parameters.slices, parameters.directions, parameters.minMm3 = SLICES, DIRECTIONS, 10.0
    parameters.quality, parameters.filter, parameters.device = Quality.BALANCED, Filter.HANN, "cpu"


def _run(host: Any, widget: Any, method: str) -> Any:
    from ToNNOSlicerLib.parameter_node import Method
    from walk import run

    widget.panel.parameters.method = Method[method]
    run(host, widget)
    return widget.panel.result.heatmap


def _stopped(host: Any, widget: Any) -> Any:
    """A run of many directions, stopped once the bar moves; afterwards the choices are as before."""
    from walk import RUN_S, begin

    widget.panel.parameters.directions = 2000
    begin(host, widget, 1.0)
    widget.ui.stopButton.click()
    assert host.process(RUN_S, lambda: widget.panel.controller.state == "idle")
    widget.panel.parameters.directions = DIRECTIONS
    return widget.panel.result.heatmap


def _paint(segmentationNode: Any, segmentId: str) -> None:
    """A corner voxel by hand."""
    from walk import paint

    paint(segmentationNode, segmentId, (0, 0, 0))


NODES = ("inputVolume", "roi", "heatmap", "segmentation")
TEXTS = (
    "zoom", "modelFolder", "className", "method", "quality", "slices", "directions", "stage", "sigmaScale", "filter",
    "device", "overlayVisible", "opacity", "threshold", "minMm3", "segmentId",
)  # fmt: skip


def _writeAll(parameters: Any) -> None:
    """Every parameter, as Slicer's own wrapper writes it from the start; the stand-in of then wrote changes alone.

    A node is a reference and an empty text; a number or a truth is Python's text, a choice its name.
    """
    for name in NODES:
        parameters.parameterNode.SetParameter(name, "")
    for name in TEXTS:
        value = getattr(parameters, name)
        parameters.parameterNode.SetParameter(name, str(getattr(value, "name", value)))


def _facts(logic: Any, heatmap: Any) -> dict[str, Any]:
    import slicer.util

    segmentation, segment = logic.segmentOf(heatmap)
    voxels = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, heatmap)
    edges, counts = logic.histogram(heatmap)
    why, record = logic.why(heatmap), json.loads(heatmap.GetAttribute("ToNNO.Record"))
    return {
        "name": heatmap.GetName(),
        "record": {name: value for name, value in record.items() if name not in ("profiles", "histogram", "seconds")},
        "heatmap": digest(slicer.util.arrayFromVolume(heatmap)),
        "segmentation": segmentation.GetName(),
        "segment": segmentation.GetSegmentation().GetSegment(segment).GetName(),
        "voxels": int(voxels.sum()),
        "threshold": logic.thresholdOf(segmentation, segment),
        "edited": logic.isEditedByHand(segmentation, segment),
        "model": logic.modelThreshold(heatmap),
        "floor": logic.noiseFloor(heatmap),
        "otsu": logic.otsu(heatmap),
        "histogram": [float(edges[0]), float(edges[-1]), int(counts.sum())],
        "why": [why.score, why.explained],
        "profile": np.round(logic.profileAlong(heatmap, (0, 0, 1)).logits, 6).tolist(),
        "findings": [
            {"volume": each.volumeMm3, "peak": each.peak, "mean": each.mean, "at": list(each.peakRAS),
             "centroid": list(each.centroidRAS), "extent": list(each.extentMm)}
            for each in logic.findings(segmentation, segment, heatmap)
        ],
    }  # fmt: skip


def _parameters(panel: Any) -> dict[str, Any]:
    """As they are written in the node: by name, as text; nodes by their names."""
    node = panel.parameters.parameterNode
    texts = {name: node.GetParameter(name) for name in node.GetParameterNames()}
    roles = [role for role in NODES if node.GetNodeReference(role)]
    return texts | {role: node.GetNodeReference(role).GetName() for role in roles}


def _shown() -> list[Any]:
    """Background, foreground and opacity of the slice views."""
    import slicer.util

    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    name = lambda identifier: slicer.util.getNode(identifier).GetName()  # noqa: E731
    return [
        [name(view.GetBackgroundVolumeID()), name(view.GetForegroundVolumeID()), view.GetForegroundOpacity()]
        for view in views
    ]


def _keep(saved: Path, checkout: Path) -> None:
    """Pack the scene and its data as Slicer does, without the places of this machine and without the picture."""
    with zipfile.ZipFile(HERE / "scene.mrb", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(saved.parent.rglob("*")):
            if path.is_file() and path.suffix != ".png":
                content = path.read_bytes().replace(str(checkout).encode(), INSTALLED.encode())
                name = "scene.mrml" if path == saved else path.relative_to(saved.parent).as_posix()
                archive.writestr(zipfile.ZipInfo(f"scene/{name}"), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
