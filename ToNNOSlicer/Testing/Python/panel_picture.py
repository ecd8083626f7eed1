"""A picture of the module's panel after a run on the sample, with the real engine: python panel_picture.py FILE.png

Drawn by Qt off screen with the stand-in of qt_host.py: the application's own style and widgets look a little different.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parents[2])]

from qt_host import QtHost  # noqa: E402
from walk import MODULE, RUN_S  # noqa: E402

WIDTH = 470
# Planes of quality Fast, and the seconds that they took with two quiet cores: the expected time that is shown. The
# machine that draws may be busy.
QUIET = (4800, 23.0)


def main(file: str, quality: str = "fast") -> None:
    """Load the sample, reconstruct, open the section Why, and save what the panel looks like."""
    host = QtHost()
    widget = host.loadModule(MODULE)
    host.frame.resize(WIDTH, 1500)
    host.frame.show()
    host.process(0.1)
    widget.ui.sampleButton.click()
    widget.ui.qualitySelector.currentIndex = ["fast", "balanced", "paper"].index(quality)
    widget.ui.runButton.click()
    if not host.process(10 * RUN_S, lambda: widget.panel.controller.state == "idle"):
        raise SystemExit("the run did not end")
    if widget.panel.result.heatmap is None:
        raise SystemExit(widget.ui.messageLabel.text)
    _expectQuiet(widget.panel)
    widget.ui.findingsTable.selectRow(0)
    widget.ui.whySection.collapsed = False
    widget.panel.logic.jumpTo(widget.panel.findings.findings[0])
    _shrink(host)
    widget.panel.result.onThreshold(widget.ui.thresholdSlider.value)
    widget.panel.why.update()
    host.process(0.1)
    host.frame.grab().save(file)
    host.close()


def _expectQuiet(panel: Any) -> None:
    """Forget how long the run took here."""
    from ToNNOSlicerLib.timing import RunTimes

    panel.times = RunTimes()
    panel.times.record(panel.input.model.encoder, "cpu", panel.input.model.sliceSize, *QUIET)
    panel.input.update()


def _shrink(host: Any) -> None:
    """No taller than what is in it."""
    for _turn in range(3):
        host.process(0.1)
        host.frame.resize(WIDTH, host.frame.sizeHint().height())


if __name__ == "__main__":
    main(*sys.argv[1:])
