"""Pictures of the module at work: its panel, and beside it Slicer's own views of the scene that it made.

    python ToNNOSlicer/Testing/Python/pictures.py --output slicer-demo [--scene sample]

A user's clicks, the real engine and the shipped model, on heads that are drawn, or made from the MNI brain inside
nilearn: nine runs, some minutes on two CPU cores. Views and panel are drawn without a screen; nothing is added to what
the module shows, but the 3D view is turned a little. The panel is the stand-in of qt_host.py: the application's style
and widgets look a little different. Nobody's image is in them.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parents[2])]
SIDE = 560  # pixels of one view
PANEL_WIDTH = 470
RUN_S = 1200  # longest that a run may take on a busy machine
_GRAYS, _HUE = 128, 12  # of 256 colors; how much the channels of one that is not gray differ
_PAGE = "1000,1500"  # of a browser, in pixels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("slicer-demo"))
    parser.add_argument("--scene", choices=("all", "sample"), default="all", help="sample: those of docs/tutorial.md")
    options = parser.parse_args()
    from slicer_views import whyNot

    missing = whyNot()
    if missing:
        print(f"The views cannot be rendered here: {missing}", file=sys.stderr)
        return 2
    from qt_host import QtHost

    options.output.mkdir(parents=True, exist_ok=True)
    host = QtHost()
    stage = Stage(host, options.output)
    others = (reading, twoPatients, twoTimePoints, nothing, manyPatients)
    for scene in (sample, *others) if options.scene == "all" else (sample,):
        scene(stage)
    stage.close()
    host.close()
    return 0


# --- what is shown


def sample(stage: Stage) -> None:
    """The first use, step by step: from the empty panel to the report."""
    stage.savePanel("opened")
    stage.ui.sampleButton.click()
    stage.save("loaded")
    stage.ui.qualitySelector.currentIndex = 0
    stage.ui.methodSection.collapsed = False
    stage.savePanel("settings")
    stage.ui.methodSection.collapsed = True
    stage.begin(40)
    stage.save("running")
    stage.finish()
    stage.save("sample")
    stage.ui.thresholdSlider.value = 0.4 * stage.ui.thresholdSlider.value
    stage.save("threshold")
    stage.ui.undoButton.click()
    stage.ui.acceptButton.click()
    stage.ui.nextButton.click()
    stage.ui.diametersCheck.checked = True
    stage.save("verdicts")
    stage.report("sample-report")
    stage.ui.diametersCheck.checked = False


def reading(stage: Stage) -> None:
    """A patient: after the run, with diameters, in the dark, why, and the report."""
    stage.load("Patient A", head(7, lesions=3))
    stage.run()
    stage.save("after-run")
    stage.ui.diametersCheck.checked = True
    stage.ui.nextButton.click()
    stage.ui.acceptButton.click()
    stage.save("diameters")
    stage.ui.diametersCheck.checked = False
    stage.ui.whySection.collapsed = False
    stage.setDark(True)
    stage.save("dark")
    stage.setDark(False)
    stage.ui.whySection.collapsed = True
    stage.report("report")


def twoPatients(stage: Stage) -> None:
    """Another patient, and back to the first."""
    first = stage.ui.inputSelector.currentNode()
    stage.load("Patient B", head(11, lesions=2))
    stage.save("other-patient-before")
    stage.run()
    stage.save("other-patient")
    stage.ui.inputSelector.setCurrentNode(first)
    stage.save("first-patient-again")


def twoTimePoints(stage: Stage) -> None:
    """An earlier scan of the first patient: its run stopped, gone on with, and compared."""
    from pythonqt import unwrap

    present = stage.ui.inputSelector.currentNode()
    stage.load("Patient A earlier", earlierHead())
    stage.begin(40)
    stage.ui.stopButton.click()
    stage.finish()
    stage.save("stopped")
    stage.run()
    prior = stage.ui.heatmapSelector.currentNode()
    stage.ui.inputSelector.setCurrentNode(present)
    stage.ui.compareSection.collapsed = False
    stage.ui.priorSelector.setCurrentNode(prior)
    stage.host.process(0.2)
    unwrap(stage.ui.compareTable).cellClicked.emit(0, 0)
    stage.save("two-times")
    stage.ui.compareSection.collapsed = True


def nothing(stage: Stage) -> None:
    """A patient without a lesion."""
    stage.load("Patient C", head(12, lesions=0))
    stage.run()
    stage.ui.highestButton.click()
    stage.save("nothing")


def manyPatients(stage: Stage) -> None:
    """A folder of studies, run in the background; the first of them is read."""
    from tonno_core.volume.io import write_volume

    with tempfile.TemporaryDirectory() as place:
        studies, results = Path(place, "studies"), Path(place, "results")
        for folder in (studies, results):
            folder.mkdir()
        for number, (seed, lesions) in enumerate(((13, 2), (12, 0), (11, 1)), start=1):
            write_volume(head(seed, lesions), studies / f"study-{number}.nii.gz")
        stage.ui.worklistSection.collapsed = False
        stage.host.answers += [("folder", str(studies)), ("folder", str(results))]
        stage.ui.worklistFolderButton.click()
        stage.waitForStudies(2)
        stage.ui.worklistNextButton.click()
        stage.ui.acceptButton.click()
        stage.save("worklist")
        stage.ui.worklistCancelButton.click()


# --- heads


def head(seed: int, lesions: int):
    """A head made from the MNI brain, with bright lesions that nobody had."""
    from tonno_core.demo.phantom import make_phantom

    return make_phantom(seed=seed, lesions=lesions).image


def earlierHead():
    """The head of `reading` before: one lesion was smaller, one as it is, one is new since, and one was that is gone.

    Heads of one seed differ in nothing but their lesions, so a lesion is a difference of two heads.
    """
    heads = [head(7, lesions=count) for count in range(5)]
    first, second, _third, fourth = (after.array - before.array for before, after in itertools.pairwise(heads))
    return heads[0].with_array(heads[0].array + scaled(first, 0.75) + second + fourth)


def scaled(lesion: np.ndarray, factor: float) -> np.ndarray:
    """Z Y X: the same lesion, larger by a factor in all directions, around its middle."""
    from scipy import ndimage

    middle = np.array(ndimage.center_of_mass(lesion))
    return ndimage.affine_transform(lesion, np.eye(3) / factor, middle * (1 - 1 / factor), order=1)


# --- the stage


class Stage:
    """The module in its panel, the four views of Slicer's usual layout, and a user's hand.

    host: a QtHost without a module. folder: where the pictures go.
    """

    def __init__(self, host: Any, folder: Path) -> None:
        from slicer_views import SliceView, ThreeDView, addCrosshair
        from walk import MODULE

        self.host, self._folder = host, folder
        addCrosshair(self.host)
        self._views = {name: SliceView(self.host, name, (SIDE, SIDE)) for name in ("Red", "Yellow", "Green")}
        self._space = ThreeDView(self.host, (SIDE, SIDE))
        self._space.turn(-30, 20)
        self.widget = self.host.loadModule(MODULE)
        self.ui = self.widget.ui
        self.host.frame.resize(PANEL_WIDTH, 2 * SIDE)
        self.host.frame.show()
        self.host.process(0.1)

    def close(self) -> None:
        for view in (*self._views.values(), self._space):
            view.close()

    def load(self, name: str, image) -> None:
        """As the application loads a file: all views show it."""
        import slicer.util

        node = slicer.util.addVolumeFromArray(image.array, ijkToRAS=image.ijk_to_ras, name=name)
        slicer.util.setSliceViewerLayers(background=node, fit=True)
        self.host.process(0.2)

    def run(self) -> None:
        """Apply, and wait."""
        self.ui.runButton.click()
        self.finish()

    def begin(self, percent: int) -> None:
        """Apply, and wait until so much is done."""
        self.ui.runButton.click()
        bar, running = self.ui.progressBar, self.widget.panel.session.running
        isFar = lambda: bar.maximum == 1000 and bar.value >= 10 * percent and running.preview is not None  # noqa: E731
        self._wait(lambda: isFar() or not running.isRunning)

    def finish(self) -> None:
        """Wait for the end of the run."""
        running = self.widget.panel.session.running
        self._wait(lambda: not running.isRunning)
        self.host.process(0.3)
        if self.widget.panel.session.result is None:
            raise SystemExit(f"The run left no result: {self.ui.messageLabel.text}")

    def waitForStudies(self, count: int) -> None:
        """Wait until so many of the worklist are done."""
        reading = self.widget.panel.session.reading
        self._wait(lambda: not reading.isBusy or sum(case.state == "done" for case in reading.state.cases) >= count)

    def setDark(self, on: bool) -> None:
        from qt_host import setDark

        setDark(self.host.application, on)
        self.host.process(0.1)
        self.widget.panel.session.refresh()

    def report(self, name: str) -> None:
        """Export the report, and let a browser draw it, where there is one."""
        path = self._folder / f"{name}.html"
        path.unlink(missing_ok=True)
        self.host.answers.append(("save", str(path)))
        self.ui.exportReportButton.click()
        self._wait(lambda: not self.widget.panel.session.exports.isBusy)
        print(path)
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is not None and path.exists():
            picture = path.with_suffix(".png")
            options = "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={_PAGE}"
            command = browser, *options, f"--screenshot={picture}", path.resolve().as_uri()
            subprocess.run(command, capture_output=True, timeout=120, check=True)
            write(pixelsOf(picture), picture)

    def save(self, name: str) -> None:
        """The panel, no taller than what is in it, and the views beside it."""
        self.host.process(0.2)
        grid = [[self._views["Red"], self._space], [self._views["Green"], self._views["Yellow"]]]
        views = np.concatenate([np.concatenate([view.pixels() for view in row], axis=1) for row in grid])
        write(beside(self._panel(), views), self._folder / f"{name}.png")

    def savePanel(self, name: str) -> None:
        """The panel alone."""
        write(self._panel(), self._folder / f"{name}.png")

    def _panel(self) -> np.ndarray:
        frame = self.host.frame
        for _turn in range(3):
            self.host.process(0.1)
            frame.resize(PANEL_WIDTH, frame.sizeHint().height())
        self.widget.panel.session.refresh()  # drawings are as wide as the panel
        self.host.process(0.1)
        path = self._folder / "panel.tmp.png"
        frame.grab().save(str(path))
        array = pixelsOf(path)
        path.unlink()
        print(f"the panel is {array.shape[1]} x {array.shape[0]} pixels")
        return array

    def _wait(self, until: Callable[[], Any]) -> None:
        if not self.host.process(RUN_S, until):
            raise SystemExit(f"nothing came: {self.ui.statusLabel.text} {self.ui.messageLabel.text}")


# --- files


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures side by side, the lower one with its own background below."""
    tall = max(len(left), len(right))
    return np.concatenate([_padded(array, tall) for array in (left, right)], axis=1)


def _padded(array: np.ndarray, tall: int) -> np.ndarray:
    rest = np.broadcast_to(array[-1, 0], (tall - len(array), array.shape[1], 3))
    return np.concatenate([array, rest])


def pixelsOf(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def write(array: np.ndarray, path: Path) -> None:
    """A small PNG of 256 colors: images and letters are gray, and a few hues are enough for the rest."""
    from PIL import Image

    hue = np.ptp(array.astype(np.int16), axis=-1) > _HUE
    colors = [*np.repeat(np.linspace(0, 255, _GRAYS).round().astype(np.uint8)[:, np.newaxis], 3, axis=1).reshape(-1)]
    if hue.any():
        colored = Image.fromarray(array[hue][np.newaxis])
        colors += colored.quantize(256 - _GRAYS, method=Image.Quantize.MAXCOVERAGE).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([int(value) for value in colors])
    image = Image.fromarray(np.ascontiguousarray(array)).quantize(palette=palette, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
