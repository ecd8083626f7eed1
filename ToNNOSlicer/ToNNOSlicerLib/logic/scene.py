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
