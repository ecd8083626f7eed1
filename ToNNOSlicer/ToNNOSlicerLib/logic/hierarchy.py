"""Results stand beside their volume in the subject hierarchy: same patient, same study."""

from __future__ import annotations

import slicer


def putBeside(node, volumeNode) -> None:
    """Move a node to where a volume is. Without a subject hierarchy in the scene nothing is done.

    Args:
        node: Any node of the volume's scene.
        volumeNode: The volume.
    """
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if tree is None:
        return
    parent = tree.GetItemParent(_itemOf(tree, volumeNode)) or tree.GetSceneItemID()
    tree.SetItemParent(_itemOf(tree, node), parent)


def _itemOf(tree, node) -> int:
    """Return a node's item; the application makes items by itself, a bare scene does not."""
    return tree.GetItemByDataNode(node) or tree.CreateItem(tree.GetSceneItemID(), node)
