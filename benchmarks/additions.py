"""What some additions to a heatmap gain, each alone, on the masks of a manifest's test split.

    python -m benchmarks.additions MANIFEST --model BUNDLE --cache FOLDER

The additions: every slice also seen mirrored; twice as many directions; the mask's edges moved to the image's by random
walks. (Stages added up are built in: rows `@3+4` of `tonno evaluate`, compared by `benchmarks/paired.py`.) Each heatmap
has a threshold of its own, as `tonno calibrate` finds it: a quantile of the peaks of the negative volumes of `val`.
Masks are opened for the test split alone. Heatmaps are kept in the cache's folder; a run that ended goes on.
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

from benchmarks.random_walker import refine
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.cohort.manifest import Case, Manifest, read_manifest
from tonno_core.encoding.encoder import ClassMaps, Encoder
from tonno_core.evaluation.bootstrap import Bootstrap, Estimate
from tonno_core.evaluation.rows import rows_of
from tonno_core.reconstruction import reconstruct
from tonno_core.segmentation.metrics import score
from tonno_core.settings import METHODS, CamKind, Variant, combine
from tonno_core.training.calibration import SHARE_OF_VOLUMES
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_mask, read_volume
from tonno_core.volume.volume import Volume

Array = npt.NDArray[np.float32]
Heatmaps = dict[str, Array]
PASSES = ("plain", "mirrored", "doubled")


class Mirrored:
    """An encoder that sees every slice mirrored along u; its maps are mirrored back."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.classes, self.stages = encoder.classes, encoder.stages

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """``B V U`` to ``B K``."""
        return self._encoder.logits(slices.flip(-1))

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Logits ``B K`` and maps ``B h w``."""
        logits, maps = self._encoder.cam(slices.flip(-1), asked, kind)
        return logits, {key: each.flip(-1) for key, each in maps.items()}


@dataclasses.dataclass(frozen=True)
class Seen:
    """One volume: its image, heatmaps by pass and row, foreground, and mask (test split only)."""

    case: Case
    image: Volume
    passes: dict[str, Heatmaps]
    foreground: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.bool_] | None


def heatmaps(path: Path, ready: ReadyModel, variants: dict[str, Variant], name: str, cache: Path) -> Heatmaps:
    """Of one volume by one pass: as the model is, slices mirrored, directions doubled.

    From the cache where they are there.
    """
    file = cache / f"{path.name.partition('.')[0]}-{name}.npz"
    if not file.exists():
        settings = ready.settings(None)
        encoder = Mirrored(ready.encoder) if name == "mirrored" else ready.encoder
        if name == "doubled":
            settings = dataclasses.replace(settings, directions=2 * settings.directions_for("tonno"))
        volume = read_volume(path)
        result = reconstruct(volume, dataclasses.replace(ready, encoder=encoder), settings, variants=variants)
        temporary = file.with_suffix(".part.npz")
        np.savez_compressed(temporary, **{row: one.array for row, one in result.heatmaps.items()})
        temporary.rename(file)
    with np.load(file) as arrays:
        return {row: arrays[row] for row in variants}


def see(
    manifest: Manifest, ready: ReadyModel, variants: dict[str, Variant], cache: Path, names: tuple[str, ...]
) -> list[Seen]:
    """The negatives of `val`, and the volumes of `test` that hold something."""
    negatives = [case for case in manifest.split("val") if not case.labels[0]]
    cases = [*negatives, *(case for case in manifest.split("test") if case.labels[0])]
    # Pass after pass, so that the first can be looked at while the others run.
    found = {
        name: [heatmaps(case.volume, ready, variants, name, cache) for case in tqdm(cases, desc=name, unit="volume")]
        for name in names
    }
    seen = []
    for number, case in enumerate(cases):
        volume = read_volume(case.volume)
        truth = None if case in negatives else read_mask(case.masks[0]).array > 0
        passes = {name: found[name][number] for name in names}
        seen.append(Seen(case, volume, passes, foreground_mask(volume), truth))
    return seen


@dataclasses.dataclass(frozen=True)
class Made:
    """A way to make a heatmap of a volume, and whether its mask is refined."""

    row: str
    addition: str
    heatmap: Callable[[Seen], Array]
    walks: bool = False


def ways(row: str, passes: tuple[str, ...]) -> Iterator[Made]:
    """A row without and with each addition."""

    def plain(one: Seen) -> Array:
        return one.passes["plain"][row]

    yield Made(row, "", plain)
    if "mirrored" in passes:
        yield Made(row, "mirrored slices too", lambda one: (plain(one) + one.passes["mirrored"][row]) / 2)
    if "doubled" in passes:
        yield Made(row, "twice the directions", lambda one: one.passes["doubled"][row])
    yield Made(row, "random walker", plain, walks=True)


def results(made: Made, negatives: list[Seen], positives: list[Seen], quantile: float) -> npt.NDArray[np.float64]:
    """Dice and F1 of each positive volume: N 2."""
    threshold = float(np.quantile([made.heatmap(one)[one.foreground].max() for one in negatives], quantile))
    found = []
    for one in positives:
        heatmap = made.heatmap(one)
        mask = refine(one.image.with_array(heatmap), threshold, one.image) if made.walks else heatmap >= threshold
        scores = score(mask, one.truth)
        found.append((scores.dice, scores.f1))
    return np.array(found)


def text(estimate: Estimate | None, sign: str = "") -> str:
    """Value and interval."""
    if estimate is None or estimate.low is None:
        return "-"
    return f"{estimate.value:{sign}.3f} ({estimate.low:{sign}.3f} to {estimate.high:{sign}.3f})"


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path, exists=True))
@click.option("--model", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--stage", "stages", type=int, multiple=True, default=(3, 4), show_default=True)
@click.option("--pass", "passes", type=click.Choice(PASSES), multiple=True, default=PASSES, help="Planes to look at.")
@click.option("--quantile", default=SHARE_OF_VOLUMES, show_default=True, help="Of the negatives' peaks.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
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
    settings = combine(defaults=bundle.spec.defaults, explicit={"methods": METHODS[:4]})
    chosen = rows_of(bundle.spec, settings, stages=stages, last_stage=max(stages), all_candidates=False)
    variants = {name: row.variant for name, row in chosen.items() if name == "tonno" or "@" in name}
    ready = prepare_model(bundle, None, precision="float32")
    passes = tuple(name for name in PASSES if name in {"plain", *passes})
    seen = see(read_manifest(manifest), ready, variants, cache, passes)
    negatives, positives = [one for one in seen if one.truth is None], [one for one in seen if one.truth is not None]
    bootstrap = Bootstrap([one.case.patient for one in positives], seed=seed)
    table, before = [], {}
    for made in (made for row in variants for made in ways(row, passes)):
        found = results(made, negatives, positives, quantile)
        before.setdefault(made.row, found)
        gain = found - before[made.row]
        gains = [text(bootstrap.mean(gain[:, k]), "+") if made.addition else "" for k in range(2)]
        table.append([made.row, made.addition, *(f"{value:.3f}" for value in found.mean(axis=0)), *gains])
    print(f"{len(positives)} volumes with a finding; thresholds: quantile {quantile:g} of {len(negatives)} negatives")
    print(tabulate(table, headers=["row", "addition", "Dice", "F1", "gain in Dice", "gain in F1"], tablefmt="github"))


if __name__ == "__main__":
    main()
