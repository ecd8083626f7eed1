"""The stand-in's manners are PythonQt's and Slicer's, as their documentation has them."""

from __future__ import annotations

import enum
from typing import Annotated

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")


@pytest.fixture
def qt(qtHost):
    import qt

    return qt


def test_a_property_is_a_value_not_a_method(qt) -> None:
    label = qt.QLabel("text")
    assert label.text == "text"
    with pytest.raises(TypeError, match="not callable"):
        label.text()
    label.text = "other"
    assert label.text == "other"
    label.setText("third")  # slots stay methods
    assert label.text == "third"


def test_unknown_names_raise(qt) -> None:
    label = qt.QLabel()
    with pytest.raises(AttributeError):
        label.texxt  # noqa: B018
    with pytest.raises(AttributeError):
        label.texxt = "a typing error in a property's name is no new attribute"
    with pytest.raises(AttributeError):
        label.width = 3  # read only
    with pytest.raises(AttributeError):
        qt.QNothing  # noqa: B018


def test_both_ways_to_connect(qt) -> None:
    button, said = qt.QPushButton("b"), []
    button.checkable = True
    button.connect("clicked(bool)", lambda on: said.append(("text", on)))
    button.clicked.connect(lambda on: said.append(("attribute", on)))
    button.click()
    assert said == [("text", True), ("attribute", True)]


def test_a_signal_that_is_not_there_raises(qt) -> None:
    with pytest.raises(ValueError, match="no signal"):
        qt.QPushButton().connect("clicked(int)", lambda: None)
    with pytest.raises(ValueError, match="no signal"):
        qt.QPushButton().connect("cliked()", lambda: None)


def test_a_slot_with_too_few_arguments_raises(qt) -> None:
    table = qt.QTableWidget()
    with pytest.raises(TypeError, match="takes 1 arguments"):
        table.connect("cellClicked(int,int)", lambda row: None)


def test_an_exception_in_a_slot_reaches_the_test(qtHost, qt) -> None:
    button = qt.QPushButton()
    button.connect("clicked(bool)", lambda _on: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        button.click()
        qtHost.process()
    qtHost.errors.clear()


def test_a_question_without_an_answer_raises(qtHost, qt) -> None:
    with pytest.raises(AssertionError, match="nobody answers"):
        qt.QFileDialog.getExistingDirectory(None, "a folder")
    qtHost.answers.append(("message", "Yes"))
    with pytest.raises(AssertionError, match="nobody answers: folder"):  # that is an answer to another question
        qt.QFileDialog.getExistingDirectory(None, "a folder")
    box = qt.QMessageBox()
    box.setText("Really?")
    box.addButton("Yes", qt.QMessageBox.ActionRole)
    box.addButton("No", qt.QMessageBox.RejectRole)
    box.exec_()
    assert box.clickedButton().text == "Yes"


def test_a_new_node_is_listed_not_selected(qtHost) -> None:
    from pythonqt import QtObject
    from qt_widgets import qMRMLNodeComboBox

    box = QtObject(qMRMLNodeComboBox())
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.setMRMLScene(qtHost.scene)
    node = qtHost.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    qtHost.scene.AddNewNodeByClass("vtkMRMLModelNode")
    assert box.nodes() == [node]
    assert box.currentNode() is None
    said = []
    box.connect("currentNodeChanged(vtkMRMLNode*)", said.append)
    box.setCurrentNode(node)
    qtHost.scene.RemoveNode(node)
    assert said == [node, None]
    box.setMRMLScene(None)


def test_slider_without_tracking_tells_its_value_when_let_go(qtHost) -> None:
    from pythonqt import QtObject, unwrap
    from qt_widgets import ctkSliderWidget

    slider, said = QtObject(ctkSliderWidget()), []
    slider.maximum, slider.tracking = 10.0, False
    slider.connect("valueIsChanging(double)", lambda value: said.append(("moving", value)))
    slider.connect("valueChanged(double)", lambda value: said.append(("done", value)))
    unwrap(slider).drag([1.0, 2.0, 3.0])
    assert said == [("moving", 1.0), ("moving", 2.0), ("moving", 3.0), ("done", 3.0)]
    slider.value = 30.0
    assert slider.value == 10.0


def test_parameters_follow_widgets_and_widgets_parameters(qtHost, qt) -> None:
    import types

    import slicer
    from parameter_nodes import WithinRange, parameterNodeWrapper
    from pythonqt import QtObject
    from qt_widgets import ctkSliderWidget

    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    class Parameters:
        colour: Colour
        share: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
        count: int = 3
        volume: slicer.vtkMRMLScalarVolumeNode

    # Here, where the annotations' names are local, they are given as they are.
    Parameters.__annotations__ = {
        "colour": Colour,
        "share": Annotated[float, WithinRange(0.0, 1.0)],
        "count": int,
        "volume": slicer.vtkMRMLScalarVolumeNode,
    }
    node = qtHost.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters = parameterNodeWrapper(Parameters)(node)
    ui = types.SimpleNamespace(box=qt.QComboBox(), slider=QtObject(ctkSliderWidget()), spin=qt.QSpinBox())
    for widget, name in ((ui.box, "colour"), (ui.slider, "share"), (ui.spin, "count")):
        widget.setProperty("SlicerParameterName", name)
    tag = parameters.connectGui(ui)
    assert (ui.box.count, ui.slider.value, ui.slider.maximum, ui.spin.value) == (2, 0.5, 1.0, 3)
    ui.box.currentIndex, ui.slider.value, ui.spin.value = 1, 0.25, 7
    assert (parameters.colour, parameters.share, parameters.count) == (Colour.BLUE, 0.25, 7)
    parameters.count = 9
    assert ui.spin.value == 9
    with pytest.raises(AttributeError):
        parameters.cuont = 1
    with pytest.raises(TypeError):
        parameters.count = "nine"
    with pytest.raises(ValueError, match="expected"):
        parameters.share = 2.0
    parameters.disconnectGui(tag)
    ui.spin.value = 1
    assert parameters.count == 9
    # Another wrapper of the node, as after loading a scene, reads the same.
    assert parameterNodeWrapper(Parameters)(node).colour is Colour.BLUE


def test_a_widget_that_is_not_modelled_raises(qtHost, tmp_path) -> None:
    from qt_widgets import loadUI

    file = tmp_path / "a.ui"
    file.write_text(
        '<ui version="4.0"><class>A</class><widget class="ctkUnheardOf" name="A"/>'
        "<customwidgets><customwidget><class>ctkUnheardOf</class><extends>QWidget</extends></customwidget>"
        "</customwidgets></ui>"
    )
    with pytest.raises((NotImplementedError, RuntimeError)):
        loadUI(file)
