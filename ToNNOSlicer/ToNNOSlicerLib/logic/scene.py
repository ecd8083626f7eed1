"""Nodes of a scene that need not be the application's own."""

from __future__ import annotations


def nodesByClass(scene, className: str) -> list:
    """List the nodes of a class in a scene. slicer.util.getNodesByClass looks into the application's scene alone."""
    return [scene.GetNthNodeByClass(n, className) for n in range(scene.GetNumberOfNodesByClass(className))]
