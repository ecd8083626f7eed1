"""Train a segmenter on masks, by the same network, steps and loss as one that heatmaps taught: how far labels could go.

    python benchmarks/ceiling.py MANIFEST --model CLASSIFIER --like SEGMENTER --output CEILING

SEGMENTER was made by `tonno distill MANIFEST --model CLASSIFIER`; its settings are taken. Masks of split train take the
place of pseudo-masks, those of val choose the threshold's smallest part; `tonno distill` itself opens no mask.
`tonno evaluate` has a row "segmenter trained on masks" for the result.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import torch

from tonno_core.bundle.file import load_bundle, save_bundle, segmenter_spec
from tonno_core.bundle.kind import MASKS
from tonno_core.cohort.manifest import Case, Manifest, read_for_model
from tonno_core.cohort.mask import finding_in
from tonno_core.distillation.distill import distill
from tonno_core.distillation.pseudo_mask import BACKGROUND, FINDING
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.distillation.teacher import Numbered
from tonno_core.distributed import processes
from tonno_core.errors import TonnoError
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.working import working_grid
from tonno_core.training.run_folder import RunFolder
from tonno_core.volume.io import read_mask, read_volume


def true_levels(numbered: Numbered, network: SegmenterNetwork) -> torch.Tensor:
    """Return the levels of a volume by its masks: nothing is unknown."""
    _, case = numbered
    levels = []
    for index, path in enumerate(case.masks):
        if path is None:  # of a volume whose label says that there is nothing
            levels.append(torch.full(network_shape(case, network), BACKGROUND))
            continue
        mask = read_mask(path)
        grid = working_grid(mask, network.spacing_mm)
        inside = torch.as_tensor(finding_in(mask.array, case.values_of(index), path), dtype=torch.float32)
        levels.append(torch.where(grid.take(inside[None])[0] >= 0.5, FINDING, BACKGROUND))
    return torch.stack(levels).to(torch.uint8)


def network_shape(case: Case, network: SegmenterNetwork) -> tuple[int, ...]:
    """Return the working grid's shape of a volume."""
    return tuple(working_grid(read_volume(case.volume), network.spacing_mm).shape)


def by_masks(manifest: Manifest) -> Manifest:
    """Label the volumes of train and val by their masks; those with the finding and no mask are left out."""

    def labelled(case: Case) -> Case:
        found = [
            bool(path and finding_in(read_mask(path).array, case.values_of(index), path).any())
            for index, path in enumerate(case.masks)
        ]
        return dataclasses.replace(case, labels=tuple(map(int, found)))

    def known(case: Case) -> bool:
        return all(path or not label for path, label in zip(case.masks, case.labels, strict=True))

    cases = [case for case in manifest.cases if case.split in ("train", "val") and known(case)]
    return dataclasses.replace(manifest, cases=tuple(map(labelled, cases)))


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path, exists=True))
@click.option("--model", required=True, help="The classifier.")
@click.option("--like", required=True, help="The segmenter whose settings are taken.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option("--seed", type=int, help="Another seed than its.")
@click.option("--robustness", type=float, help="Another q of the cross-entropy than its; masks need no robust loss.")
def main(manifest: Path, model: str, like: str, output: Path, seed: int | None, robustness: float | None) -> None:
    """Train on the masks of MANIFEST."""
    bundle, taught = load_bundle(model), load_bundle(like).spec
    named = {field.name for field in dataclasses.fields(DistillationSettings)}
    recorded = {name: value for name, value in taught.training["settings"].items() if name in named}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()}
    changed = {name: value for name, value in (("seed", seed), ("robustness", robustness)) if value is not None}
    settings = DistillationSettings(**values | changed)
    cases = by_masks(read_for_model(manifest, settings.classes))
    folder = RunFolder(output.with_name(f"{output.name}-run"), settings, cases)
    try:
        settings.check()
        folder.check(resume=True)
        folder.open()
        with processes(settings.device) as group:
            made = distill(cases, bundle, settings, folder, group, label=true_levels)
        training = {name: value for name, value in made.training.items() if name != "teacher"} | {"taught_by": MASKS}
        spec = segmenter_spec(
            made.network, settings.classes, bundle.spec.intensity, thresholds=made.thresholds, training=training
        )
        save_bundle(output, spec, made.weights, overwrite=True)
    except TonnoError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"written to {output}")


if __name__ == "__main__":
    main()
