"""Results stand beside their volume in the subject hierarchy: same patient, same study."""

from __future__ import annotations

import slicer


def putBeside(node, volumeNode) -> None:
    """Move a node to where a volume is. Without a subject hierarchy in the scene nothing is done."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if tree is None:
        return
    parent = tree.GetItemParent(_itemOf(tree, volumeNode)) or tree.GetSceneItemID()
    tree.SetItemParent(_itemOf(tree, node), parent)


def _itemOf(tree, node) -> int:
    """The application makes items by itself; a bare scene does not."""
    return tree.GetItemByDataNode(node) or tree.CreateItem(tree.GetSceneItemID(), node)
