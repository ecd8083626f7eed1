"""The panel for readers who use the keyboard, a screen reader, large letters, another language, or see fewer colors."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tonno_core.pictures.colours import PALETTES, STOPS

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")

HERE, MODULE = Path(__file__).parent, Path(__file__).parents[2]
PANEL = MODULE / "Resources" / "UI" / "ToNNOSlicer.ui"
AA = 4.5  # least contrast of letters by WCAG 2.1, 1.4.3
# What a color looks like without one kind of cone: G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, A
# Physiologically-based Model for Simulation of Color Vision Deficiency, 2009; severity 1, linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


# --- the keyboard


@pytest.fixture
def opened(qtHost, widget, result) -> Any:
    """All sections open, a result with two findings, a window that has the focus."""
    from PySide6 import QtWidgets

    for section in qtHost.frame.findChildren(QtWidgets.QWidget):
        if type(section).__name__ == "ctkCollapsibleButton":
            section.setProperty("collapsed", False)
    qtHost.frame.resize(470, 2000)
    qtHost.frame.show()
    qtHost.frame.activateWindow()
    qtHost.process(0.2)
    return widget


def stops(frame: Any) -> list[Any]:
    """The widgets that the key Tab goes to, one after the other."""
    from PySide6 import QtCore, QtWidgets
    from PySide6.QtTest import QTest

    found: list[Any] = []
    frame.setFocus()
    while len(found) < 200:
        before = QtWidgets.QApplication.focusWidget()
        QTest.keyClick(before, QtCore.Qt.Key_Tab)
        now = QtWidgets.QApplication.focusWidget()
        assert now is not before, f"the key Tab does not leave {before}"
        if now in found:
            return found
        found.append(now)
    raise AssertionError("no end")


def waiting(frame: Any) -> list[Any]:
    """The widgets that a mouse could use now."""
    from PySide6 import QtCore, QtWidgets

    everything = frame.findChildren(QtWidgets.QWidget)
    takes = [w for w in everything if w.focusPolicy() & QtCore.Qt.TabFocus and w.isEnabled() and w.isVisible()]
    return [w for w in takes if w.focusProxy() is None and not isinstance(w.parent(), QtWidgets.QAbstractSpinBox)]


def test_tab_goes_through_everything_in_the_order_of_reading(qtHost, opened) -> None:
    from PySide6 import QtCore

    reached, frame = stops(qtHost.frame), qtHost.frame
    assert len(reached) > 60
    missing = [w for w in waiting(frame) if w not in reached]
    assert not missing, [w.objectName() or w for w in missing]
    boxes = [QtCore.QRect(w.mapTo(frame, QtCore.QPoint()), w.size()) for w in reached if w.parent() is not None]
    for (before, first), (after, second) in itertools.pairwise(zip(reached, boxes, strict=True)):
        isInside = before.isAncestorOf(after)
        isBeside = second.left() > first.left() and second.top() < first.bottom() and first.top() < second.bottom()
        assert isInside or isBeside or second.top() >= first.top(), (before.objectName(), after.objectName())


def test_the_arrow_keys_choose_the_finding_that_a_verdict_is_about(qtHost, opened) -> None:
    from PySide6 import QtCore
    from PySide6.QtTest import QTest
    from pythonqt import unwrap

    table, session = unwrap(opened.ui.findingsTable), opened.panel.session
    table.setFocus()
    session.select(0)
    assert table.currentRow() == 0
    QTest.keyClick(table, QtCore.Qt.Key_Down)
    assert session.selected == table.currentRow() == 1
    opened.ui.rejectButton.click()
    assert [finding.verdict for finding in session.result.findings] == ["", "reject"]


def test_enter_opens_a_case_of_the_worklist(qtHost, opened, monkeypatch) -> None:
    from PySide6 import QtCore
    from PySide6.QtTest import QTest
    from pythonqt import unwrap
    from ToNNOSlicerLib.sections.look import fillTable

    table, rows = unwrap(opened.ui.worklistTable), []
    monkeypatch.setattr(opened.panel.session, "openCase", rows.append)
    fillTable(opened.ui.worklistTable, [("a", "done", "1", "2"), ("b", "done", "1", "2")])
    table.setCurrentCell(1, 0)
    QTest.keyClick(table, QtCore.Qt.Key_Return)
    assert rows == [1]


def test_no_two_shortcuts_are_the_same_and_none_is_hidden_in_a_label(qtHost, opened) -> None:
    from PySide6 import QtGui, QtWidgets
    from ToNNOSlicerLib.shortcuts import KEYS

    assert len({QtGui.QKeySequence(key).toString() for key in KEYS}) == len(KEYS)
    tips = " ".join(w.toolTip() for w in qtHost.frame.findChildren(QtWidgets.QPushButton))
    assert all(f"({key})" in tips for key in KEYS)
    buttons = qtHost.frame.findChildren(QtWidgets.QAbstractButton)
    assert not [w.text() for w in buttons if "&" in w.text()]  # Alt and a letter belong to the application's menus


# --- screen readers


def test_everything_has_a_name_and_says_what_it_does(qtHost, opened) -> None:
    from PySide6 import QtGui, QtWidgets

    for w in waiting(qtHost.frame):
        read = QtGui.QAccessible.queryAccessibleInterface(w)
        labels = [label.text() for label in qtHost.frame.findChildren(QtWidgets.QLabel) if label.buddy() is w]
        isNamed = w.accessibleName() or labels or (w.text() if isinstance(w, QtWidgets.QAbstractButton) else "")
        assert isNamed, w.objectName() or (w, w.parent().objectName())
        assert read.text(QtGui.QAccessible.Text.Description), f"{isNamed}: no tooltip"
        if isinstance(w, QtWidgets.QTableWidget):
            for column in range(w.columnCount()):
                assert w.horizontalHeaderItem(column).toolTip(), (isNamed, column)


def test_a_picture_has_a_name(opened) -> None:
    for name in ("histogramLabel", "profilePlotLabel", "progressBar", "exportProgressBar"):
        assert getattr(opened.ui, name).accessibleName


def test_a_message_says_in_words_what_its_frame_says_in_color(opened) -> None:
    from ToNNOSlicerLib.sections.look import withKind
    from ToNNOSlicerLib.state import DONE, ERROR, NOTE

    assert withKind(ERROR, "No memory.") == "Problem: No memory."
    assert withKind(NOTE, "A threshold.") == "Note: A threshold."
    assert withKind(DONE, "Written: a.csv") == "Written: a.csv"
    assert withKind(NOTE, "") == ""
    opened.panel.session.fail(RuntimeError("x"))
    opened.panel.session.refresh()
    assert opened.ui.messageLabel.text.startswith("Problem: ")


# --- contrast, and large letters


def luminance(color: Any) -> float:
    """By WCAG 2.1; color: 3, 0 to 1."""
    return float(linear(np.asarray(color, dtype=float)) @ (0.2126, 0.7152, 0.0722))


def contrast(first: Any, second: Any) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_letters_are_to_be_read(qtHost, opened, dark: bool, figure) -> None:
    from PySide6 import QtGui
    from pythonqt import unwrap
    from qt_host import setDark
    from ToNNOSlicerLib.sections.look import setKind
    from ToNNOSlicerLib.state import DONE, ERROR, NOTE

    setDark(qtHost.application, dark)
    try:
        role, palette = QtGui.QPalette.ColorRole, qtHost.application.palette()
        rgb = lambda color: np.array(QtGui.QColor(color).getRgbF()[:3])  # noqa: E731
        window, found = rgb(palette.color(role.Window)), {}
        for kind in (ERROR, NOTE, DONE):
            setKind(opened.ui.messageLabel, kind)
            said = opened.ui.messageLabel.styleSheet
            letters = rgb(re.search(r"color: (#\w+)", said)[1])
            *tint, alpha = map(int, re.search(r"background: rgba\((\d+), (\d+), (\d+), (\d+)\)", said).groups())
            share = alpha / 255
            found[kind] = contrast(letters, share * np.array(tint) / 255 + (1 - share) * window)
        found["plots"] = contrast(rgb(palette.color(role.Text)), rgb(palette.color(role.Base)))
        picture = unwrap(opened.ui.histogramLabel).pixmap().toImage()
        assert not picture.isNull()
        figure(f"contrast of letters, {'dark' if dark else 'light'}: {min(found.values()):.1f}")
        assert min(found.values()) > AA, found
    finally:
        setDark(qtHost.application, False)


def test_letters_of_the_report_are_to_be_read() -> None:
    style = (MODULE / "Resources" / "report.html").read_text(encoding="utf-8")
    paper = {".warnings": "#fdf6e6"}
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", style.partition("<style>")[2])
    checked = 0
    for selector, rule in rules:
        for color in re.findall(r"(?<![-\w])color: (#\w+)", rule):
            ground = next((ground for name, ground in paper.items() if name in selector), "#fff")
            assert contrast(*(of(c) for c in (color, ground))) > AA, (selector, color)
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
def test_large_letters_are_not_cut(qtHost, tmp_path, monkeypatch, scale: float) -> None:
    from listening import Answering
    from PySide6 import QtWidgets
    from ToNNOSlicerLib.panel import Panel
    from walk import MODULE as FILE

    monkeypatch.setattr(Panel, "_client", staticmethod(lambda choices: Answering(tmp_path)))
    before = qtHost.application.font()
    larger = qtHost.application.font()
    larger.setPointSizeF(scale * before.pointSizeF())
    qtHost.application.setFont(larger)
    try:
        qtHost.loadModule(FILE)
        for section in qtHost.frame.findChildren(QtWidgets.QWidget):
            if type(section).__name__ == "ctkCollapsibleButton":
                section.setProperty("collapsed", False)
        qtHost.frame.show()
        for _turn in range(3):
            qtHost.process(0.05)
            qtHost.frame.resize(470, qtHost.frame.sizeHint().height())  # or as wide as it needs
        for w in qtHost.frame.findChildren(QtWidgets.QAbstractButton):
            if w.isVisible() and w.text():
                assert w.width() >= w.fontMetrics().horizontalAdvance(w.text()), (w.text(), w.width())
                assert w.height() >= w.fontMetrics().height(), w.text()
        for table in qtHost.frame.findChildren(QtWidgets.QTableWidget):
            assert table.height() >= 4 * table.fontMetrics().height(), table.objectName()
    finally:
        qtHost.application.setFont(before)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_what_is_said_of_a_finding_is_not_cut(qtHost, widget, result, scale: float) -> None:
    """In a panel of any width; the longest text breaks into lines."""
    from pythonqt import unwrap

    before = qtHost.application.font()
    larger = qtHost.application.font()
    larger.setPointSizeF(scale * before.pointSizeF())
    qtHost.application.setFont(larger)
    try:
        table = unwrap(widget.ui.findingsTable)
        qtHost.frame.show()
        for width in (1400, 430, 700):
            qtHost.frame.resize(width, 1600)
            qtHost.process(0.1)
            widget.panel.session.setThreshold(widget.panel.session.result.threshold * 1.01)
            qtHost.process(0.1)
            for row in range(table.rowCount()):
                assert table.rowHeight(row) >= table.sizeHintForRow(row), (width, row)
            if scale == 1:  # three findings of three lines are seen at once
                tallest = max(table.rowHeight(row) for row in range(table.rowCount()))
                assert 3 * min(tallest, 3 * table.fontMetrics().height()) <= table.viewport().height(), width
    finally:
        qtHost.application.setFont(before)


# --- colors


def of(text: str) -> np.ndarray:
    """A color as it is written in style sheets: 3, 0 to 1."""
    digits = text.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    return np.array([int(digits[n : n + 2], 16) for n in (0, 2, 4)]) / 255


def linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def seen(rgb: np.ndarray, vision: str) -> np.ndarray:
    """CIELAB of colors (N 3) as somebody sees them."""
    from skimage.color import rgb2lab

    light = np.clip(linear(np.atleast_2d(rgb)) @ np.transpose(VISIONS[vision]), 0, 1)
    return rgb2lab(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def nearest(first: np.ndarray, second: np.ndarray, vision: str) -> float:
    """The least difference of any two colors, one of each list: CIEDE2000. About 2 is to be seen side by side."""
    from skimage.color import deltaE_ciede2000

    return float(deltaE_ciede2000(seen(first, vision)[:, None], seen(second, vision)[None]).min())


def halves(name: str, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Colors of values in equal steps away from no evidence: against a finding, and for it."""
    colors = np.array([of(color) for color in PALETTES[name]])
    return tuple(
        np.stack([np.interp(np.linspace(start, end, count), STOPS, channel) for channel in colors.T], axis=1)
        for start, end in ((STOPS[2], 0.0), (STOPS[3], 1.0))
    )


@pytest.mark.parametrize("vision", VISIONS)
def test_the_second_colors_can_be_told_apart_by_everybody(vision: str, figure) -> None:
    from ToNNOSlicerLib.logic.labelmap import GREEN

    cold, hot = halves("blue-orange")
    for half in (cold, hot):
        assert (np.diff(seen(half, vision)[:, 0]) > 3).all()  # by their lightness alone
    step = min(nearest(half[n : n + 1], half[n + 1 : n + 2], vision) for half in (cold, hot) for n in range(5))
    sign, outline = nearest(cold, hot, vision), nearest(hot, np.array([GREEN]), vision)
    gray = nearest(hot, np.repeat(np.linspace(0, 1, 60)[:, None], 3, axis=1), vision)
    figure(f"blue-orange, {vision}: step {step:.1f}, sign {sign:.1f}, outline {outline:.1f}, gray {gray:.1f}")
    assert step > 5.5 and sign > 20 and outline > 12 and gray > 10


def test_why_there_are_second_colors() -> None:
    """Without the second kind of cone, fifths of the first colors' warm half are hardly to be told apart."""
    from ToNNOSlicerLib.logic.labelmap import GREEN

    _cold, hot = halves("cold-hot")
    assert min(nearest(hot[n : n + 1], hot[n + 1 : n + 2], "deuteranopia") for n in range(5)) < 3
    assert nearest(hot, np.array([GREEN]), "protanopia") < 7


def test_colors_are_a_choice_that_views_legend_and_report_follow(qtHost, widget, result, monkeypatch) -> None:
    from ToNNOSlicerLib import exports
    from ToNNOSlicerLib.logic.overlay import _palette, _tableOf
    from ToNNOSlicerLib.parameter_node import wrapped

    selector, session = widget.ui.colorsSelector, widget.panel.session
    assert selector.itemText(0) == "Blue to red and yellow"
    table = result.GetDisplayNode().GetColorNode()  # which the legend shows too
    for n, name in enumerate(PALETTES):
        selector.currentIndex = n
        expected = np.round(255 * _palette(name, False))
        np.testing.assert_array_equal(_tableOf(table)[-1, :3], expected[-1])
        assert wrapped(session.parameters.parameterNode).colors.value == name  # saved with the scene
        begun: list[Any] = []
        monkeypatch.setattr(exports, "reportSteps", lambda *arguments: arguments[-1])
        monkeypatch.setattr(session.exports, "_begin", lambda _path, steps, begun=begun: begun.append(steps))
        session.exports.write(exports.REPORT, session.result, "report.html")
        assert begun == [name]


# --- languages


def calls() -> Iterator[tuple[str, int, ast.expr]]:
    """All that is to be translated: file, line, and what is handed over."""
    for path in (MODULE / "ToNNOSlicer.py", *sorted((MODULE / "ToNNOSlicerLib").rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("_", "translate"):
                yield path.name, node.lineno, node.args[-1]


def test_what_is_translated_can_be_found_by_lupdate_and_is_whole() -> None:
    found = list(calls())
    assert len(found) > 300
    for file, line, text in found:
        where = f"{file}:{line}"
        assert isinstance(text, ast.Constant) and isinstance(text.value, str), f"{where}: not written out"
        assert text.value == text.value.strip() and text.value[:1] not in ",;", f"{where}: a piece of a sentence"


_SCRIPT = """
import json
import sys
from slicer_host import provide_i18n
provide_i18n()
import slicer.i18n
slicer.i18n.language = lambda text: "[" + text.replace("{", "]{").replace("}", "}[") + "]"
from PySide6 import QtCore, QtWidgets
from qt_host import QtHost
host = QtHost()
class Language(QtCore.QTranslator):
    def isEmpty(self):
        return False
    def translate(self, context, text, disambiguation=None, n=-1):
        return slicer.i18n.language(text) if context == "ToNNOSlicer" and text else None
language = Language()
host.application.installTranslator(language)
from pathlib import Path
from listening import Answering
from ToNNOSlicerLib import install
from ToNNOSlicerLib.panel import Panel
from ToNNOSlicerLib.worklist_files import Case
install.missing = lambda path: install.Missing("missing", ("timm>=1.0",))
Panel._client = staticmethod(lambda choices: Answering(Path(sys.argv[1])))
from walk import opened
from scenes import THRESHOLD, addHeatmap, addVolume
widget = opened(host)
ui, session = widget.ui, widget.panel.session
heatmaps = [addHeatmap(widget.panel.logic, addVolume()) for _n in range(2)]
for heatmap in heatmaps:
    widget.panel.logic.segments.write(heatmap, THRESHOLD)
session.choices.devices = [
    {"name": "cuda:0", "kind": "cuda", "title": "GPU", "free_bytes": 1e9, "usable": True},
    {"name": "cuda:1", "kind": "cuda", "title": "GPU", "free_bytes": None, "usable": False, "problem": "GPU"},
]
found = {}
def look(state):
    for section in host.frame.findChildren(QtWidgets.QWidget):
        if type(section).__name__ == "ctkCollapsibleButton":
            section.setProperty("collapsed", False)
    host.process(0.1)
    for w in host.frame.findChildren(QtWidgets.QWidget):
        texts = [w.toolTip(), w.accessibleName()]
        for name in ("text", "specialValueText", "suffix", "placeholderText"):
            value = "" if isinstance(w, QtWidgets.QLineEdit) else getattr(w, name, "")
            texts.append(value() if callable(value) else value)
        if isinstance(w, QtWidgets.QComboBox):
            texts += [w.itemText(n) for n in range(w.count())]
            texts += [w.itemData(n, QtCore.Qt.ToolTipRole) for n in range(w.count())]
        if isinstance(w, QtWidgets.QTableWidget):
            heads = [w.horizontalHeaderItem(n) for n in range(w.columnCount())]
            cells = [w.item(r, c) for r in range(w.rowCount()) for c in range(w.columnCount())]
            texts += [text for item in heads + cells if item for text in (item.text(), item.toolTip())]
        for text in texts:
            if text:
                found.setdefault(text, state + " " + (w.objectName() or type(w).__name__))
look("sample")
session.set(heatmap=heatmaps[1])
look("result")
session.set(priorHeatmap=heatmaps[0])
ui.nextButton.click(); ui.rejectButton.click(); ui.diametersCheck.checked = True
look("compared")
ui.thresholdSlider.value = 1e3
look("nothing")
ui.otsuButton.click()
look("otsu")
ui.copyReportButton.click()
host.answers.append(("folder", sys.argv[1])); ui.openModelButton.click()
look("a problem")
# The engine's own words about the image; then what is to be installed.
host.answers += [("message", "[Go on all the same]"), ("message", "[Cancel]")]
ui.runButton.click()
found.setdefault(host.asked[-1][1], "question")
session.reading._worklist if False else None
print("found:" + json.dumps(found))
import os
sys.stdout.flush()
os._exit(0)
"""
# Names, units and data in texts, and what the application says itself.
_DATA = re.compile(
    r"ToNNO sample|ToNNO|(Matched|Averaged|Tomographic) CAM|CT( \d)?|brain-lesions|lesion|None|Red|Green|Yellow|mm³?"
    r"|ml|x|GPU|cuda:\d|<b>|</b>|fast|matched-cam|averaged-cam|tomographic-cam|tonno|[RLAPSI] \d+|PyTorch"
    r"|timm>=1.0|/\S+|resnet10t|slicewise-cam|model\.json|segmentation(_\d)?"
    r"|(Create new|Rename current|Delete current) MarkupsROI"
)


def test_every_text_that_is_shown_is_translated(tmp_path) -> None:
    code = f"import sys; sys.path[:0] = {[str(HERE), str(MODULE), str(MODULE.parent)]!r}\n{_SCRIPT}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.partition("found:")[2])
    assert len(found) > 200
    about = json.loads(next((MODULE.parent / "tonno_core" / "models").glob("*/model.json")).read_text(encoding="utf-8"))
    data = [text for text in about["about"].values() if isinstance(text, str)]
    names = [text.get("notr") for text in ET.parse(PANEL).iterfind(".//property[@name='SlicerParameterName']/string")]
    assert set(names) == {"true"}  # a translated name of a parameter would belong to none
    for shown, where in found.items():
        rest = shown
        for text in data:
            rest = rest.replace(text, "")
        rest = re.sub(r"\[[^\[\]]*\]", " ", rest)
        assert not re.search(r"[^\W\d_]", _DATA.sub(" ", rest)), f"{where}: {shown!r}: {rest!r}"
