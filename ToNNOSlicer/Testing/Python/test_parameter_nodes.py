"""The stand-in for slicer.parameterNodeWrapper does what Slicer's does, as its sources have it."""

from __future__ import annotations

import enum
import types
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")


@pytest.fixture
def qt(qtHost):
    import qt

    return qt


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def wrapperOf(**annotations: Any) -> Any:
    """A class of parameters; a value that is a pair is a type and its default."""
    from parameter_nodes import parameterNodeWrapper

    pairs = {name: kind if isinstance(kind, tuple) else (kind,) for name, kind in annotations.items()}
    defaults = {name: pair[1] for name, pair in pairs.items() if len(pair) > 1}
    hints = {name: pair[0] for name, pair in pairs.items()}
    return parameterNodeWrapper(type("Parameters", (), {"__annotations__": hints, **defaults}))


@pytest.fixture
def node(qtHost: Any) -> Any:
    return qtHost.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")


def gui(**widgets: tuple[Any, str]) -> types.SimpleNamespace:
    for widget, name in widgets.values():
        widget.setProperty("SlicerParameterName", name)
    return types.SimpleNamespace(**{name: widget for name, (widget, _parameter) in widgets.items()})


def test_parameters_follow_widgets_and_widgets_parameters(node, qt) -> None:
    import slicer
    from parameter_nodes import WithinRange
    from pythonqt import wrap
    from qt_widgets import ctkSliderWidget

    share = Annotated[float, WithinRange(0.0, 1.0)]
    kind = wrapperOf(color=Color, share=(share, 0.5), count=(int, 3), volume=slicer.vtkMRMLScalarVolumeNode)
    parameters = kind(node)
    ui = gui(box=(qt.QComboBox(), "color"), slider=(wrap(ctkSliderWidget()), "share"), spin=(qt.QSpinBox(), "count"))
    tag = parameters.connectGui(ui)
    assert (ui.box.count, ui.slider.value, ui.slider.maximum, ui.spin.value) == (2, 0.5, 1.0, 3)
    ui.box.currentIndex, ui.slider.value, ui.spin.value = 1, 0.25, 7
    assert (parameters.color, parameters.share, parameters.count) == (Color.BLUE, 0.25, 7)
    parameters.count = 9
    assert ui.spin.value == 9
    with pytest.raises(AttributeError):
        parameters.cuont = 1
    with pytest.raises(TypeError):
        parameters.count = "nine"
    with pytest.raises(ValueError, match="within range"):
        parameters.share = 2.0
    parameters.disconnectGui(tag)
    ui.spin.value = 1
    assert parameters.count == 9
    # Another wrapper of the node, as after loading a scene, reads the same.
    assert kind(node).color is Color.BLUE


def test_a_number_without_a_range_opens_its_widgets(node, qt) -> None:
    from parameter_nodes import WithinRange

    kind = wrapperOf(count=int, size=float, few=Annotated[int, WithinRange(0, 20)])
    ui = gui(spin=(qt.QSpinBox(), "count"), box=(qt.QDoubleSpinBox(), "size"), few=(qt.QSpinBox(), "few"))
    for widget in vars(ui).values():
        widget.specialValueText, widget.minimum, widget.maximum = "as the model", 0, 10
    kind(node).connectGui(ui)
    assert (ui.spin.minimum, ui.spin.maximum) == (-(2**31), 2**31 - 1)
    assert ui.spin.text == "0"  # the special text belongs to the minimum
    assert (ui.box.minimum, ui.box.maximum) == (float("-inf"), float("inf"))
    assert (ui.few.minimum, ui.few.maximum, ui.few.text) == (0, 20, "as the model")


def test_a_slider_without_a_range_is_refused(node) -> None:
    import ctk

    with pytest.raises(RuntimeError, match=r"Cannot have a connection to ctkSliderWidget.* unbounded"):
        wrapperOf(size=float)(node).connectGui(gui(slider=(ctk.ctkSliderWidget(), "size")))


def test_an_unknown_value_raises_when_the_wrapper_is_made(node) -> None:
    kind = wrapperOf(color=Color)
    node.SetParameter("color", "GREEN")
    with pytest.raises(ValueError, match="Found 'GREEN' in parameter node but it is not a name in"):
        kind(node)


def test_a_range_holds_for_what_is_written_not_for_what_is_read(node) -> None:
    from parameter_nodes import WithinRange

    node.SetParameter("few", "-5")
    parameters = wrapperOf(few=Annotated[int, WithinRange(0, 20)])(node)
    assert parameters.few == -5
    with pytest.raises(ValueError, match=r"within range \[0, 20\], is -5"):
        parameters.few = -5


def test_defaults_are_written_when_the_wrapper_is_made(node) -> None:
    wrapperOf(color=Color, few=(int, 3), name=str)(node)
    assert [node.GetParameter(name) for name in ("color", "few", "name")] == ["RED", "3", ""]


def test_a_wrapper_that_was_connected_observes_for_ever(node, qt) -> None:
    from parameter_nodes import observers

    kind = wrapperOf(count=int)
    alone = kind(node)
    assert observers(node) == 1
    del alone
    assert observers(node) == 0
    for _time in range(3):
        parameters = kind(node)
        parameters.disconnectGui(parameters.connectGui(gui(spin=(qt.QSpinBox(), "count"))))
    assert observers(parameters) == 3


def test_the_panels_numbers_keep_the_ranges_of_the_ui_file(widget) -> None:
    """Without them "as the quality" is never shown, and -5 slices reach the engine."""
    file = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "ToNNOSlicer.ui"
    compared = 0
    for element in ElementTree.parse(file).iter("widget"):
        values = {item.get("name"): "".join(item.itertext()).strip() for item in element.findall("property")}
        if element.get("class") in ("QSpinBox", "QDoubleSpinBox") and "SlicerParameterName" in values:
            box = getattr(widget.ui, element.get("name"))
            assert (box.minimum, box.maximum) == (float(values["minimum"]), float(values["maximum"]))
            box.value = box.minimum
            if values.get("specialValueText"):
                assert box.text == values["specialValueText"]
                compared += 1
            with pytest.raises(ValueError, match="within range"):
                setattr(widget.panel.session.parameters, values["SlicerParameterName"], -5)
    assert compared == 4  # slices, directions, stage, sigma
