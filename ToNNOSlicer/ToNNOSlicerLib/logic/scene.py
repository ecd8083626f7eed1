"""Nodes of a scene that need not be the application's own."""

from __future__ import annotations


def nodesByClass(scene, className: str) -> list:
    """List the nodes of a class in a scene. slicer.util.getNodesByClass looks into the application's scene alone.

    Args:
        scene: The vtkMRMLScene.
        className: Name of the class, such as "vtkMRMLSliceNode"; derived classes count.

    Returns:
        The nodes, in the scene's order.
    """
    return [scene.GetNthNodeByClass(n, className) for n in range(scene.GetNumberOfNodesByClass(className))]


def removeNode(node) -> None:
    """Remove a node from its scene, with its display and storage nodes, which would stay behind.

    Args:
        node: A displayable node that is in a scene.
    """
    scene = node.GetScene()
    helpers = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    helpers += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
    scene.RemoveNode(node)
    for helper in helpers:
        if helper is not None and helper.GetScene() is scene:
            scene.RemoveNode(helper)
