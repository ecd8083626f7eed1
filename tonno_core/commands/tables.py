"""`tonno reproduce table1` and `table2`: the grid of encoders trained and measured, and methods beside LayerCAM."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tonno_core.bundle.file import load_bundle
from tonno_core.cohort.cases import SETTINGS_NAME
from tonno_core.cohort.manifest import Manifest, further_columns, read_manifest, require_trainable, write_manifest
from tonno_core.cohort.split import split_patients
from tonno_core.commands.demo import MODEL
from tonno_core.commands.evaluate import ALL, Choices, evaluate_manifest
from tonno_core.commands.options import as_options
from tonno_core.commands.reproduce import check_same, own_model
from tonno_core.commands.train import Destination, Ending, train_bundle
from tonno_core.demo.phantom import write_phantoms
from tonno_core.distributed import world_size
from tonno_core.errors import TonnoError, is_out_of_memory
from tonno_core.output import Json, check_output, output_folder, remove_abandoned
from tonno_core.records import read_record
from tonno_core.reproduction import table1 as grid
from tonno_core.reproduction import table2 as comparison
from tonno_core.settings import METHODS, CamKind, parse_stages
from tonno_core.training.run_folder import RunFolder, describe, has_checkpoint, recorded_setting
from tonno_core.training.settings import TrainingSettings, complete_settings
from tonno_core.training.steps import TrainingInterrupted
from tonno_core.training.train import check_trainable
from tonno_core.volume.intensity import by_channel
from tonno_core.volume.io import read_header
from tonno_core.words import count_of

IMAGENET = "imagenet"
# Endings of a file of weights, in the order in which they are looked for.
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """Where and how a table is measured.

    Attributes:
        split: Of the manifest that is evaluated.
        class_name: Of the finding; None for the manifest's or the model's only one.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        progress: Show bars.
    """

    split: str = "test"
    class_name: str | None = None
    device: str = "auto"
    precision: str = "auto"
    progress: bool = True


@dataclass(frozen=True)
class Grid:
    """What of the grid is trained, and from which weights.

    Attributes:
        rows: Names of rows; none for all.
        weights: ``imagenet``, or a folder with a file for each pretrained encoder.
        settings: That all rows share.
    """

    rows: Sequence[str] = ()
    weights: str = IMAGENET
    settings: grid.Settings = field(default_factory=grid.Settings)


def make_table1(
    manifest_path: Path, asked: Grid, measured: Measured, output: Path, *, overwrite: bool = False, say: Say = print
) -> None:
    """Train and measure each row of the grid, and write the table after each.

    The same command goes on where it stopped. A row that fails says why in the table, and the others go on.

    Args:
        manifest_path: CSV file of volumes and labels, and masks of the volumes that are evaluated.
        asked: What is trained.
        measured: How it is measured.
        output: Folder of the table.
        overwrite: Begin the rows anew; those of another grid go.
        say: Called with what is to be told, as it becomes known.

    Raises:
        TonnoError: An option or the manifest is wrong, the folder holds another grid, or a row failed.
        TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
    """
    settings = asked.settings
    names = grid.chosen(asked.rows)
    if settings.method not in METHODS:
        raise TonnoError(f"`method` {settings.method}: expected one of {', '.join(METHODS)}")
    if world_size() > 1:
        raise TonnoError(
            "table1 runs in one process; give the rows to several machines by `rows`, into the same `output`"
        )
    for name in names:
        TrainingSettings(**settings.training(grid.GRID[name])).check()
    if asked.weights != IMAGENET and not Path(asked.weights).is_dir():
        raise TonnoError(
            f"`weights` {asked.weights}: no such folder; expected {IMAGENET}, or a folder with a file of weights for "
            f"each pretrained row, such as {grid.GRID[names[0]].encoder}{_ENDINGS[0]}"
        )
    check_output(output, overwrite=True)
    manifest = read_manifest(manifest_path, class_name=measured.class_name or "finding")
    divided = manifest if manifest.has_split else split_patients(manifest, seed=settings.seed)
    require_trainable(divided)
    _require_one_channel(divided, settings.intensity)
    class_name = measured.class_name if measured.class_name in divided.classes else divided.classes[0]
    notes = [*manifest.notes, *_lacking(divided, measured.split, divided.classes.index(class_name))]
    weights = IMAGENET if asked.weights == IMAGENET else grid.FILES
    cases = describe(TrainingSettings(), divided)["cases"]
    record = {**dataclasses.asdict(settings), "split": measured.split, "class": class_name, "weights": weights}
    folder = grid.GridFolder(output, {**record, "cases": cases}, has_checkpoint)
    if overwrite:
        for name in grid.GRID:
            if name in names or not folder.fits(name):
                shutil.rmtree(folder.row(name), ignore_errors=True)
    states = {name: folder.load(name) for name in grid.GRID}
    output.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output)
    if not manifest.has_split:
        manifest_path = output / "split.csv"
        write_manifest(manifest_path, divided, further_columns(divided))
        notes.append(f"gives no split: one by patient was made, {manifest_path}")
    for note in notes:
        say(f"{manifest.path}: {note}")
    row = _Row(manifest_path, folder, asked, dataclasses.replace(measured, class_name=class_name))
    facts = _facts(divided, settings, measured.split, class_name)
    left = [name for name in names if "result" not in (states[name] or {})]
    failed = {name: reason for name in left if (reason := row.refused(name, states[name]))}
    for name, reason in failed.items():
        say(f"{name}: cannot be trained: {reason}")
    for number, name in enumerate(left, start=1):
        if name in failed:
            continue
        say(f"{name}: {number} of {count_of(len(left), 'row')} to do")
        try:
            row.make(name, states[name])
        except (KeyboardInterrupt, TrainingInterrupted):
            folder.write(facts)
            raise TrainingInterrupted(
                f"interrupted in row {name}; the same command goes on where it stopped, {output / 'table1'}.md has the "
                "rows that are done"
            ) from None
        except (TonnoError, MemoryError, RuntimeError) as error:
            if not isinstance(error, TonnoError) and not is_out_of_memory(error):
                raise
            reason = as_options(str(error)) if isinstance(error, TonnoError) else "out of memory"
            failed[name] = reason
            folder.save(name, {**(folder.load(name) or {}), "failed": reason})
            say(f"{name}: failed: {reason}")
        folder.write(facts)
    say(f"{folder.write(facts)}\nwritten to {output / 'table1'}.md, .csv and .json")
    if failed:
        first = next(iter(failed))
        others = ", the others are in the table" if len(failed) < len(names) else ""
        raise TonnoError(
            f"{len(failed)} of {count_of(len(names), 'row')} failed{others} ({first}: {failed[first]}); the same "
            "command tries them again"
        )


def _require_one_channel(manifest: Manifest, intensity: str) -> None:
    """Check this before any row, each of which would fail: the encoders have the three inputs of their weights."""
    first = manifest.split("train")[0].volume
    if (count := max(read_header(first).channels, len(by_channel(intensity)))) > 1:
        raise TonnoError(
            f"{first}: table1 compares encoders on volumes of one channel, not {count}; extract one (docs/datasets.md)"
        )


def _lacking(manifest: Manifest, split: str, index: int) -> list[str]:
    """Say what cannot be measured for want of masks; raises TonnoError where there is nothing to measure."""
    cases = [case for case in manifest.cases if split in (ALL, case.split)]
    if not cases:
        counts = ", ".join(f"{len(manifest.split(name))} in {name}" for name in ("train", "val", "test"))
        raise TonnoError(f"{manifest.path}: no volume in split {split} ({counts}); choose another by `split`")
    positive = [case for case in cases if case.labels[index]]
    if any(case.masks[index] is not None for case in positive):
        return []
    return [
        f"no mask of {count_of(len(positive), 'volume')} with the finding in split {split}: F1, Dice and MaxIoU stay "
        "empty, the table has peak AUC and balanced accuracy alone"
    ]


def _facts(manifest: Manifest, settings: grid.Settings, split: str, class_name: str) -> dict[str, str]:
    counts = ", ".join(f"{len(manifest.split(name))} {name}" for name in ("train", "val", "test"))
    return {
        "volumes": f"{counts}; evaluated: {split}, class {class_name}",
        "training": f"{settings.steps} steps, slices of {settings.slice_size} pixels, {settings.channels} channels, "
        f"intensity {settings.intensity}, seed {settings.seed}",
        "heatmap": f"{settings.method}, {settings.directions} directions of {settings.slices} slices",
    }


@dataclass(frozen=True)
class _Row:
    """Makes rows of the grid.

    Attributes:
        manifest: File with a split.
        folder: Of the grid.
        asked: What is trained.
        measured: With the class.
    """

    manifest: Path
    folder: grid.GridFolder
    asked: Grid
    measured: Measured

    def refused(self, name: str, state: Json | None) -> str:
        """Say, before hours of training, why a row cannot be trained; keeps the reason. "" where it can."""
        if state is not None and "seconds" in state:  # trained before
            return ""
        try:
            check_trainable(self.settings(name))
        except TonnoError as error:
            reason = as_options(str(error))
            self.folder.save(name, {"failed": reason})
            return reason
        return ""

    def settings(self, name: str) -> TrainingSettings:
        """Return how a row is trained; raises TonnoError where its weights are missing."""
        row, run = grid.GRID[name], self.folder.run(name)
        return complete_settings(
            **self.asked.settings.training(row),
            weights=self._weights(row) if row.pretrained else "none",
            volumes_per_batch=recorded_setting(run, "volumes_per_batch"),
            device=self.measured.device,
            precision="auto" if self.measured.precision == "float16" else self.measured.precision,
        )

    def _weights(self, row: grid.Encoder) -> str:
        """Return the weights that a pretrained encoder starts from."""
        if self.asked.weights == IMAGENET:
            return IMAGENET
        folder = Path(self.asked.weights)
        files = [folder / f"{row.encoder}{ending}" for ending in _ENDINGS]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise TonnoError(
                f"`weights` {folder}: holds no weights of {row.encoder}, expected {files[0].name} (or "
                f"{', '.join(_ENDINGS[1:])}); save timm's there, where there is "
                "internet: docs/tables.md has the line"
            )
        return str(found)

    def _continues(self, run: Path, training: TrainingSettings) -> bool:
        """Tell whether the run in a folder, if any, is the one that these settings ask for."""
        manifest = read_manifest(self.manifest, class_name=self.measured.class_name or "finding")
        try:
            RunFolder(run, dataclasses.replace(training, classes=manifest.classes), manifest).check(resume=True)
        except TonnoError:
            return False
        return True

    def make(self, name: str, state: Json | None) -> None:
        """Train a row, unless that was done, and measure it."""
        place, run, shared = self.folder.row(name), self.folder.run(name), self.asked.settings
        method, measured = shared.method, self.measured
        model = place / "model"
        if state is None or "seconds" not in state:
            training = self.settings(name)
            self.folder.save(name, {"steps": training.steps})
            # Where an attempt was stopped before its first checkpoint, its settings bind nobody.
            bound = has_checkpoint(run) or self._continues(run, training)
            planes = {"methods": (method,), "slices": shared.slices, "directions": shared.directions}
            train_bundle(
                self.manifest,
                Destination(model, run, resume=bound, overwrite=not bound),
                training,
                class_name=measured.class_name or "finding",
                calibration=Ending(planes, presets=False),
                progress=measured.progress,
            )
            seconds = load_bundle(str(model)).spec.training["seconds"]
            state = {"steps": training.steps, "seconds": seconds}
            self.folder.save(name, state)
        choices = Choices(
            split=measured.split, stages=None, device=measured.device, precision=measured.precision, seed=shared.seed
        )
        evaluate_manifest(
            self.manifest,
            model=str(model),
            output=place / "evaluation",
            choices=choices,
            options={"methods": (method,), "class_name": measured.class_name},
            progress=measured.progress,
        )
        summary = read_record(place / "evaluation" / "summary.json")  # which was written just now
        validation = load_bundle(str(model)).spec.training.get("validation", {})
        result = grid.result_of(summary, method, volume_auc=validation.get("volume_auc"))
        self.folder.save(name, {"steps": state["steps"], "seconds": state["seconds"], "result": result})


@dataclass(frozen=True)
class Comparison:
    """What methods are compared of.

    Attributes:
        volumes: A manifest, or the folder of an evaluation; None for heads that are drawn.
        model: A bundle's folder; None for the demo's, or with an evaluation.
        methods: To compare; none for all.
        baseline: Name of the row that the others are compared with.
        heads: How many heads are drawn with lesions, and how many without.
        planes: ``slices`` and ``directions`` of the reconstructions; what is left out is the model's own.
        seed: Of the heads and of the bootstrap.
        cam: Kind of the activation maps; None for the model's.
    """

    volumes: Path | None = None
    model: Path | None = None
    methods: Sequence[str] = ()
    baseline: str = comparison.LAYERCAM
    heads: int = 8
    planes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    cam: CamKind | None = None


def make_table2(
    asked: Comparison, measured: Measured, output: Path, *, overwrite: bool = False, say: Say = print
) -> None:
    """Evaluate a model, or read an evaluation, and compare its methods; the same command goes on where it stopped.

    Args:
        asked: What is compared.
        measured: How it is measured.
        output: Folder of the table, and of the evaluation.
        overwrite: Replace those of something else.
        say: Called with what is to be told, as it becomes known.

    Raises:
        TonnoError: An option, the model or a file is wrong, the folder holds something else, or a case failed.
    """
    check_output(output, overwrite=True)
    remove_abandoned(output)
    failed, evaluation = "", asked.volumes
    if evaluation is not None and evaluation.is_dir():
        evaluated = comparison.read_evaluation(evaluation)
        if asked.model is not None or asked.methods or asked.planes or asked.cam:
            raise TonnoError(
                f"{evaluation}: is the folder of an evaluation, with its own model, methods and planes; leave out "
                "`model`, `methods`, `cam`, `slices` and `directions`, or give a manifest"
            )
    else:
        evaluation = output / "evaluation"
        manifest, model, measured = _volumes(asked, measured, output, say)
        _check_baseline(asked)
        outcome = evaluate_manifest(
            manifest,
            model=str(model),
            output=evaluation,
            choices=Choices(
                split=measured.split, stages=_stages_of(asked.baseline), device=measured.device,
                precision=measured.precision, seed=asked.seed,
            ),
            options={"methods": tuple(asked.methods) or None, "class_name": measured.class_name, "cam": asked.cam,
                     **asked.planes},
            overwrite=overwrite,
            progress=measured.progress,
        )  # fmt: skip
        failed = outcome.failed
        if not (evaluation / SETTINGS_NAME).is_file() or not (evaluation / "summary.json").is_file():
            say(outcome.text)  # other processes are not done
            return
        evaluated = comparison.read_evaluation(evaluation)
    lines = comparison.compare(evaluated, baseline=asked.baseline, seed=asked.seed)
    described = comparison.description(evaluated, baseline=asked.baseline, seed=asked.seed)
    check_same(output / "table2.json", described, overwrite)
    with output_folder(output, overwrite=True, last="table2.json") as folder:
        comparison.write(folder, lines, evaluated, baseline=asked.baseline, seed=asked.seed)
    say(f"{comparison.table(lines, evaluated)}\nwritten to {output / 'table2'}.md, .csv and .json")
    if failed:
        raise TonnoError(failed)


def _volumes(asked: Comparison, measured: Measured, output: Path, say: Say) -> tuple[Path, Path, Measured]:
    """Return manifest, model and split; draws heads where no volumes are given."""
    if asked.volumes is not None:
        return asked.volumes, own_model("table2", asked.volumes, asked.model), measured
    folder = output / f"heads-{asked.heads}-{asked.seed}"
    if not (folder / "manifest.csv").is_file():
        say(f"drawing {asked.heads} heads with lesions and {asked.heads} without, by seed {asked.seed}")
        with output_folder(folder, overwrite=False) as place:
            write_phantoms(place, count=2 * asked.heads, seed=asked.seed)
    return folder / "manifest.csv", asked.model or MODEL, dataclasses.replace(measured, split=ALL)


def _check_baseline(asked: Comparison) -> None:
    """Raise TonnoError, before hours of work, where the evaluation would have no row to compare with."""
    method = asked.baseline.partition("@")[0]
    if method not in METHODS:
        raise TonnoError(f"`baseline` {asked.baseline}: expected a method of {', '.join(METHODS)}, or METHOD@STAGE")
    if asked.methods and method not in asked.methods:
        raise TonnoError(
            f"`baseline` {asked.baseline}: is none of the methods that are compared; give `method` {method} too"
        )


def _stages_of(baseline: str) -> tuple[tuple[int, ...], ...] | None:
    """Return the stage of a baseline's row, as rows of an evaluation are named; None where it is a method's own."""
    stage = baseline.partition("@")[2].partition(" ")[0]
    if not stage:
        return None
    return (parse_stages(int(stage) if stage.isdecimal() else stage),)
