"""Band-limited grid against backprojection at every voxel: difference and cost.

    python benchmarks/grids.py [--step 1] [--directions 200]

The MNI brain through pixel-sum, so that the truth is the image; ToNNO and Matched CAM.
"""

from __future__ import annotations

import click
import numpy as np
from tabulate import tabulate

from tonno_core.demo.phantom import brain
from tonno_core.reconstruction import reconstruct
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.volume import Volume


def coarser(volume: Volume, step: int) -> Volume:
    """Keep every n-th voxel.

    Args:
        volume: A volume.
        step: n.

    Returns:
        The coarser volume.
    """
    affine = volume.ijk_to_ras @ np.diag([step, step, step, 1.0])
    return Volume(np.ascontiguousarray(volume.array[::step, ::step, ::step]), affine)


@click.command()
@click.option("--step", default=1, show_default=True, help="Take every n-th voxel of the 1 mm brain.")
@click.option("--slices", default=64, show_default=True)
@click.option("--directions", default=200, show_default=True)
def main(step: int, slices: int, directions: int) -> None:
    """Print the table."""
    volume = coarser(brain(), step)
    methods = ("tonno", "matched-cam")
    results = {
        grid: reconstruct(
            volume,
            "pixel-sum",
            ReconstructionSettings(methods=methods, slices=slices, directions=directions, grid=grid, stages=(2,)),
        )
        for grid in ("band-limited", "volume")
    }
    rows = []
    for method in methods:
        inside = results["volume"].inside
        truth = volume.array[inside]
        fine = results["volume"].heatmaps[method].array[inside]
        for grid, result in results.items():
            values = result.heatmaps[method].array[inside]
            step_name = "backprojection: values" if method == "tonno" else "backprojection: maps"
            rows.append(
                [
                    method,
                    grid,
                    f"{np.corrcoef(values, truth)[0, 1]:.4f}",
                    f"{np.corrcoef(values, fine)[0, 1]:.4f}",
                    f"{np.linalg.norm(values - fine) / np.linalg.norm(fine):.4f}",
                    f"{result.seconds[step_name] + result.seconds.get('interpolation', 0.0):.2f}",
                ]
            )
    headers = ["method", "grid", "corr. with image", "corr. with 'volume'", "relative L2 difference", "seconds"]
    print(f"{volume.array.shape} voxels, M = {slices}, L = {directions}")
    print(tabulate(rows, headers=headers, disable_numparse=True))


if __name__ == "__main__":
    main()
