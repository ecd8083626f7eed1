"""What a regressor's heatmaps tell of single lesions, against the load that was drawn.

    python -m benchmarks.regression HEADS RESULTS

HEADS is a folder of `tonno phantoms --loads`, RESULTS of `tonno reconstruct` of some of its heads. A lesion's region is
all that lies within `REACH_MM` of it and nearer to it than to another; its amount is the sum of the heatmap over it.
Balls of the size of a lesion, as far from all lesions, tell what a heatmap shows where nothing is.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.stats import pearsonr, spearmanr

from tonno_core.volume.io import read_heatmap

# Beyond a lesion: what the heatmap's nodes, the slices' pixels and the network blur.
REACH_MM = 8.0
# Radius of a place without a lesion: that of a lesion of middle size, and the reach.
_PLACE_MM = 9.5 + REACH_MM
_PLACES = 4  # in each head
Numbers = npt.NDArray[np.float64]


def regions(load: npt.NDArray[np.float32], spacing_mm: float) -> npt.NDArray[np.intp]:
    """Number the regions of the lesions, 0 where there is none."""
    lesions, _ = ndimage.label(load > 0, np.ones((3, 3, 3)))
    far, nearest = ndimage.distance_transform_edt(lesions == 0, spacing_mm, return_indices=True)
    return np.where(far <= REACH_MM, lesions[tuple(nearest)], 0)


def empty_places(
    where: npt.NDArray[np.intp], head: npt.NDArray[np.bool_], spacing_mm: float
) -> list[npt.NDArray[np.bool_]]:
    """Choose balls that touch no region of a lesion and lie in the head."""
    rng = np.random.default_rng(0)
    free = ndimage.distance_transform_edt((where == 0) & head, spacing_mm)
    kji = np.argwhere(free > _PLACE_MM)
    at = np.indices(where.shape)
    chosen = kji[rng.permutation(len(kji))[:_PLACES]]
    return [
        np.sqrt(sum((axis - c) ** 2 for axis, c in zip(at, centre, strict=True))) * spacing_mm < _PLACE_MM
        for centre in chosen
    ]


def main(heads: Path, results: Path) -> None:
    """Print a line for each heatmap, and one for the predictions of whole heads."""
    with (heads / "manifest.csv").open(newline="") as file:
        numbers = {Path(row["volume"]).name.split(".")[0]: float(row["load_ml"]) for row in csv.DictReader(file)}
    found: dict[str, tuple[list[float], list[float], list[float]]] = {}
    truth, predicted = [], []
    for report in sorted((results / "cases").glob("*/report.json")):
        name, told = report.parent.name.partition("-")[2], json.loads(report.read_text())
        truth.append(numbers[name])
        predicted.append(told["prediction"]["value"])
        load = read_heatmap(heads / "loads" / f"{name}.nii.gz")
        image = read_heatmap(heads / f"{name}.nii.gz").array
        where = regions(load.array, float(load.spacing_mm[0]))
        empty = empty_places(where, image > 0, float(load.spacing_mm[0]))
        for path in report.parent.glob("heatmap-*.nii.gz"):
            heatmap = read_heatmap(path).array.astype(np.float64) * load.voxel_mm3 * told["prediction"]["per_mm3"]
            drawn, amounts, nothing = found.setdefault(path.name[8:-7], ([], [], []))
            for number in range(1, int(where.max()) + 1):
                drawn.append(float(load.array[where == number].sum(dtype=np.float64)) * load.voxel_mm3 / 1000)
                amounts.append(float(heatmap[where == number].sum()))
            nothing += [float(heatmap[place].sum()) for place in empty]
    print(f"{len(truth)} heads: {_agreement(np.array(truth), np.array(predicted))}")
    for method, (drawn, amounts, nothing) in found.items():
        print(f"{method}, {len(drawn)} lesions: {_agreement(np.array(drawn), np.array(amounts))}")
        print(f"    {len(nothing)} places without: mean {np.mean(nothing):.3f}, SD {np.std(nothing):.3f}")


def _agreement(truth: Numbers, found: Numbers) -> str:
    slope, offset = np.polyfit(truth, found, 1)
    return (
        f"Pearson {pearsonr(truth, found)[0]:.3f}, Spearman {spearmanr(truth, found)[0]:.3f}, "
        f"found = {slope:.3f} x drawn + {offset:.3f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
