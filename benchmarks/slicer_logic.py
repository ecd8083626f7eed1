"""How long the Slicer module's logic keeps the window waiting, on a volume of 256 x 256 x 256 voxels.

    python benchmarks/slicer_logic.py [--size 256] [--repeats 5]

Slicer's own MRML libraries (the package slicer-core) do the work; the slice views are rendered where OpenGL is there.
The limits are: 50 ms from a move of the slider to the outline, 300 ms from its release to the segment.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "ToNNOSlicer"), str(ROOT / "ToNNOSlicer/Testing/Python")]


def smooth_noise(size: int) -> np.ndarray:
    """Make blobs of all sizes, like a heatmap's, with a few thousand components above 2.

    Args:
        size: Voxels along each axis, a multiple of 4.

    Returns:
        Values of standard deviation 1: Z Y X.
    """
    from scipy.ndimage import gaussian_filter, zoom

    coarse = gaussian_filter(np.random.default_rng(0).standard_normal((size // 4,) * 3), 1.0)
    array = zoom(coarse, 4, order=1).astype(np.float32)
    return array / array.std()


@click.command()
@click.option("--size", default=256, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(size: int, repeats: int) -> None:
    """Print the table: median and longest of the repeats in ms."""
    from scenes import setOverlay
    from slicer_host import Host
    from slicer_views import SliceView, whyNot

    host = Host()
    import slicer.util
    from ToNNOSlicerLib.logic import ToNNOLogic
    from ToNNOSlicerLib.logic.findings import findingsOf
    from ToNNOSlicerLib.logic.heatmap import Heatmap, histogram, otsuThreshold, showHeatmap
    from ToNNOSlicerLib.logic.inputs import inputFor
    from ToNNOSlicerLib.logic.segmentation import show3D

    rows: list[list[Any]] = []

    def measure(name: str, action: Callable[[], Any], times: int = repeats) -> Any:
        seconds, result = [], None
        for _ in range(times):
            started = time.perf_counter()
            result = action()
            seconds.append(time.perf_counter() - started)
        rows.append([name, f"{np.median(seconds) * 1e3:.1f}", f"{max(seconds) * 1e3:.1f}"])
        return result

    views = [SliceView(host, name) for name in ("Red", "Yellow", "Green")] if whyNot() is None else []
    logic = ToNNOLogic(host.scene, host.applicationLogic)
    array = smooth_noise(size)
    volume = slicer.util.addVolumeFromArray(array, ijkToRAS=np.diag([-1.0, -1.0, 1.0, 1.0]), name="CT")
    given = measure("inputFor", lambda: inputFor(volume))
    made = Heatmap(array, given.ijkToRAS, "tonno", "lesion", {"threshold": 3.0, "noise_floor": 1.5})
    preview = measure("showHeatmap, first preview", lambda: showHeatmap(volume, made), 1)
    measure("showHeatmap, later preview", lambda: showHeatmap(volume, made, preview))
    made = replace(made, inside=array != 0)
    heatmap = measure("showHeatmap, result", lambda: showHeatmap(volume, made, preview))
    setOverlay(heatmap, 3.0)
    for view in views:
        view.fit()
        view.render()

    def drag(threshold: float, smallest: float) -> None:
        setOverlay(heatmap, threshold)
        logic.preview.show(heatmap, threshold, smallest)

    def drag_and_draw(threshold: float, smallest: float) -> None:
        drag(threshold, smallest)
        for view in views:
            view.logic.UpdatePipeline()
            view.window.Render()

    drag(3.5, 0.0)
    for threshold in (3.0, 2.5, 2.0, 1.0):
        share = f">= {threshold} ({(array >= threshold).mean():.2%} of the voxels)"
        steps = iter(np.linspace(threshold, threshold + 0.01, 100).tolist())
        measure(f"drag: colours, outline {share}", lambda: drag(next(steps), 0.0))  # noqa: B023
        measure("   and without components below 50 mm3", lambda: drag(next(steps), 50.0))  # noqa: B023
        if views:
            measure("   and three slice views drawn", lambda: drag_and_draw(next(steps), 50.0))  # noqa: B023
        measure(f"release: segment {share}", lambda: logic.segments.write(heatmap, next(steps)))  # noqa: B023
        measure("   and without components below 50 mm3", lambda: logic.segments.write(heatmap, next(steps), 50.0))  # noqa: B023
    for _ in range(repeats):
        segmentation, segmentId = logic.segments.write(heatmap, 3.0, 50.0)
    measure("undo", lambda: logic.segments.undo(heatmap))
    logic.segments.write(heatmap, 3.0, 50.0)
    found = measure("findings", lambda: findingsOf(segmentation, segmentId, heatmap))
    measure("histogram", lambda: histogram(heatmap))
    # Otsu's threshold of smooth noise may be below a noise floor, which is refused.
    unfloored = showHeatmap(volume, replace(made, threshold={"threshold": 3.0}))
    measure("Otsu, first time", lambda: otsuThreshold(unfloored), 1)
    measure("show 3D", lambda: show3D(segmentation, True), 1)
    measure("release with 3D shown", lambda: logic.segments.write(heatmap, 3.0, 50.0))
    print(tabulate(rows, headers=["step", "median ms", "longest ms"], disable_numparse=True))
    print(f"{len(found)} findings; views drawn: {'yes' if views else whyNot()}")
    host.messages.take()
    host.close()


if __name__ == "__main__":
    main()
