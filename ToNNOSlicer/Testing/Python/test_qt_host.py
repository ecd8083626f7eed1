"""The stand-in's manners are PythonQt's, CTK's and Slicer's, as their documentation and sources have them."""

from __future__ import annotations

import threading
import time
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


def test_a_property_is_a_value_not_a_method(qt) -> None:
    label = qt.QLabel("text")
    assert label.text == "text"
    with pytest.raises(TypeError, match="not callable"):
        label.text()
    label.text = "other"
    assert label.text == "other"
    label.setText("third")  # slots stay methods
    assert label.text == "third"


def test_name_is_the_object_name(qt) -> None:
    label = qt.QLabel()
    label.name = "aLabel"
    assert (label.objectName, label.name) == ("aLabel", "aLabel")


def test_types_are_exact_and_enumerations_numbers(qt) -> None:
    button = qt.QToolButton()
    assert type(button) is qt.QToolButton and isinstance(button, qt.QWidget) and not isinstance(button, qt.QLabel)
    button.popupMode = qt.QToolButton.InstantPopup
    assert button.popupMode == 2
    assert button.palette.color(qt.QPalette.Window) == qt.QApplication.palette().color(qt.QPalette.Window)
    with pytest.raises(AttributeError):
        button.palette.colour(qt.QPalette.Window)


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


def test_both_ways_to_disconnect(qt) -> None:
    button, said = qt.QPushButton("b"), []
    button.checkable = True
    button.connect("clicked(bool)", said.append)
    button.clicked.connect(said.append)
    assert button.disconnect("clicked(bool)", said.append) and button.clicked.disconnect(said.append)
    assert not button.disconnect("clicked(bool)", said.append)
    button.click()
    assert said == []


def test_shortcuts_timers_and_links(qtHost, qt) -> None:
    window, said = qt.QWidget(), []
    shortcut = qt.QShortcut(qt.QKeySequence("N"), window)
    shortcut.connect("activated()", lambda: said.append("key"))
    assert shortcut.key.toString() == "N"
    qt.QTimer.singleShot(1, lambda: said.append("later"))
    assert qtHost.process(1, lambda: "later" in said)
    assert qt.QDesktopServices.openUrl(qt.QUrl("https://example.org/a"))
    assert qtHost.opened == ["https://example.org/a"]
    browser = qt.QTextBrowser()
    browser.html = "<b>bold</b>"
    assert browser.plainText == "bold"


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
    with pytest.raises(AssertionError, match="nobody answers: message: Go on"):
        qt.QMessageBox.question(None, "title", "Go on?")
    qtHost.answers.append(("message", "No"))
    assert qt.QMessageBox.question(None, "title", "Go on?") == qt.QMessageBox.No


def test_in_testing_mode_slicers_questions_answer_themselves_and_ours_do_not(qtHost, qt) -> None:
    import slicer
    import slicer.util

    assert not slicer.app.testingEnabled()
    qtHost.testing = True
    slicer.util.confirmYesNoDisplay("Really?")
    slicer.util.errorDisplay("It does not work")
    assert not qtHost.asked
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setText("Really?")
    with pytest.raises(AssertionError, match="nobody answers"):  # it would wait for ever on a build machine
        box.exec_()


# --- CTK


@pytest.fixture
def slider(qtHost: Any) -> Any:
    """One without tracking, 0 to 10; `said` has what it told."""
    from pythonqt import wrap
    from qt_widgets import ctkSliderWidget

    slider, said = wrap(ctkSliderWidget()), []
    slider.decimals, slider.maximum, slider.tracking = 2, 10.0, False
    slider.connect("valueIsChanging(double)", lambda value: said.append(("moving", value)))
    slider.connect("valueChanged(double)", lambda value: said.append(("done", value)))
    return types.SimpleNamespace(slider=slider, said=said)


def test_slider_without_tracking_tells_its_value_when_let_go(slider) -> None:
    from pythonqt import unwrap

    seen = []
    slider.slider.connect("valueIsChanging(double)", lambda _value: seen.append(slider.slider.value))
    unwrap(slider.slider).drag([1.0, 2.0, 3.0])
    assert slider.said == [("moving", 1.0), ("moving", 2.0), ("moving", 3.0), ("done", 3.0)]
    assert seen == [0.0, 0.0, 0.0]  # until it is let go, the value is what it was
    slider.slider.value = 30.0
    assert slider.slider.value == 10.0


def test_slider_without_tracking_tells_twice_where_the_value_is_set(slider) -> None:
    slider.slider.value = 4.0
    assert slider.said == [("moving", 4.0), ("done", 4.0)]
    slider.slider.value = 4.0
    assert len(slider.said) == 2


def test_slider_keeps_what_is_set_and_tells_when_its_range_moves_it(slider) -> None:
    from pythonqt import unwrap

    slider.slider.value = 6.6049
    assert slider.slider.value == 6.6049  # two decimals are shown, all are kept
    assert unwrap(slider.slider)._number._box.value() == 6.6
    slider.slider.value = 6.6
    assert slider.said == [("moving", 6.6049), ("done", 6.6049), ("moving", 6.6), ("done", 6.6)]
    slider.slider.maximum = 5.0
    assert slider.said[-2:] == [("moving", 5.0), ("done", 5.0)]
    with pytest.raises(ValueError, match="a step of 6"):
        slider.slider.singleStep = 6.0


def test_what_is_folded_away_is_hidden_and_stays_hidden_if_it_was(qtHost, qt) -> None:
    from pythonqt import wrap
    from qt_widgets import ctkCollapsibleButton

    section, told = wrap(ctkCollapsibleButton()), []
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.visible = False
    section.show()
    section.connect("contentsCollapsed(bool)", told.append)
    section.collapsed = True
    assert not shown.visible and section.height < 60 and told == [True] and not section.checked
    shown.visible = True  # nobody sees it, until the section is opened
    assert not shown.visible
    section.click()
    assert shown.visible and not hidden.visible and told == [True, False]


def test_dark_colors_reach_the_sections(qtHost) -> None:
    from PySide6 import QtWidgets
    from qt_host import setDark
    from qt_widgets import ctkCollapsibleButton

    application, brightness = QtWidgets.QApplication.instance(), {}
    style, palette = application.style().name(), application.palette()
    section = ctkCollapsibleButton()
    section.resize(200, 40)
    for dark in (True, False):
        setDark(application, dark)
        brightness[dark] = section.grab().toImage().pixelColor(100, 10).lightness()
    application.setStyle(style)
    application.setPalette(palette)
    assert brightness[True] < 100 < brightness[False]


# --- the module and the application


MODULE = """
from slicer.ScriptedLoadableModule import *


class Tiny(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Tiny"


class TinyWidget(ScriptedLoadableModuleWidget):
    said = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.said.append(("setup", self.parent.isEntered))

    def enter(self):
        self.said.append(("enter", self.parent.isEntered))

    def exit(self):
        self.said.append(("exit", self.parent.isEntered))

    def cleanup(self):
        self.said.append(("cleanup", self.parent.isEntered))
"""


def test_a_module_is_set_up_and_then_entered(qtHost, tmp_path) -> None:
    import slicer

    file = tmp_path / "Tiny.py"
    file.write_text(MODULE)
    widget = qtHost.loadModule(file, enter=False)
    assert widget.said == [("setup", False)] and slicer.modules.tiny.widgetRepresentation().self() is widget
    assert widget.resourcePath("a") == str(tmp_path / "Resources" / "a")
    qtHost.enterModule()
    widget.onReload()
    assert widget.said == [("setup", False), ("enter", True), ("cleanup", True)]
    assert qtHost.widget.said == [("setup", True)]  # another class; nobody enters it
    qtHost.exitModule()
    assert qtHost.widget.said[1:] == [("exit", False)]


def test_variables_are_of_layouts_and_inner_widgets_too(qtHost, tmp_path) -> None:
    import slicer.util

    file = tmp_path / "a.ui"
    file.write_text(
        '<ui version="4.0"><class>A</class><widget class="QWidget" name="A"><layout class="QVBoxLayout" name="rows">'
        '<item><widget class="ctkSliderWidget" name="slider"/></item></layout></widget><customwidgets><customwidget>'
        "<class>ctkSliderWidget</class><extends>QWidget</extends></customwidget></customwidgets></ui>"
    )
    ui = slicer.util.childWidgetVariables(slicer.util.loadUI(str(file)))
    assert {"A", "rows", "slider", "Slider", "SpinBox", "horizontalLayout"} <= set(vars(ui))
    assert ui.rows.className() == "QVBoxLayout"


def test_main_window_takes_no_argument(qtHost) -> None:
    import slicer.util

    assert slicer.util.mainWindow() is None
    with pytest.raises(TypeError):
        slicer.util.mainWindow(verbose=False)


def test_another_scene_is_ignored(qtHost) -> None:
    import slicer
    import slicer.util

    other = slicer.vtkMRMLScene()
    other.AddNewNodeByClass(VOLUME)
    assert slicer.util.getNodesByClass(VOLUME, other) == []


def test_samples_of_a_custom_downloader_are_for_the_panel_alone(qtHost) -> None:
    import sample_data_module
    import SampleData

    node = qtHost.scene.AddNewNodeByClass(VOLUME)
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        sampleName="drawn", uris="", fileNames="", nodeNames="drawn", customDownloader=lambda source: node
    )
    assert sample_data_module.click("drawn") is node
    with pytest.raises(IndexError):
        SampleData.downloadSample("drawn")


def test_samples_are_loaded_from_where_a_rule_puts_them(qtHost, tmp_path) -> None:
    import numpy as np
    import SampleData
    import slicer.util

    def put(uri: str) -> str:
        if uri != "drawn:sample":
            return uri
        node = slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(tmp_path / "drawn.nrrd"))
        assert storage.WriteData(node)
        qtHost.scene.RemoveNode(node)
        return (tmp_path / "drawn.nrrd").as_uri()

    logic = SampleData.SampleDataLogic
    logic.registerUrlRewriteRule("drawn", put)
    logic.registerCustomSampleDataSource(
        sampleName="drawn", uris="drawn:sample", fileNames="drawn.nrrd", nodeNames="A sample"
    )
    node = SampleData.downloadSample("drawn")
    assert node.GetName() == "A sample" and node.GetStorageNode() is None
    assert slicer.util.arrayFromVolume(node).sum() == 23 * 12
    with pytest.raises(AssertionError, match="would fetch"):
        logic().downloadFileIntoCache("https://example.org/a.nrrd", "a.nrrd")


def test_the_event_loop_holds_the_lock(qtHost, monkeypatch) -> None:
    import event_loop

    if not event_loop.HOLDS_THE_LOCK:
        pytest.skip("Qt's library is not as on Linux")
    monkeypatch.setattr(event_loop, "_TURN_MS", 200)
    ended, pauses = threading.Event(), []

    def work() -> None:
        last = time.monotonic()
        while not ended.is_set():
            now = time.monotonic()
            pauses.append(now - last)
            last = now

    thread = threading.Thread(target=work)
    thread.start()
    qtHost.process(1.0)
    ended.set()
    thread.join()
    # Between two turns it stands still, but for less than the first and the last of them.
    assert len([pause for pause in pauses if pause > 0.15]) >= 3
    assert len(pauses) > 10


def test_what_until_raises_is_raised(qtHost) -> None:
    with pytest.raises(ZeroDivisionError):
        qtHost.process(1, lambda: 1 / 0)
    calls = []

    def late() -> bool:
        calls.append(1)
        return 1 / (3 - len(calls)) < 0

    with pytest.raises(ZeroDivisionError):
        qtHost.process(5, late)


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
