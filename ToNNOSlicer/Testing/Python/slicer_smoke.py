"""The whole path in the real application:

    cd ToNNOSlicer/Testing/Python
    Slicer --no-main-window --additional-module-paths ../.. --python-script slicer_smoke.py

Prints one line for each step and ends with exit code 0, or 1 where a step failed. Give an interpreter that has PyTorch
and timm in the variable TONNO_PYTHON, or install the engine's packages into Slicer before.

This script has not been run in the application yet; until it has, what the tests show holds for Slicer's libraries
and for a stand-in of its Qt side (docs/slicer.md).
"""

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import qt
import slicer
import vtk

TIMEOUT_S = 900


def main():
    """Every step in order; the first that fails ends the script."""
    other = os.environ.get("TONNO_PYTHON")
    if other:
        qt.QSettings().setValue("ToNNO/Python", other)
    step("the module opens", open_module)
    widget = slicer.modules.tonnoslicer.widgetRepresentation().self()
    step("the sample is listed in Sample Data", lambda: load_from_sample_data(widget))
    step("the sample is loaded", lambda: load_sample(widget))
    step("it is reconstructed", lambda: reconstruct(widget))
    step("the findings are the sample's lesions", lambda: check_findings(widget))
    step("the threshold moves the segment", lambda: move_threshold(widget))
    step("undo takes it back", lambda: undo(widget))
    step("everything is exported", lambda: export(widget))
    step("the scene is saved and loaded", lambda: save_and_load(widget))
    step("a run is cancelled within a second", lambda: cancel(widget))
    step("the module is loaded again", reload_module)
    step("the module's own test passes", own_test)


def step(name, act):
    """Run a step and tell."""
    start = time.monotonic()
    act()
    print(f"ToNNO smoke: {name} ({time.monotonic() - start:.1f} s)", flush=True)


def open_module():
    before = set(sys.modules)
    slicer.modules.tonnoslicer.widgetRepresentation().enter()
    heavy = {"torch", "scipy", "SimpleITK", "matplotlib"} & (set(sys.modules) - before)
    assert not heavy, f"opening the module imported {heavy}"


def load_sample(widget):
    widget.ui.sampleButton.click()
    node = widget.ui.inputSelector.currentNode()
    assert node is not None and node.GetName().startswith("ToNNO sample")


def wait(widget, until):
    end = time.monotonic() + TIMEOUT_S
    while not until():
        slicer.app.processEvents()
        time.sleep(0.005)
        assert time.monotonic() < end, "it takes too long"
        assert widget.panel is not None


def reconstruct(widget):
    widget.ui.qualitySelector.currentIndex = 0
    longest, last = 0.0, time.monotonic()

    def measure():
        nonlocal longest, last
        now = time.monotonic()
        longest, last = max(longest, now - last), now

    timer = qt.QTimer()
    timer.setInterval(5)
    timer.connect("timeout()", measure)
    timer.start()
    widget.ui.runButton.click()
    wait(widget, lambda: widget.panel.session.running.controller.state == "idle")
    timer.stop()
    print(f"ToNNO smoke: longest block of the GUI's thread {1000 * longest:.0f} ms")
    assert widget.panel.session.result.heatmapNode is not None, widget.ui.messageLabel.text


def check_findings(widget):
    from ToNNOSlicerLib.sample import LESIONS

    found = widget.panel.session.result.findings
    assert len(found) == len(LESIONS), f"{len(found)} findings"
    for centre, radii, _brightness in LESIONS:
        nearest = min(vtk.vtkMath.Distance2BetweenPoints(one.centroidRAS, centre) ** 0.5 for one in found)
        assert nearest < min(radii), f"no finding within {min(radii)} mm of {centre}"


def move_threshold(widget):
    before = sum(one.volumeMm3 for one in widget.panel.session.result.findings)
    widget.ui.thresholdSlider.value = 1.2 * widget.ui.thresholdSlider.value
    assert sum(one.volumeMm3 for one in widget.panel.session.result.findings) < before


def undo(widget):
    before = sum(one.volumeMm3 for one in widget.panel.session.result.findings)
    widget.ui.undoButton.click()
    assert sum(one.volumeMm3 for one in widget.panel.session.result.findings) > before


def export(widget):
    from ToNNOSlicerLib.logic.export import exportFindings, exportHeatmap

    logic, result = widget.panel.logic, widget.panel.session.result
    with tempfile.TemporaryDirectory() as folder:
        for name in ("s.seg.nrrd", "s.nii.gz", "s.stl"):
            logic.exportSegmentation(result.segment[0], Path(folder) / name)
        for name in ("h.nrrd", "h.nii.gz"):
            exportHeatmap(result.heatmapNode, Path(folder) / name)
        exportFindings(widget.panel.session.result.findings, Path(folder) / "f.csv")
        assert len(list(Path(folder).iterdir())) >= 6
        widget.panel.session.exports.write("report", widget.panel.session.result, str(Path(folder) / "report.html"))
        wait(widget, lambda: not widget.panel.session.exports.isBusy)
        assert (Path(folder) / "report.html").exists(), widget.ui.messageLabel.text


def load_from_sample_data(widget):
    import SampleData

    source = SampleData.SampleDataLogic().sourceForSampleName("ToNNO sample")
    assert source is not None, "the sample is not listed"
    for node in (source.customDownloader(source), SampleData.downloadSample("ToNNO sample")):  # its button, a script
        assert node.GetName().startswith("ToNNO sample")
        slicer.mrmlScene.RemoveNode(node)


def save_and_load(widget):
    count = len(widget.panel.session.result.findings)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scene.mrb")
        assert slicer.util.saveScene(path)
        slicer.mrmlScene.Clear(0)
        slicer.util.loadScene(path)
    slicer.app.processEvents()
    assert widget.panel.session.result.heatmapNode is not None
    assert len(widget.panel.session.result.findings) == count


def cancel(widget):
    widget.ui.directionsBox.value = 97  # nothing to take from what is kept
    widget.ui.runButton.click()
    wait(widget, lambda: widget.ui.progressBar.value > 0 or widget.panel.session.running.controller.state == "idle")
    start = time.monotonic()
    widget.ui.cancelButton.click()
    wait(widget, lambda: widget.panel.session.running.controller.state == "idle")
    assert time.monotonic() - start < 1.0


def reload_module():
    place = slicer.modules.tonnoslicer.widgetRepresentation()
    place.self().onReload()  # nobody enters it then: the module is shown all the time
    slicer.app.processEvents()
    assert place.self().panel is not None


def own_test():
    import ToNNOSlicer

    ToNNOSlicer.ToNNOSlicerTest().runTest()


if __name__ == "__main__":
    code = 0
    try:
        main()
    except Exception:
        traceback.print_exc()
        code = 1
    slicer.util.exit(code)
