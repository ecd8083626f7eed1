"""What some additions to a heatmap gain, each alone, on the masks of a manifest's test split.

    python -m benchmarks.additions MANIFEST --model BUNDLE --cache FOLDER

The additions: every slice also seen mirrored; twice as many directions; the mask's edges moved to the image's by random
walks. (Sums of stages are built in: rows `@3+4` of `tonno evaluate`, compared by `benchmarks/paired.py`.) Each heatmap
has its threshold as `tonno calibrate` finds it: a quantile of the peaks of the negative volumes of `val`. Masks are
opened for the test split alone. Heatmaps are kept in the cache's folder, where a run that was stopped is resumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.paired import text
from benchmarks.random_walker import refine
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.cohort.manifest import Case, Manifest, read_manifest
from tonno_core.cohort.mask import finding_in
from tonno_core.encoding.encoder import ClassMaps, Encoder
from tonno_core.evaluation.bootstrap import Bootstrap
from tonno_core.evaluation.rows import rows_of
from tonno_core.reconstruction import execute
from tonno_core.segmentation.metrics import score
from tonno_core.settings import METHODS, CamKind, Variant
from tonno_core.training.calibration import SHARE_OF_VOLUMES
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_mask, read_volume
from tonno_core.volume.volume import Volume

Array = npt.NDArray[np.float32]
Heatmaps = dict[str, Array]
PASSES = ("plain", "mirrored", "doubled")


class Mirrored:
    """An encoder that sees every slice mirrored along u; its maps are mirrored back.

    Args:
        encoder: What sees the mirrored slices.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.classes, self.stages = encoder.classes, encoder.stages

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """Classify slices.

        Args:
            slices: B V U.

        Returns:
            Logits: B K.
        """
        return self._encoder.logits(slices.flip(-1))

    def passes(self, stages: Collection[int], size: int) -> int:
        """Count how often the network looks at a slice for ScoreCAM's maps.

        Args:
            stages: Whose maps are wanted.
            size: S, pixels along a slice's side.

        Returns:
            The encoder's own number.
        """
        return self._encoder.passes(stages, size)

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind, at_once: int = 0
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Classify slices and compute their class activation maps.

        Args:
            slices: B V U.
            asked: Pairs of class and stage.
            kind: Kind of maps.
            at_once: Masked slices of ScoreCAM that go through the network together.

        Returns:
            Logits B K, and by pair its maps B h w.
        """
        logits, maps = self._encoder.cam(slices.flip(-1), asked, kind, at_once)
        return logits, {key: each.flip(-1) for key, each in maps.items()}


@dataclasses.dataclass(frozen=True)
class Example:
    """A volume with its heatmaps.

    Attributes:
        case: Its line of the manifest.
        image: The scan.
        passes: Heatmaps by pass and row.
        foreground: Voxels of the patient: Z Y X.
        truth: Voxels of the finding, Z Y X; None for a negative volume.
    """

    case: Case
    image: Volume
    passes: dict[str, Heatmaps]
    foreground: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.bool_] | None


def heatmaps(path: Path, ready: ReadyModel, variants: dict[str, Variant], name: str, cache: Path) -> Heatmaps:
    """Compute the heatmaps of a volume, or read them from the cache.

    Args:
        path: The volume.
        ready: The model.
        variants: What to compute, by row.
        name: Pass: slices as they are, slices mirrored, or directions doubled.
        cache: Folder of the heatmaps.

    Returns:
        Heatmaps by row: Z Y X.
    """
    file = cache / f"{path.name.partition('.')[0]}-{name}.npz"
    if not file.exists():
        settings = ready.choices.settings()
        encoder = Mirrored(ready.encoder) if name == "mirrored" else ready.encoder
        if name == "doubled":
            settings = dataclasses.replace(settings, directions=2 * settings.directions_for("tonno"))
        volume = read_volume(path)
        result = execute(volume, encoder, decide(settings, ready, variants=variants))
        temporary = file.with_suffix(".part.npz")
        np.savez_compressed(temporary, **{row: heatmap.array for row, heatmap in result.heatmaps.items()})
        temporary.rename(file)
    with np.load(file) as arrays:
        return {row: arrays[row] for row in variants}


def examples(
    manifest: Manifest, ready: ReadyModel, variants: dict[str, Variant], cache: Path, names: tuple[str, ...]
) -> list[Example]:
    """Collect the negative volumes of `val`, and the volumes of `test` with a finding.

    Args:
        manifest: The volumes.
        ready: The model.
        variants: What to compute, by row.
        cache: Folder of the heatmaps.
        names: Passes.

    Returns:
        The volumes with their heatmaps.
    """
    negatives = [case for case in manifest.split("val") if not case.labels[0]]
    cases = [*negatives, *(case for case in manifest.split("test") if case.labels[0])]
    # Pass after pass, so that the first can be looked at while the others run.
    by_pass = {
        name: [heatmaps(case.volume, ready, variants, name, cache) for case in tqdm(cases, desc=name, unit="volume")]
        for name in names
    }
    collected = []
    for number, case in enumerate(cases):
        volume = read_volume(case.volume)
        mask = case.masks[0]
        truth = None if case in negatives else finding_in(read_mask(mask).array, case.values_of(0), mask)
        passes = {name: by_pass[name][number] for name in names}
        collected.append(Example(case, volume, passes, foreground_mask(volume), truth))
    return collected


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A way to make a mask of a volume.

    Attributes:
        row: Row of the heatmap.
        addition: What is added to it.
        heatmap: Makes the heatmap: Z Y X.
        walks: Whether random walks move the mask's edges.
    """

    row: str
    addition: str
    heatmap: Callable[[Example], Array]
    walks: bool = False


def recipes(row: str, passes: tuple[str, ...]) -> Iterator[Recipe]:
    """List a row without and with each addition.

    Args:
        row: The row.
        passes: Passes that were made.

    Yields:
        Ways to make a mask.
    """

    def plain(example: Example) -> Array:
        return example.passes["plain"][row]

    yield Recipe(row, "", plain)
    if "mirrored" in passes:
        yield Recipe(row, "mirrored slices too", lambda example: (plain(example) + example.passes["mirrored"][row]) / 2)
    if "doubled" in passes:
        yield Recipe(row, "twice the directions", lambda example: example.passes["doubled"][row])
    yield Recipe(row, "random walker", plain, walks=True)


def results(
    recipe: Recipe, negatives: list[Example], positives: list[Example], quantile: float
) -> npt.NDArray[np.float64]:
    """Measure the masks of a recipe.

    Args:
        recipe: How to make them.
        negatives: Volumes for the threshold.
        positives: Volumes to measure.
        quantile: Quantile of the negatives' peaks that is the threshold.

    Returns:
        Dice and F1 of each positive volume: N 2.
    """
    threshold = float(np.quantile([recipe.heatmap(each)[each.foreground].max() for each in negatives], quantile))
    rows = []
    for example in positives:
        heatmap, image = recipe.heatmap(example), example.image
        mask = refine(image.with_array(heatmap), threshold, image) if recipe.walks else heatmap >= threshold
        scores = score(mask, example.truth)
        rows.append((scores.dice, scores.f1))
    return np.array(rows)


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path, exists=True))
@click.option("--model", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--stage", "stages", type=int, multiple=True, default=(3, 4), show_default=True)
@click.option("--pass", "passes", type=click.Choice(PASSES), multiple=True, default=PASSES, help="Planes to look at.")
@click.option("--quantile", default=SHARE_OF_VOLUMES, show_default=True, help="Threshold, among the negatives' peaks.")
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
def main(
    manifest: Path,
    model: Path,
    cache: Path,
    stages: tuple[int, ...],
    passes: tuple[str, ...],
    quantile: float,
    seed: int,
) -> None:
    """Print what each addition gains, with intervals over patients."""
    cache.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(model)
    choices = bundle.spec.choices
    settings = choices.settings({"methods": METHODS[:4]})
    singles = [(stage,) for stage in stages]
    chosen = rows_of(choices, settings, stages=singles, last_stage=max(stages), all_candidates=False)
    variants = {name: row.variant for name, row in chosen.items() if name == "tonno" or "@" in name}
    ready = prepare_model(bundle, None, precision="float32")
    passes = tuple(name for name in PASSES if name in {"plain", *passes})
    collected = examples(read_manifest(manifest), ready, variants, cache, passes)
    negatives = [example for example in collected if example.truth is None]
    positives = [example for example in collected if example.truth is not None]
    bootstrap = Bootstrap([example.case.patient for example in positives], seed=seed)
    table, before = [], {}
    for recipe in (recipe for row in variants for recipe in recipes(row, passes)):
        measured = results(recipe, negatives, positives, quantile)
        before.setdefault(recipe.row, measured)
        gain = measured - before[recipe.row]
        gains = [text(bootstrap.mean(gain[:, k])) if recipe.addition else "" for k in range(2)]
        table.append([recipe.row, recipe.addition, *(f"{value:.3f}" for value in measured.mean(axis=0)), *gains])
    print(f"{len(positives)} volumes with a finding; thresholds: quantile {quantile:g} of {len(negatives)} negatives")
    print(tabulate(table, headers=["row", "addition", "Dice", "F1", "gain in Dice", "gain in F1"], tablefmt="github"))


if __name__ == "__main__":
    main()
