"""What the slice views show of a result: its image, the heatmap over it where it reaches the threshold, one legend.

A slice view maps a volume's window to 256 colors, and a color is either shown or not (times the opacity of the layer).
Therefore every color below the threshold gets the opacity 0, and the window is chosen so that the threshold falls
between two colors: the overlay ends where the segmentation does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from tonno_core.pictures.colours import COLD_HOT, PALETTES, STOPS
from tonno_core.settings import SEGMENTER
from ToNNOSlicerLib.logic.heatmap import Record, isHeatmap, madeBy, recordOf
from ToNNOSlicerLib.logic.scene import nodesByClass

_COLORS = 256
_COLOR_ROLE = "ToNNO.colours"
_PREVIOUS = "ToNNO.PreviousForeground"  # attribute of a slice view: what it showed before, as "opacity id"
_SHOWN = "ToNNO.Shown"  # attribute of the heatmap that the views show
_DARK = (0.17, 0.17, 0.17)
_HEATMAP_LAYER = 3  # above background, foreground and labels


@dataclass(frozen=True)
class Layers:
    """The layers that all slice views are to show.

    Attributes:
        inputNode: The image in the background.
        heatmapNode: Lies over it where |value| >= threshold; None: no heatmap.
        threshold: In the heatmap's units.
        opacity: Opacity of the heatmap, 0 to 1.
        secondNode: Another image of the patient between the two, or None.
        fade: Opacity of that image, 0 to 1.
        colors: The heatmap's, by the engine's name.
    """

    inputNode: Any
    heatmapNode: Any = None
    threshold: float = 0.0
    opacity: float = 0.6
    secondNode: Any = None
    fade: float = 0.5
    colors: str = COLD_HOT


def show(scene, layers: Layers) -> bool:
    """Make all slice views show the layers, and no other heatmap.

    Without a heatmap, the views show the foreground again that they showed before there was one.

    Args:
        scene: The vtkMRMLScene.
        layers: What to show.

    Returns:
        Whether the background of a view has changed.
    """
    if layers.heatmapNode is not None:
        low, high = _setColors(layers.heatmapNode, layers.threshold, layers.colors)
        layers.heatmapNode.GetDisplayNode().SetWindowLevelMinMax(low, high)
    changed = False
    for view in nodesByClass(scene, "vtkMRMLSliceCompositeNode"):
        changed |= _showIn(view, layers)
    _showLegends(scene, layers.heatmapNode)
    return changed


def shownImage(scene):
    """Return the image that all slice views have in the background.

    Args:
        scene: The vtkMRMLScene.

    Returns:
        The vtkMRMLScalarVolumeNode; None where the views differ, show nothing or a heatmap.
    """
    shown = {view.GetBackgroundVolumeID() for view in nodesByClass(scene, "vtkMRMLSliceCompositeNode")}
    node = scene.GetNodeByID(shown.pop() or "") if len(shown) == 1 else None
    isImage = node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode" and not isHeatmap(node)
    return node if isImage else None


def keepApart(scene, inputNode) -> None:
    """Take heatmaps out of the views that show another image than theirs.

    Args:
        scene: The vtkMRMLScene.
        inputNode: The image of the heatmap that is shown.
    """
    for view in nodesByClass(scene, "vtkMRMLSliceCompositeNode"):
        if view.GetBackgroundVolumeID() != inputNode.GetID():
            _withdraw(view, isHeatmap)


def window(record: Record, threshold: float) -> tuple[float, float, int]:
    """Choose the window in which a threshold falls between two colors.

    A segmenter's begins just below the threshold, as nearly all of a volume lies far below 0.
    Where no value is at or below -threshold, the window begins at 0 and ends at about the heatmap's maximum; else it is
    centered on 0. Color k is given to the values from low + k w to low + (k + 1) w, with w = (high - low) / 255.

    Args:
        record: The heatmap's record: "low", "high", "limit".
        threshold: In the heatmap's units; below 0 it counts as 0, but of a segmenter.

    Returns:
        The window's ends low and high, and the number of the first color that is not below the threshold.
    """
    if record.get("method") == SEGMENTER:
        return _above(record["high"], float(threshold))
    limit, threshold = record["limit"], max(float(threshold), 0.0)
    if threshold >= limit:
        limit = 1.25 * threshold or 1.0
    if record.get("low", -limit) <= -threshold or threshold == 0:
        return _centered(limit, threshold)
    high = min(limit, max(record["high"], 1.25 * threshold))
    first = max(1, round(255 * threshold / high))
    # A millionth less: the threshold itself belongs to the color, whatever the last bit of float32 says.
    return 0.0, threshold * 255 / first * (1 - 1e-6), first


def _above(highest: float, threshold: float) -> tuple[float, float, int]:
    """Choose a window of which only the first color lies below the threshold."""
    high = max(highest, threshold + 1.0)
    step = (high - threshold) / 254
    return threshold - step * (1 - 1e-6), high, 1


def _centered(limit: float, threshold: float) -> tuple[float, float, int]:
    """Choose a window around 0.

    The threshold is at k w - half for the color k that is returned, hence half = threshold * 255 / (2 k - 255).
    """
    if 255 * threshold < limit / 2:  # within a quarter of a color of zero
        return -limit, limit, 128
    odd = 2 * round((255 * threshold / limit - 1) / 2) + 1  # 2 k - 255
    half = threshold * 255 / odd * (1 - 1e-6)
    return -half, half, (255 + odd) // 2


def _setColors(heatmapNode, threshold: float, colors: str) -> tuple[float, float]:
    """Set the colors, hidden below a threshold; returns the ends of the window for which they are made."""
    record = recordOf(heatmapNode)
    low, high, first = window(record, threshold)
    isHot = low == 0 or record.get("method") == SEGMENTER
    node = _colorNode(heatmapNode)
    index = np.arange(_COLORS)
    hidden = (index < first) if isHot else (index >= 255 - first) & (index < first)
    # The legend knows no opacity: there, what is not shown is dark.
    shown = np.where(hidden[:, np.newaxis], _DARK, _palette(colors, not isHot))
    table = np.column_stack([shown, np.where(hidden, 0.0, 1.0)])
    wasModifying = node.StartModify()
    for k in np.flatnonzero((np.round(255 * table) != _tableOf(node)).any(axis=1)).tolist():
        node.SetColor(k, *table[k].tolist())
    node.EndModify(wasModifying)
    return low, high


def _colorNode(heatmapNode):
    """Return the heatmap's color table; it is made, and given to the display node, where it is missing."""
    node = heatmapNode.GetNodeReference(_COLOR_ROLE)
    if node is None:
        node = heatmapNode.GetScene().AddNewNodeByClass("vtkMRMLColorTableNode", f"{heatmapNode.GetName()} colors")
        node.SetTypeToUser()
        node.SetHideFromEditors(True)
        node.SetNumberOfColors(_COLORS)
        for index, (red, green, blue) in enumerate(_palette(COLD_HOT, True).tolist()):
            node.SetColor(index, f"{index}", red, green, blue, 1.0)
        node.GetLookupTable().SetRange(0, _COLORS - 1)
        heatmapNode.SetNodeReferenceID(_COLOR_ROLE, node.GetID())
    display = heatmapNode.GetDisplayNode()
    if display.GetColorNodeID() != node.GetID():
        display.SetAndObserveColorNodeID(node.GetID())
    return node


def _legend(heatmapNode):
    """Return the heatmap's color legend; it is made, for the first slice view alone, where it is missing."""
    node = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(heatmapNode)
    if node is None:
        node = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(heatmapNode)
        node.SetLabelFormat("%.3g")
        node.SetNumberOfLabels(3)
        node.SetSize(0.07, 0.3)
        # A corner, since heads and bodies are round; the title above the bar grows with the view's width.
        node.SetPosition(0.98, 0.8)
        for text, size in ((node.GetTitleTextProperty(), 12), (node.GetLabelTextProperty(), 11)):
            text.ShadowOn()
            text.SetFontSize(size)
        views = nodesByClass(heatmapNode.GetScene(), "vtkMRMLSliceNode")
        node.SetViewNodeIDs([view.GetID() for view in views[:1]])
    record = recordOf(heatmapNode)
    node.SetTitleText(f"{madeBy(record)}\n{record['className']}")
    return node


def removeTraces(heatmapNode) -> None:
    """Give the views back what they showed before a heatmap, and remove its colors and display nodes.

    Args:
        heatmapNode: The heatmap, which is about to leave the scene.
    """
    scene = heatmapNode.GetScene()
    for view in nodesByClass(scene, "vtkMRMLSliceCompositeNode"):
        _withdraw(view, lambda node: node is heatmapNode)
    display = [heatmapNode.GetNthDisplayNode(n) for n in range(heatmapNode.GetNumberOfDisplayNodes())]
    # The legend before the image's own display node, without which its displayable manager complains.
    for node in (*reversed(display), heatmapNode.GetNodeReference(_COLOR_ROLE)):
        if node is not None:
            scene.RemoveNode(node)


def _showIn(view, layers: Layers) -> bool:
    """Set one view's layers; returns whether its background has changed."""
    changed = False
    if layers.inputNode is not None and view.GetBackgroundVolumeID() != layers.inputNode.GetID():
        view.SetBackgroundVolumeID(layers.inputNode.GetID())
        changed = True
    above = layers.heatmapNode if layers.secondNode is not None else None
    between = layers.secondNode if layers.secondNode is not None else layers.heatmapNode
    if between is None:
        _restoreForeground(view)
    else:
        _setForeground(view, between, layers.fade if layers.secondNode is not None else layers.opacity)
    shown = view.GetNthLayerVolumeID(_HEATMAP_LAYER)
    if above is not None:
        view.SetNthLayerVolumeID(_HEATMAP_LAYER, above.GetID())
        view.SetNthLayerOpacity(_HEATMAP_LAYER, layers.opacity)
    elif shown and isHeatmap(view.GetScene().GetNodeByID(shown)):
        view.SetNthLayerVolumeID(_HEATMAP_LAYER, None)
    return changed


def _setForeground(view, node, opacity: float) -> None:
    """Show a node in the foreground, and remember what the user had there before."""
    if view.GetAttribute(_PREVIOUS) is None:
        view.SetAttribute(_PREVIOUS, f"{view.GetForegroundOpacity()} {view.GetForegroundVolumeID() or ''}")
    if view.GetForegroundVolumeID() != node.GetID():
        view.SetForegroundVolumeID(node.GetID())
    view.SetForegroundOpacity(opacity)


def _withdraw(view, isMeant: Callable[[Any], bool]) -> None:
    """Take the heatmaps that are meant out of a view."""
    nodeByID = view.GetScene().GetNodeByID
    if isMeant(nodeByID(view.GetForegroundVolumeID() or "")):
        _restoreForeground(view)
    if isMeant(nodeByID(view.GetNthLayerVolumeID(_HEATMAP_LAYER) or "")):
        view.SetNthLayerVolumeID(_HEATMAP_LAYER, None)


def _restoreForeground(view) -> None:
    """Show in the foreground what was there before a heatmap."""
    before = view.GetAttribute(_PREVIOUS)
    if before is None:
        return
    opacity, _space, identifier = before.partition(" ")
    view.SetForegroundVolumeID(identifier if identifier and view.GetScene().GetNodeByID(identifier) else None)
    view.SetForegroundOpacity(float(opacity))
    view.RemoveAttribute(_PREVIOUS)


def _showLegends(scene, heatmapNode) -> None:
    """Show the legend of this heatmap and of no other; where the user has hidden it meanwhile, it stays hidden."""
    for node in nodesByClass(scene, "vtkMRMLScalarVolumeNode"):
        if not isHeatmap(node):
            continue
        display = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        wasShown = node.GetAttribute(_SHOWN) is not None
        if node is heatmapNode and not wasShown:
            _legend(node).SetVisibility(True)
            node.SetAttribute(_SHOWN, "1")
        elif node is heatmapNode:
            _legend(node)  # its words follow the record
        else:
            node.RemoveAttribute(_SHOWN)
            if display is not None and display.GetVisibility():  # also where an earlier version has left it on
                display.SetVisibility(False)


def _palette(colors: str, isCentered: bool) -> np.ndarray:
    """Return 256 x 3 colors, 0 to 1: from cold to hot, or the hot half alone."""
    rgb = np.array([[int(color[n : n + 2], 16) for n in (1, 3, 5)] for color in PALETTES[colors]]) / 255
    places = np.linspace(0 if isCentered else STOPS[3], 1, _COLORS)
    return np.stack([np.interp(places, STOPS, channel) for channel in rgb.T], axis=1)


def _tableOf(node) -> np.ndarray:
    """Return the color table as it is now: 256 x 4, 0 to 255."""
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(node.GetLookupTable().GetTable())
