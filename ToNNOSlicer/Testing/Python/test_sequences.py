"""Whatever a user does, in whatever order: all that is shown and all that can be exported is of one result.

Random sequences of user actions on the real scene and the panel, with an engine that answers at once; after each
action `agreement.check` looks from outside. TONNO_SEQUENCES sets how many sequences there are (20 here, 300 by
`make test-nightly`), and a failure prints the seed and the last actions.
"""

from __future__ import annotations

import csv
import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")

SEQUENCES = int(os.environ.get("TONNO_SEQUENCES", "20"))
ACTIONS = 200
LARGEST_SCENE = 4  # volumes


class User:
    """Does something at random. done: the names of what was done, for the failure's message."""

    def __init__(self, host: Any, widget: Any, folder: Any, seed: int) -> None:
        self.host, self.widget, self.folder = host, widget, folder
        self.rng = np.random.default_rng(seed)
        self.done: list[str] = []
        self.saved: Any = None
        self.actions = {name[3:]: getattr(self, name) for name in dir(self) if name.startswith("do_")}
        rare = {
            "close": 0.15,
            "saveAndLoad": 0.1,
            "deleteNode": 0.4,
            "reenter": 0.3,
            "exportFindings": 0.5,
            "pickModel": 0.3,
        }
        often = {"run": 3.0, "wait": 5.0, "letGo": 2.0, "chooseVolume": 2.0, "chooseResult": 2.0}
        weights = np.array([rare.get(name, often.get(name, 1.0)) for name in self.actions])
        self.shares = weights / weights.sum()

    @property
    def ui(self) -> Any:
        return self.widget.ui

    def act(self) -> None:
        name = self.rng.choice(list(self.actions), p=self.shares)
        self.done.append(name)
        self.actions[name]()

    # --- helpers

    def images(self) -> list[Any]:
        from agreement import nodes

        volumes = nodes(self.host.scene, "vtkMRMLScalarVolumeNode")
        return [node for node in volumes if node.GetAttribute("ToNNO.Record") is None and node.GetImageData()]

    def results(self) -> list[Any]:
        from agreement import nodes

        volumes = nodes(self.host.scene, "vtkMRMLScalarVolumeNode")
        return [node for node in volumes if node.GetAttribute("ToNNO.Record") is not None]

    def pick(self, listed: list[Any]) -> Any:
        return listed[int(self.rng.integers(len(listed)))] if listed else None

    def segment(self) -> tuple[Any, str] | None:
        result = self.widget.panel.session.shownResult
        return None if result is None else result.segment

    # --- what a user does

    def do_load(self) -> None:
        from scenes import GRIDS, addVolume, image

        if len(self.images()) < LARGEST_SCENE:
            number = int(self.rng.integers(1 << 30))
            addVolume(self.pick(list(GRIDS.values())), image(seed=number), name=f"CT <{number}>")

    def do_chooseVolume(self) -> None:
        self.ui.inputSelector.setCurrentNode(self.pick([*self.images(), None]))

    def do_chooseResult(self) -> None:
        self.ui.heatmapSelector.setCurrentNode(self.pick([*self.results(), None]))

    def do_chooseMethod(self) -> None:
        self.ui.methodSelector.currentIndex = int(self.rng.integers(4))

    def do_chooseQuality(self) -> None:
        self.ui.qualitySelector.currentIndex = int(self.rng.integers(3))

    def do_chooseSigma(self) -> None:
        self.ui.sigmaBox.value = float(self.rng.choice([0.0, 1.5]))

    def do_pickModel(self) -> None:
        self.ui.modelSelector.currentIndex = int(self.rng.integers(self.ui.modelSelector.count))

    def do_run(self) -> None:
        if self.ui.runButton.enabled:
            self.ui.runButton.click()

    def do_wait(self) -> None:
        """Some turns of the module's clock."""
        for _n in range(int(self.rng.integers(1, 9))):
            self.widget.panel.session.tick()
            for thread in (self._thread("writer"), self._thread("reader")):
                if thread is not None:
                    thread.join()

    def _thread(self, name: str) -> Any:
        run = self.widget.panel.session.running.controller._run
        return None if run is None else getattr(run, name)

    def do_stop(self) -> None:
        if self.ui.stopButton.enabled:
            self.ui.stopButton.click()

    def do_cancel(self) -> None:
        if self.ui.cancelButton.enabled:
            self.ui.cancelButton.click()

    def do_drag(self) -> None:
        """The slider moves, and is let go of later or never."""
        from pythonqt import unwrap

        if self.ui.thresholdSlider.enabled:
            unwrap(self.ui.thresholdSlider).valueIsChanging.emit(float(self.rng.uniform(0, 12)))

    def do_letGo(self) -> None:
        if self.ui.thresholdSlider.enabled:
            self.ui.thresholdSlider.value = float(self.rng.uniform(0, 12))

    def do_smallest(self) -> None:
        if self.ui.smallestBox.enabled:
            self.ui.smallestBox.value = float(self.rng.choice([0.0, 50.0, 100.0]))

    def do_modelThreshold(self) -> None:
        if self.ui.modelThresholdButton.enabled:
            self.ui.modelThresholdButton.click()

    def do_otsu(self) -> None:
        if self.ui.otsuButton.enabled:
            self.ui.otsuButton.click()

    def do_paint(self) -> None:
        import scenes

        known = self.segment()
        if known is not None and self.rng.random() < 0.6:
            volume = self.widget.panel.session.shownResult.heatmapNode
            voxels = np.zeros(scenes.SHAPE_ZYX, dtype=np.uint8)
            voxels[tuple(int(self.rng.integers(size)) for size in voxels.shape)] = 1
            scenes.paint(*known, voxels, volume)

    def do_undo(self) -> None:
        if self.ui.undoButton.enabled:
            self.ui.undoButton.click()

    def do_redo(self) -> None:
        if self.ui.redoButton.enabled:
            self.ui.redoButton.click()

    def do_newSegment(self) -> None:
        if self.ui.newSegmentButton.enabled:
            self.ui.newSegmentButton.click()

    def do_select(self) -> None:
        from pythonqt import unwrap

        if self.ui.findingsTable.rowCount:
            row = int(self.rng.integers(self.ui.findingsTable.rowCount))
            unwrap(self.ui.findingsTable).cellClicked.emit(row, 0)

    def do_judge(self) -> None:
        button = self.pick([self.ui.acceptButton, self.ui.rejectButton, self.ui.unsureButton])
        if button.enabled:
            button.click()

    def do_removeFinding(self) -> None:
        if self.ui.removeFindingButton.enabled:
            self.ui.removeFindingButton.click()

    def do_diameters(self) -> None:
        if self.ui.diametersCheck.enabled:
            self.ui.diametersCheck.checked = not self.ui.diametersCheck.checked

    def do_overlay(self) -> None:
        self.ui.overlayCheck.checked = not self.ui.overlayCheck.checked

    def do_editor(self) -> None:
        self.ui.editorSection.collapsed = not self.ui.editorSection.collapsed

    def do_secondImage(self) -> None:
        self.ui.secondSelector.setCurrentNode(self.pick([*self.images(), None]))

    def do_prior(self) -> None:
        self.ui.priorSelector.setCurrentNode(self.pick([*self.results(), None]))

    def do_deleteNode(self) -> None:
        """In the module Data."""
        from agreement import nodes

        listed = [*self.images(), *self.results(), *nodes(self.host.scene, "vtkMRMLSegmentationNode")]
        node = self.pick(listed)
        if node is not None:
            self.host.scene.RemoveNode(node)

    def do_deleteSegment(self) -> None:
        known = self.segment()
        if known is not None and self.rng.random() < 0.3:
            known[0].GetSegmentation().RemoveSegment(known[1])

    def do_showElsewhere(self) -> None:
        """Slicer shows a volume that was just loaded in all views; a user drags one into a single view."""
        from agreement import nodes

        volume = self.pick(self.images())
        views = nodes(self.host.scene, "vtkMRMLSliceCompositeNode")
        for view in views if self.rng.random() < 0.5 else views[:1]:
            if volume is not None:
                view.SetBackgroundVolumeID(volume.GetID())

    def do_rename(self) -> None:
        node = self.pick(self.images())
        if node is not None:
            node.SetName(f"renamed {int(self.rng.integers(1000))}")

    def do_reenter(self) -> None:
        self.widget.exit()
        self.widget.enter()

    def do_close(self) -> None:
        self.host.scene.Clear(0)

    def do_saveAndLoad(self) -> None:
        session = self.widget.panel.session
        if not session.isIdle or session.exports.isBusy:
            return
        target = self.folder / f"scene-{len(self.done)}"
        self.host.load(self.host.save(target))
        self.host.messages.take()  # of the bare hierarchy, which has no plug-ins, about nodes that are not saved

    def do_exportFindings(self) -> None:
        """The file is of the result that is named, as it is in the scene at this very moment."""
        if not self.ui.exportFindingsButton.enabled:
            return
        target = self.folder / f"findings-{len(self.done)}.csv"
        self.host.answers.append(("save", str(target)))
        self.ui.exportFindingsButton.click()
        if not target.exists():
            assert self.ui.messageLabel.text, "an export that wrote nothing, and said nothing"
            self.host.answers.clear()
            return
        import slicer.util
        from agreement import components

        heatmap = self.ui.heatmapSelector.currentNode()
        segmentation = heatmap.GetNodeReference("ToNNO.segmentation")
        segmentId = heatmap.GetAttribute("ToNNO.segmentation")
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segmentId, heatmap)
        with target.open(newline="", encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == len(components(mask))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_all_that_is_shown_is_of_one_result(qtHost, tmp_path, monkeypatch, seed) -> None:
    from agreement import check
    from computing import Computing
    from ToNNOSlicerLib import ask, install
    from ToNNOSlicerLib.panel import Panel
    from walk import MODULE

    engines = tmp_path / "engine"
    engines.mkdir()
    rng = np.random.default_rng(10_000 + seed)
    monkeypatch.setattr(install, "missing", lambda path: install.Missing("", ()))
    monkeypatch.setattr(Panel, "_client", staticmethod(lambda choices: Computing(engines)))
    monkeypatch.setattr(ask, "choose", lambda title, text, choices, details="": rng.choice([*choices, ""]))
    widget = qtHost.loadModule(MODULE)
    user = User(qtHost, widget, tmp_path, seed)
    user.do_load()
    for _n in range(ACTIONS):
        try:
            user.act()
            qtHost.process()
            widget.panel.session.tick()  # what changed in the scene is read at the clock's next turn
            check(widget)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, after {', '.join(user.done[-12:])}: {error}") from error
        said = qtHost.messages.take()
        assert not said, f"seed {seed}, after {', '.join(user.done[-12:])}: {said}"
