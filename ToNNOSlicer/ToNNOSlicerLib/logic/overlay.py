"""The heatmap over the slices: diverging colours centred on zero, nothing where it is below the threshold, a legend.

A slice view maps a volume's window to 256 colours, and takes a colour's opacity as "none" or "all" (times the
opacity of the foreground). So every colour below the threshold gets the opacity 0, and the window is chosen so
that the threshold falls between two colours: the overlay ends where the segmentation does.
"""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util

from ToNNOSlicerLib.logic.heatmap import inputOf, madeBy, recordOf

COLOURS = 256
_COLOUR_ROLE = "ToNNO.colours"
_PREVIOUS = "ToNNO.PreviousForeground"  # attribute of a slice view: what it showed before, as "opacity id"
_STOPS = (0.0, 0.25, 0.49, 0.51, 0.75, 1.0)
_DARK = (0.17, 0.17, 0.17)
_COLD_HOT = ("c8f6ff", "35a5ff", "2f62ff", "ff3526", "ff7f1a", "ffe070")


def setOverlay(heatmapNode, threshold: float, opacity: float = 0.6, visible: bool = True) -> None:
    """Show a heatmap in all slice views where |value| >= threshold (heatmap's units), or take it away.

    Taken away, the views show the foreground that they showed before. The legend comes and goes with it; hidden by
    the user meanwhile, it stays hidden.
    """
    limit = setColours(heatmapNode, threshold)
    heatmapNode.GetDisplayNode().SetWindowLevelMinMax(-limit, limit)
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", heatmapNode.GetScene())
    wasVisible = any(view.GetForegroundVolumeID() == heatmapNode.GetID() for view in views)
    for view in views:
        if visible:
            _showIn(view, heatmapNode, opacity)
        else:
            _removeFrom(view, heatmapNode)
    if visible != wasVisible:
        legend(heatmapNode).SetVisibility(visible)


def window(limit: float, threshold: float) -> tuple[float, int]:
    """Half a window near `limit` (> 0), and the first of the 256 colours that is not below the threshold.

    Colour k is given to the values from -half + k w to -half + (k + 1) w, with w = 2 half / 255. The threshold is
    at k w - half for the colour returned, so the half is threshold * 255 / (2 k - 255).
    """
    threshold = max(float(threshold), 0.0)
    if threshold >= limit:
        limit = 1.25 * threshold or 1.0
    if 255 * threshold < limit / 2:  # within a quarter of a colour of zero
        return limit, 128
    odd = 2 * round((255 * threshold / limit - 1) / 2) + 1  # 2 k - 255
    # A millionth less: the threshold itself belongs to the colour, whatever the last bit of float32 says.
    return threshold * 255 / odd * (1 - 1e-6), (255 + odd) // 2


def setColours(heatmapNode, threshold: float) -> float:
    """Hide the colours below a threshold, and return half of the window for which they are made."""
    limit, first = window(recordOf(heatmapNode)["limit"], threshold)
    node = colourNode(heatmapNode)
    hidden = np.arange(COLOURS)
    hidden = (hidden >= 255 - first) & (hidden < first)
    wasModifying = node.StartModify()
    colours = _colours()
    for index in np.flatnonzero(hidden != _hiddenIn(node)).tolist():
        # The legend knows no opacity: there, what is not shown is dark.
        node.SetColor(index, *(_DARK if hidden[index] else colours[index]), 0.0 if hidden[index] else 1.0)
    node.EndModify(wasModifying)
    return limit


def colourNode(heatmapNode):
    """The heatmap's own colour table; made, and given to its display node, where it is missing."""
    node = heatmapNode.GetNodeReference(_COLOUR_ROLE)
    if node is None:
        node = heatmapNode.GetScene().AddNewNodeByClass("vtkMRMLColorTableNode", f"{heatmapNode.GetName()} colours")
        node.SetTypeToUser()
        node.SetHideFromEditors(True)
        node.SetNumberOfColors(COLOURS)
        for index, (red, green, blue) in enumerate(_colours().tolist()):
            node.SetColor(index, f"{index}", red, green, blue, 1.0)
        node.GetLookupTable().SetRange(0, COLOURS - 1)
        heatmapNode.SetNodeReferenceID(_COLOUR_ROLE, node.GetID())
    display = heatmapNode.GetDisplayNode()
    if display.GetColorNodeID() != node.GetID():
        display.SetAndObserveColorNodeID(node.GetID())
    return node


def legend(heatmapNode):
    """The colour legend's display node; made where it is missing."""
    node = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(heatmapNode)
    if node is None:
        node = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(heatmapNode)
        record = recordOf(heatmapNode)
        node.SetTitleText(f"{madeBy(record)}\n{record['className']}")
        node.GetTitleTextProperty().ShadowOn()
        node.SetLabelFormat("%.3g")
        node.SetNumberOfLabels(5)
        node.SetSize(0.12, 0.45)
        node.SetPosition(0.98, 0.5)
    return node


def removeTraces(heatmapNode) -> None:
    """Before a heatmap leaves the scene: the views show what they showed before; colours and display nodes go too."""
    scene = heatmapNode.GetScene()
    for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene):
        _removeFrom(view, heatmapNode)
    display = [heatmapNode.GetNthDisplayNode(n) for n in range(heatmapNode.GetNumberOfDisplayNodes())]
    for node in (*display, heatmapNode.GetNodeReference(_COLOUR_ROLE)):
        if node is not None:
            scene.RemoveNode(node)


def _showIn(view, heatmapNode, opacity: float) -> None:
    shown = view.GetForegroundVolumeID()
    if shown != heatmapNode.GetID():
        before = slicer.util.getNode(shown) if shown else None
        if before is None or before.GetAttribute("ToNNO.Record") is None:
            view.SetAttribute(_PREVIOUS, f"{view.GetForegroundOpacity()} {shown or ''}")
        view.SetForegroundVolumeID(heatmapNode.GetID())
    view.SetForegroundOpacity(opacity)
    background = inputOf(heatmapNode)
    if background is not None and view.GetBackgroundVolumeID() in (None, "", heatmapNode.GetID()):
        view.SetBackgroundVolumeID(background.GetID())


def _removeFrom(view, heatmapNode) -> None:
    if view.GetForegroundVolumeID() != heatmapNode.GetID():
        return
    opacity, _space, before = (view.GetAttribute(_PREVIOUS) or "0 ").partition(" ")
    view.SetForegroundVolumeID(before if before and view.GetScene().GetNodeByID(before) else None)
    view.SetForegroundOpacity(float(opacity))
    view.RemoveAttribute(_PREVIOUS)


def _colours() -> np.ndarray:
    """256 x 3, from cold to hot."""
    rgb = np.array([[int(colour[n : n + 2], 16) for n in (0, 2, 4)] for colour in _COLD_HOT]) / 255
    return np.stack([np.interp(np.linspace(0, 1, COLOURS), _STOPS, channel) for channel in rgb.T], axis=1)


def _hiddenIn(node) -> np.ndarray:
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(node.GetLookupTable().GetTable())[:, 3] == 0
