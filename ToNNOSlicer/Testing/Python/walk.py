"""What the widget's tests share: the module in the stand-in, a run by clicks, and a clock for the GUI's thread."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from PySide6 import QtCore
from qt_host import QtHost

MODULE = Path(__file__).resolve().parents[2] / "ToNNOSlicer.py"
# Coarse enough for a test, fine enough for the sample's three lesions.
SLICES, DIRECTIONS = 32, 48
RUN_S = 300  # longest that any run may take on a busy machine


def opened(host: QtHost) -> Any:
    """The module's widget with the sample loaded and a coarse run chosen."""
    widget = host.loadModule(MODULE)
    coarse(widget)
    widget.ui.sampleButton.click()
    host.process()
    return widget


def coarse(widget: Any) -> None:
    widget.ui.slicesBox.value = SLICES
    widget.ui.directionsBox.value = DIRECTIONS
    widget.ui.qualitySelector.currentIndex = 0


def run(host: QtHost, widget: Any) -> float:
    """Click Apply and wait for the end; returns seconds. A failure's words are an assertion's."""
    start = time.monotonic()
    widget.ui.runButton.click()
    assert widget.panel.session.running.controller.state != "idle", widget.ui.messageLabel.text
    assert host.process(RUN_S, lambda: widget.panel.session.running.controller.state == "idle"), "the run did not end"
    assert widget.panel.session.result.heatmapNode is not None, widget.ui.messageLabel.text
    return time.monotonic() - start


def begin(host: QtHost, widget: Any, percent: float = 5.0) -> None:
    """Click Apply and wait until the bar shows so many per cent."""
    widget.ui.runButton.click()
    bar = widget.ui.progressBar
    moving = lambda: bar.maximum == 1000 and bar.value >= 10 * percent  # noqa: E731
    assert host.process(RUN_S, moving), widget.ui.statusLabel.text + widget.ui.messageLabel.text


def enginePids(widget: Any) -> list[int]:
    """The processes of the widget's engine."""
    process = widget.panel.session.running.controller.client._process
    return [] if process is None else [process._popen.pid]


def isAlive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def engineFolder(widget: Any) -> Path:
    """The temporary folder of the widget's engine."""
    return widget.panel.session.running.controller.client._root


class Gaps:
    """The longest time between two turns of the event loop, without the time that this process waited for a core.

    Other processes' work is not ours. All threads count: one that waits for a core may hold the interpreter's lock.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._last, self._waits = time.monotonic(), _waits()
        self._timer = QtCore.QTimer()
        self._timer.setInterval(1)
        self._timer.timeout.connect(self._turn)
        self._timer.start()

    def stop(self) -> float:
        """Milliseconds."""
        self._timer.stop()
        return 1000 * self.longest

    def _turn(self) -> None:
        now, waits = time.monotonic(), _waits()
        waited = sum(seconds - self._waits.get(thread, 0.0) for thread, seconds in waits.items())
        self.longest = max(self.longest, now - self._last - waited)
        self._last, self._waits = now, waits


def _waits() -> dict[str, float]:
    """For each thread of this process the seconds in which it could have run and got no core."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just ended
            found[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
    return found


def paint(segmentationNode: Any, segmentId: str, kji: tuple[int, int, int]) -> None:
    """One voxel more by hand, as the Segment Editor leaves it."""
    import slicer.util

    array = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId).copy()
    array[kji] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, segmentationNode, segmentId)
