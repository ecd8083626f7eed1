"""The stand-ins for Slicer's widgets do what its own do, as its documentation and sources have them."""

from __future__ import annotations

import gc
import types
from typing import Any

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")

VOLUME = "vtkMRMLScalarVolumeNode"


@pytest.fixture
def qt(qtHost):
    import qt

    return qt


# --- Slicer's selector of nodes


@pytest.fixture
def selector(qtHost: Any) -> Any:
    """One of volumes, with None, connected with the scene; `said` has what it told."""
    from mrml_widgets import qMRMLNodeComboBox
    from pythonqt import wrap

    box, said = wrap(qMRMLNodeComboBox()), []
    box.nodeTypes, box.noneEnabled = ["vtkMRMLScalarVolumeNode"], True
    box.addEnabled = box.removeEnabled = False
    box.setMRMLScene(qtHost.scene)
    box.connect("currentNodeChanged(vtkMRMLNode*)", said.append)
    yield types.SimpleNamespace(box=box, said=said, scene=qtHost.scene, add=qtHost.scene.AddNewNodeByClass)
    box.setMRMLScene(None)


def listed(box: Any) -> list[Any]:
    return [box.nodeFromIndex(n) for n in range(box.nodeCount())]


def test_a_new_node_is_listed_not_selected(selector) -> None:
    node = selector.add(VOLUME)
    selector.add("vtkMRMLModelNode")
    assert listed(selector.box) == [node]
    assert selector.box.currentNode() is None
    selector.box.setCurrentNode(node)
    selector.scene.RemoveNode(node)
    assert selector.said == [node, None]


def test_the_row_below_takes_the_place_of_a_node_that_leaves(selector) -> None:
    """As QComboBox does it: who looks at B and deletes it, looks at C."""
    first, second, third = [selector.add(VOLUME, name) for name in "ABC"]
    selector.box.setCurrentNode(second)
    selector.scene.RemoveNode(second)
    assert selector.box.currentNode() is third
    selector.scene.RemoveNode(third)
    assert selector.box.currentNode() is first  # there is none below
    selector.scene.RemoveNode(first)
    assert selector.said == [second, third, first, None]


def test_a_node_that_is_not_listed_cannot_be_selected(selector) -> None:
    node, hidden = selector.add(VOLUME), selector.add(VOLUME)
    hidden.SetHideFromEditors(True)
    hidden.Modified()
    model = selector.add("vtkMRMLModelNode")
    for other in (hidden, model):
        selector.box.setCurrentNode(node)
        selector.box.setCurrentNode(other)
        assert selector.box.currentNode() is None
    assert selector.said == [node, None, node, None]


def test_a_selected_node_that_is_renamed_is_told_again(selector) -> None:
    node = selector.add(VOLUME, "A")
    selector.box.setCurrentNode(node)
    node.SetName("B")
    assert selector.said == [node, node]


def test_nodes_of_one_name_are_told_apart(selector) -> None:
    first, second = selector.add(VOLUME, "scan"), selector.add(VOLUME, "scan")
    selector.box.setCurrentNode(first)
    selector.box.setCurrentNode(second)
    assert selector.said == [first, second]


def test_attributes_and_child_types_filter(selector) -> None:
    plain, marked = selector.add(VOLUME), selector.add(VOLUME)
    labels = selector.add("vtkMRMLLabelMapVolumeNode")
    assert listed(selector.box) == [plain, marked, labels]
    selector.box.showChildNodeTypes = False
    assert listed(selector.box) == [plain, marked]
    selector.box.showChildNodeTypes, selector.box.hideChildNodeTypes = True, ["vtkMRMLLabelMapVolumeNode"]
    assert listed(selector.box) == [plain, marked]
    selector.box.addAttribute(VOLUME, "Mine")
    marked.SetAttribute("Mine", "1")
    assert listed(selector.box) == [marked]
    marked.RemoveAttribute("Mine")
    assert listed(selector.box) == []


def test_a_scene_that_is_read_in_deselects(selector, qtHost, tmp_path) -> None:
    node = selector.add(VOLUME, "A")
    file = qtHost.save(tmp_path / "scene")
    selector.box.setCurrentNode(node)
    selector.scene.SetURL(str(file))
    assert selector.scene.Import()
    assert selector.said == [node, None]  # all rows are made anew
    assert [node.GetName() for node in listed(selector.box)] == ["A", "A"]


def test_a_new_node_by_hand_and_by_code(selector) -> None:
    from pythonqt import unwrap

    told = []
    selector.box.connect("nodeAddedByUser(vtkMRMLNode*)", told.append)
    selector.box.baseName, selector.box.addEnabled = "Mine", True
    first = unwrap(selector.box).createByHand()
    assert selector.box.currentNode() is first and first.GetName() == "Mine"
    selector.box.selectNodeUponCreation = False
    second = selector.box.addNode()
    assert selector.box.currentNode() is first and told == [first, second]
    with pytest.raises(AttributeError):
        selector.box.createByHand()  # a helper of the tests is no slot


def test_without_none_the_first_node_is_selected(qtHost) -> None:
    from mrml_widgets import qMRMLNodeComboBox
    from pythonqt import wrap

    node = qtHost.scene.AddNewNodeByClass(VOLUME)
    qtHost.scene.AddNewNodeByClass(VOLUME)
    box = wrap(qMRMLNodeComboBox())
    box.nodeTypes = [VOLUME]
    assert not box.enabled
    box.setMRMLScene(qtHost.scene)
    assert box.enabled and box.currentNode() is node
    box.setMRMLScene(None)
    assert box.currentNode() is None


# --- Slicer's other widgets


def test_segment_editor_demands_its_order(qtHost) -> None:
    import slicer
    from mrml_widgets import qMRMLSegmentEditorWidget

    editor, scene = qMRMLSegmentEditorWidget(), qtHost.scene
    with pytest.raises(AssertionError, match="the parameter node before the scene"):
        editor.setMRMLScene(scene)
    editor.setMRMLSegmentEditorNode(scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setMRMLScene(scene)
    editor.setSegmentationNode(scene.AddNewNodeByClass("vtkMRMLSegmentationNode"))
    editor.setActiveEffectByName("Paint")
    editor.setupViewObservations()
    scene.Clear(0)
    (error,) = qtHost.errors
    assert "setActiveEffect(None), setSegmentationNode(None), removeViewObservations()" in str(error)
    qtHost.errors.clear()
    assert slicer.qMRMLSegmentEditorWidget().autoShowSourceVolumeNode


def test_segment_editor_shows_its_source_in_the_overlays_place(qtHost) -> None:
    import slicer
    import slicer.util
    from mrml_widgets import qMRMLSegmentEditorWidget

    scene = qtHost.scene
    volume, overlay, other = [scene.AddNewNodeByClass(VOLUME, name) for name in ("image", "heatmap", "other")]
    slicer.util.setSliceViewerLayers(background=volume, foreground=overlay)
    editor = qMRMLSegmentEditorWidget()
    editor.setMRMLSegmentEditorNode(scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    layers = lambda: {  # noqa: E731
        (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID())
        for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    }
    editor.setSourceVolumeNode(volume)
    assert layers() == {(volume.GetID(), overlay.GetID())}  # it is shown already
    editor.setAutoShowSourceVolumeNode(False)
    editor.setSourceVolumeNode(other)
    assert layers() == {(volume.GetID(), overlay.GetID())}
    editor.setAutoShowSourceVolumeNode(True)
    editor.setSourceVolumeNode(other)
    assert layers() == {(other.GetID(), None)}


def test_segment_editor_stays_in_its_layout_when_python_forgets_it(qtHost, qt) -> None:
    from mrml_widgets import qMRMLSegmentEditorWidget
    from pythonqt import unwrap, wrap

    place = qt.QWidget()
    layout = qt.QVBoxLayout(place)
    for _time in range(2):
        editor = wrap(qMRMLSegmentEditorWidget())
        layout.addWidget(editor)
        del editor
    gc.collect()
    assert len(unwrap(place).findChildren(qMRMLSegmentEditorWidget)) == 2


def test_show_3d_follows_the_segmentation(qtHost) -> None:
    import numpy as np
    import slicer
    import slicer.util

    button = slicer.qMRMLSegmentationShow3DButton()
    node = qtHost.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    button.setSegmentationNode(node)
    assert not button.enabled
    volume = slicer.util.addVolumeFromArray(np.zeros((8, 8, 8), np.uint8))
    segment = node.GetSegmentation().AddEmptySegment("a", "a")
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:5, 2:5, 2:5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    qtHost.messages.take()  # the wheel lacks a table of colors
    assert button.enabled and not button.checked
    button.click()
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
    node.GetSegmentation().RemoveRepresentation("Closed surface")
    assert not button.checked
    button.locked = True
    assert not button.enabled
    button.setSegmentationNode(None)
