"""`tonno evaluate`: a manifest with masks in, tables and contact sheets out; it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tonno_core
from tonno_core.bundle.calibration import MIN_PEAK
from tonno_core.bundle.classes import class_of
from tonno_core.bundle.decide import check_stages, decide, standard_stage
from tonno_core.bundle.file import Bundle, load_bundle
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.cohort.cases import SETTINGS_NAME, Outcome, Progress, failed_line, run_cases, warned_line
from tonno_core.cohort.manifest import Manifest, read_for_model, why_absent
from tonno_core.cohort.mask import values_text
from tonno_core.cohort.split import split_patients
from tonno_core.commands.options import as_options
from tonno_core.commands.request import peak_record
from tonno_core.distributed import device_of_process, share_of_cases
from tonno_core.errors import TonnoError
from tonno_core.evaluation.case import ReadCase, Setup, Task, check_masks, evaluate_case, read_case
from tonno_core.evaluation.folder import ResultsFolder, files_of
from tonno_core.evaluation.record import CaseRecord, Files
from tonno_core.evaluation.report import markdown, terminal_table
from tonno_core.evaluation.rows import Row, rows_of, segmenter_row
from tonno_core.evaluation.sheet import entry_of, write_sheets
from tonno_core.evaluation.summary import results_csv, summarize, summary_csv
from tonno_core.output import Json
from tonno_core.records import made_of, read_record
from tonno_core.segmentation.threshold import parts_of
from tonno_core.settings import METHODS, SEGMENTER, ReconstructionSettings, Variant, stages_text
from tonno_core.volume.intensity import shown_window
from tonno_core.words import count_of

ALL = "all"


@dataclass(frozen=True)
class Choices:
    """What is asked for beside the settings of the reconstruction.

    Attributes:
        split: ``train``, ``val``, ``test`` or ``all``.
        stages: Of the CAM methods' rows, several numbers are added up; none for all; None for no such rows, but each
            method at the model's own.
        min_volume_mm3: Smallest component that is kept; None for each row's own, which a classifier has not.
        min_peak: What the highest value of a component reaches that is kept, -inf for all; None likewise.
        all_candidates: Whether there is a row for each variant that the calibration tried.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        seed: Of the bootstrap.
        segmenters: Folders of segmenters to compare with, each as ``NAME=BUNDLE`` where its row has a name of its own.
    """

    split: str = "test"
    stages: Sequence[tuple[int, ...]] | None = ()
    min_volume_mm3: float | None = None
    min_peak: float | None = None
    all_candidates: bool = False
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    segmenters: Sequence[str] = ()


def evaluate_manifest(
    manifest_path: Path,
    *,
    model: str,
    output: Path,
    choices: Choices,
    options: Json,
    overwrite: bool = False,
    progress: bool = True,
) -> Outcome:
    """Evaluate a model on a split of a manifest, into a folder; `report.DEFINITIONS` says what is measured.

    Several processes with RANK and WORLD_SIZE set share the cases; the last one writes the summary.

    Args:
        manifest_path: CSV of volumes, labels and masks.
        model: A bundle's folder.
        output: Folder of the results; resumed where it holds the same evaluation.
        choices: What is asked for.
        options: ``methods``, ``directions``, ``slices``, ``lattice``, ``filter`` and ``class_name`` of
            `ReconstructionSettings`.
        overwrite: Start anew where another evaluation is.
        progress: Show a bar.

    Returns:
        What to print.

    Raises:
        TonnoError: An option, the model or the manifest is wrong, or no case could be evaluated.
    """
    parts_of(None, choices.min_volume_mm3, choices.min_peak)
    bundle = load_bundle(model)
    if bundle.spec.kind == REGRESSOR:
        raise TonnoError(
            f"`model` {model}: is a regressor; an evaluation compares findings with masks, and a quantity has none: "
            "`tonno reconstruct` writes its heatmap and its prediction (docs/regression.md)"
        )
    all_methods = (SEGMENTER,) if bundle.spec.kind == SEGMENTER else METHODS
    asked = {**options, "methods": options.get("methods") or all_methods}
    settings = bundle.spec.choices.settings(asked)
    class_name = class_of(settings.class_name, bundle.spec.classes)
    classes = bundle.spec.classes
    manifest = read_for_model(manifest_path, classes, wanted=class_name, class_name=settings.class_name, absent=True)
    settings = dataclasses.replace(settings, class_name=_recorded_class(output, class_name, classes, settings))
    unsplit = _without_split(manifest, choices.split, bundle, class_name)
    numbered = tasks_of(manifest, choices.split)
    content, setup = _prepare(bundle, settings, choices, class_name)
    content, setup = _with_segmenters(content, setup, choices, class_name)
    folder = ResultsFolder(output)
    listed = [[str(part) for part in _row(task)] for _, task in numbered]
    volumes = [(number, task.volume) for number, task in numbered]
    names = folder.take_up(content, listed, volumes, overwrite=overwrite)
    tasks = [dataclasses.replace(task, name=name) for name, (_, task) in zip(names, numbered, strict=True)]
    setup = dataclasses.replace(setup, fingerprint=folder.fingerprint)
    folder.tasks = {task.name: task for task in tasks}
    rank, world = share_of_cases()
    share, shown = tasks[rank::world], progress and rank == 0
    unlike = check_masks([task for task in share if not folder.has(task.name)], progress=shown)
    folder.open(names, names[rank::world])

    def read(task: Task) -> tuple[Files, ReadCase]:
        if not task.volume.exists():
            case = next(case for case in manifest.cases if case.volume == task.volume)
            raise TonnoError(why_absent(manifest_path, case) if case.absent else f"{task.volume}: no such file")
        files = Files()
        with suppress(OSError):  # the evaluation says what is missing
            files = files_of(task)  # before it is read
        return files, read_case(task, setup)

    def work(task: Task, advanced: Progress, get: Callable[[], tuple[Files, ReadCase]]) -> None:
        folder.drop(task.name)
        files, case = get()
        record, tile = evaluate_case(task, setup, case, advanced)
        warnings = tuple(map(as_options, record.warnings))
        folder.save(dataclasses.replace(record, warnings=warnings, files=files), tile)

    run_cases(share, folder, work, read=read, label="evaluating", progress=shown, reworded=as_options)
    records, failures, missing = folder.gather(names)
    if missing:
        here = len(names[rank::world])
        return Outcome(f"{here} of {count_of(len(tasks), 'case')} done here, {missing} are not done elsewhere yet", "")
    failed = failed_line(failures, len(tasks), "summary.md") if failures else ""
    if not records:
        raise TonnoError(failed)
    text = _write_summary(folder, records, failures, setup, choices.seed)
    notes = [f"{manifest_path}: {note}" for note in (*manifest.notes, unsplit, unlike) if note]
    warned = warned_line(sum(bool(record.warnings) for record in records), len(tasks), "summary.md")
    return Outcome("\n".join(filter(None, [*notes, text, warned, folder.left_out(names)])), failed)


def _without_split(manifest: Manifest, split: str, bundle: Bundle, class_name: str) -> str:
    """Say that a list without a split is evaluated whole; raise TonnoError where it is the list of the training."""
    if manifest.has_split or split == ALL:
        return ""
    training = bundle.spec.training
    try:
        divided = split_patients(manifest, seed=int(training["settings"]["seed"]))
        known = {part: training["volumes"][part][class_name] for part in ("train", "val")}
    except (KeyError, TypeError, ValueError):  # a model that was not trained here
        divided, known = manifest, {}
    counts = {}
    for part in known:
        labels = [case.labels[0] for case in divided.split(part)]
        counts[part] = {"positive": sum(labels), "negative": len(labels) - sum(labels)}
    if known and counts == known:
        seen = sum(sum(part.values()) for part in counts.values())
        raise TonnoError(
            f"{manifest.path}: gives no split, and looks like the list that the model was trained on: {seen} of its "
            f"{len(manifest.cases)} volumes would be those of the training. Evaluate the list with the split that "
            "training made, split.csv in the run's folder (usually MODEL-run); or all volumes, by `split` all, if this "
            "is another list"
        )
    return f"gives no split: all volumes are evaluated ({len(manifest.cases)}); none should be of the model's training"


def tasks_of(manifest: Manifest, split: str) -> list[tuple[int, Task]]:
    """Return the volumes of a split with the labels and masks of a manifest's only class.

    Args:
        manifest: Of all volumes.
        split: Its name, or ``all``; a manifest without splits is taken whole.

    Returns:
        What to evaluate, in the manifest's order, each with its number there; names are given later.

    Raises:
        TonnoError: The manifest has no volume in the split.
    """
    used = not manifest.has_split or split == ALL
    numbered = [(n, case) for n, case in enumerate(manifest.cases, start=1) if used or case.split == split]
    if not numbered:
        counts = ", ".join(f"{len(manifest.split(name))} in {name}" for name in ("train", "val", "test"))
        raise TonnoError(f"{manifest.path}: no volume in split {split} ({counts}); choose another by `split`")
    return [
        (
            number,
            Task(
                name="",
                volume=case.volume,
                label=case.labels[0],
                mask=case.masks[0],
                patient=case.patient,
                values=case.values_of(0),
            ),
        )
        for number, case in numbered
    ]


def _recorded_class(
    output: Path, class_name: str, classes: Sequence[str], settings: ReconstructionSettings
) -> str | None:
    """Return the class as ``settings.json`` states it: the first one by its name or not at all, as is there already."""
    if class_name != classes[0]:
        return class_name
    try:
        kept = made_of(Json, read_record(output / SETTINGS_NAME).get("settings"), "settings")["class_name"]
    except (OSError, ValueError, KeyError):
        return settings.class_name
    return class_name if kept == class_name else None


def _prepare(bundle: Bundle, settings: ReconstructionSettings, choices: Choices, class_name: str) -> tuple[Json, Setup]:
    """Return what this evaluation is, as ``settings.json`` states it but for its list, and what its cases share."""
    model = prepare_model(bundle, settings, device_of_process(choices.device), choices.precision)
    if bundle.spec.kind == SEGMENTER:
        for name in ("stages", "all_candidates"):
            if getattr(choices, name):
                raise TonnoError(f"`{name}` has no meaning for a segmenter, which looks at no planes; leave it out")
        rows = dict([segmenter_row(bundle.spec, dataclasses.replace(settings, class_name=class_name))])
    else:
        index = bundle.spec.classes.index(class_name)
        rows = rows_of(
            bundle.spec.choices,
            settings,
            stages=_stages(model, bundle, class_name, choices.stages),
            standard=standard_stage(model.classifier(), index, model.slice_size),
            all_candidates=choices.all_candidates,
        )
    variants: dict[Variant, str] = {}
    for name, row in rows.items():
        variants.setdefault(row.variant, name)
    named = {name: variant for variant, name in variants.items()}
    run = decide(settings, model, variants=named, classes=(class_name,))
    content = {
        "tonno": tonno_core.__version__,
        "model": model_record(bundle),
        "split": choices.split,
        "class": class_name,
        "min_volume_mm3": choices.min_volume_mm3 or 0.0,
        **peak_record(choices.min_peak),
        "device": model.device.type,
        "precision": str(model.precision).removeprefix("torch."),
        "settings": settings.record(),
        "rows": {name: row.record() for name, row in rows.items()},
    }
    content = json.loads(json.dumps(content))  # as it will be read: tuples are lists
    best = tuple(name for name, row in rows.items() if row.best)
    shown = tuple(name for name in best if name != "center") or best  # which is blind to the image
    return content, Setup(model, run, rows, shown, choices.min_volume_mm3, "", min_peak=choices.min_peak)


def _with_segmenters(content: Json, setup: Setup, choices: Choices, class_name: str) -> tuple[Json, Setup]:
    """Return an evaluation with a row for each segmenter that is compared with the model."""
    rows, models, identities = dict(setup.rows), {}, {}
    for text in choices.segmenters:
        given, separator, folder = text.partition("=")
        bundle = load_bundle(folder if separator else text)
        if bundle.spec.kind != SEGMENTER:
            raise TonnoError(f"`segmenters` {text}: is a {bundle.spec.kind}, expected a segmenter (`tonno distill`)")
        if class_name not in bundle.spec.classes:
            known = ", ".join(bundle.spec.classes)
            raise TonnoError(f"`segmenters` {text}: has no class '{class_name}', which is evaluated; it has {known}")
        settings = bundle.spec.choices.settings({"class_name": class_name})
        name, row = segmenter_row(bundle.spec, settings)
        name = given.strip() if separator else name
        if not name or name in rows:
            raise TonnoError(
                f"`segmenters` {text}: there is a row '{name}' already; give NAME=BUNDLE with another name"
            )
        ready = prepare_model(bundle, settings, device_of_process(choices.device), choices.precision)
        rows[name] = dataclasses.replace(row, model=name)
        models[name] = ready, decide(settings, ready, variants={name: row.variant}, classes=(class_name,))
        identities[name] = model_record(bundle)
    if not models:
        return content, setup
    content = {**content, "segmenters": identities, "rows": {name: row.record() for name, row in rows.items()}}
    content = json.loads(json.dumps(content))
    return content, dataclasses.replace(setup, rows=rows, segmenters=models, shown=(*setup.shown, *models))


def model_record(bundle: Bundle) -> Json:
    """Return what tells models of evaluations apart.

    Args:
        bundle: The model.

    Returns:
        As JSON holds it.
    """
    return {"encoder": bundle.spec.encoder, "sha256": bundle.spec.sha256, **bundle.spec.more_than_default()}


def _row(task: Task) -> tuple[object, ...]:
    stated = () if task.values is None else (values_text(task.values),)
    return task.volume, task.label, task.mask or "", task.patient, *stated


def _stages(
    model: ReadyModel, bundle: Bundle, class_name: str, asked: Sequence[tuple[int, ...]] | None
) -> list[tuple[int, ...]]:
    """Return the stages asked for, else all on which the class's logit depends and those that calibration added up."""
    if asked is None:
        return []
    tried = bundle.spec.choices.tried_variants(class_name)
    added = sorted({variant.stages for variant in tried if len(variant.stages) > 1})
    index = bundle.spec.classes.index(class_name)
    encoder = model.classifier()
    for stages in asked:
        check_stages(stages, encoder, index, model.slice_size)
        if len(stages) > 1 and stages not in added:
            known = ", ".join(map(stages_text, added)) or "none"
            text = stages_text(stages)
            raise TonnoError(f"`stage` {text}: the model's calibration added up {known}; see `tonno calibrate`")
    if asked:
        return sorted(set(asked))
    single = encoder.stages_with_maps(index, model.slice_size)
    return [*((stage,) for stage in single), *added]


def _write_summary(
    folder: ResultsFolder,
    records: Sequence[CaseRecord],
    failures: Mapping[str, str],
    setup: Setup,
    seed: int,
) -> str:
    """Write all files about all cases; return the table for the terminal."""
    content = {name: value for name, value in folder.content.items() if name not in ("run", "cases")}
    variants = {name: (row.variant, row.best) for name, row in setup.rows.items()}
    summary = summarize(records, variants, seed=seed, failures=failures)
    facts = _facts(content, setup.rows, seed)
    title = f"Evaluation of class {content['class']}"
    folder.write("results.csv", results_csv(records, variants))
    folder.write("summary.csv", summary_csv(summary))
    written = dataclasses.asdict(summary)
    written["rows"] = [{**dataclasses.asdict(row), "variant": row.variant.record()} for row in summary.rows]
    folder.write_json("summary.json", {"seed": seed, **written, "evaluation": content})
    folder.write("summary.md", markdown(summary, title=title, facts=facts))
    entries = [entry_of(record, functools.partial(folder.tile, record.case)) for record in records]
    entries = [dataclasses.replace(entry, window=shown_window(setup.run.intensity)) for entry in entries]
    what = "; ".join(facts[name] for name in ("model", "planes") if name in facts)
    write_sheets(folder.path, entries, title=title, subtitle=f"{what}. Not for diagnosis.")
    return f"{terminal_table(summary)}\nwritten to {folder.path}"


def _smallest(stated: float, rows: Mapping[str, Row]) -> str:
    """Say which components count; each segmenter may bring a volume of its own where none was stated."""
    own = {name: row.min_volume_mm3 for name, row in rows.items() if row.min_volume_mm3 and not stated}
    return ", ".join([f"{stated:g} mm3", *(f"of {name} {volume:g} mm3" for name, volume in own.items())])


def _lowest_peaks(stated: float | str | None, rows: Mapping[str, Row]) -> dict[str, str]:
    """Say what a component's highest value must reach, where that is asked for, or a segmenter says so."""
    if stated is not None:
        return {"lowest peak of a component": str(stated)}
    own = [f"of {name} {row.min_peak:g}" for name, row in rows.items() if row.min_peak is not None]
    return {"lowest peak of a component": ", ".join(own)} if own else {}


def _facts(content: Json, rows: Mapping[str, Row], seed: int) -> dict[str, str]:
    settings, model = content["settings"], content["model"]
    directions = {settings["directions"], settings["cam_directions"] or settings["directions"]}
    many = " and ".join(str(count) for count in sorted(directions))
    facts = {
        "model": f"{model['encoder']}, weights {model['sha256'][:12]}",
        "planes": f"{many} directions, {settings['slices']} slices each, {settings['lattice']}, {settings['frame']}",
        "cases": f"split {content['split']}, manifest rows {content['manifest']['sha256'][:12]}",
        "smallest component": _smallest(content["min_volume_mm3"], rows),
        **_lowest_peaks(content.get(MIN_PEAK), rows),
        "computed": f"tonno {content['tonno']}, {content['device']}, {content['precision']}, bootstrap seed {seed}",
    }
    for name, other in content.get("segmenters", {}).items():
        facts[name] = f"{other['encoder']}, weights {other['sha256'][:12]}"
    if settings["cam"] != ReconstructionSettings().cam:
        facts["activation maps"] = settings["cam"]
    if model.get("kind") == SEGMENTER:
        del facts["planes"]
    without = sum(row.threshold is None for row in rows.values())
    if without:
        facts["thresholds"] = (
            f"{without} of {count_of(len(rows), 'row')} without one from the model use Otsu's: last table"
        )
    return facts
