"""Nodes of a scene that need not be the application's own."""

from __future__ import annotations

import slicer


def nodesByClass(scene, className: str) -> list:
    """List the nodes of a class in a scene. slicer.util.getNodesByClass looks into the application's scene alone.

    Args:
        scene: The vtkMRMLScene.
        className: Name of the class, such as "vtkMRMLSliceNode"; derived classes count.

    Returns:
        The nodes, in the scene's order.
    """
    return [scene.GetNthNodeByClass(n, className) for n in range(scene.GetNumberOfNodesByClass(className))]


def addHidden(scene, node, name: str):
    """Add a displayable node that nobody sees in a list or a tree, and that is not saved with the scene.

    Args:
        scene: The vtkMRMLScene.
        node: A node that is in no scene.
        name: Its name.

    Returns:
        The node, with its display node.
    """
    node.SetName(name)
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    exclude = slicer.vtkMRMLSubjectHierarchyConstants.GetSubjectHierarchyExcludeFromTreeAttributeName()
    node.SetAttribute(exclude, "1")
    node = scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSaveWithScene(False)
    return node


def removeNode(node) -> None:
    """Remove a node from its scene, with the display, storage and item of the subject hierarchy that are its own.

    In the application a plug-in removes the item; the hierarchy alone would keep one without a node.

    Args:
        node: A displayable node that is in a scene.
    """
    scene, helpers = node.GetScene(), _helpersOf(node)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = tree.GetItemByDataNode(node) if tree is not None else 0
    if item:
        tree.RemoveItem(item, False, False)
    scene.RemoveNode(node)
    # A copy of a node has the display and storage of the one that it was copied from.
    used = [helper for other in nodesByClass(scene, "vtkMRMLDisplayableNode") for helper in _helpersOf(other)]
    for helper in helpers:
        if helper.GetScene() is scene and helper not in used:
            scene.RemoveNode(helper)


def _helpersOf(node) -> list:
    """List the display and storage nodes of a displayable node."""
    helpers = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    helpers += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
    return [helper for helper in helpers if helper is not None]
