"""`tonno reconstruct` of many volumes: a folder for each, and tables and pictures of all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tonno_core
from tonno_core.bundle.calibration import ABOVE_HALF_PEAK, MIN_PEAK, MIN_VOLUME
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.bundle.ready import Compiled
from tonno_core.cohort.cases import SETTINGS_NAME, CasesFolder, Outcome, Progress, run_cases
from tonno_core.cohort.find import find_volumes
from tonno_core.cohort.manifest import Listed, read_volumes, why_absent
from tonno_core.cohort.places import LIST_ENDINGS
from tonno_core.cohort.source import content_of, newest, source_of
from tonno_core.commands import dicom
from tonno_core.commands.case_report import CaseReport, load_report
from tonno_core.commands.cohort_summary import PLANES, SUMMARY_NAMES, Done, write_planes, write_summary
from tonno_core.commands.options import as_options
from tonno_core.commands.reconstruct import Scan, reconstruct_into
from tonno_core.commands.request import Compute, Options, PreparedRun, model_identity, prepare, read_options
from tonno_core.distributed import device_of_process, share_of_cases
from tonno_core.errors import TonnoError
from tonno_core.output import Json, remove_abandoned, write_text
from tonno_core.reconstruction.run import get_ready
from tonno_core.volume.io import read_volume
from tonno_core.words import count_of

REPORT = "report.json"
_FILES = ("heatmap-*", "segmentation-*", "overview.png", PLANES, REPORT)


@dataclass(frozen=True)
class Task:
    """A volume of the cohort.

    Attributes:
        name: Of its case.
        listed: The volume, with what its list says of it.
    """

    name: str
    listed: Listed


class CohortFolder(CasesFolder):
    """``cases/NAME/`` holds what a run of one volume writes; its report says of which cohort, and which file, it is."""

    kind = "cohort"
    summary_names = SUMMARY_NAMES

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.volumes: dict[str, Path] = {}

    def has(self, name: str) -> bool:
        """Return whether a case is done, and its volume is still the one that was read.

        Args:
            name: Of the case.

        Returns:
            False where it is to be done. A result whose volume is gone stays.
        """
        found, volume = self._read(name), self.volumes[name]
        if found is None:
            return False
        remove_abandoned(self.cases / name)  # of a process that was killed while it wrote the planes, after all else
        if not volume.exists():
            return True
        report, content = found
        with suppress(OSError):
            if not report.source:  # written by an earlier build: the times tell
                return newest(volume) <= (self.cases / name / REPORT).stat().st_mtime
            source = source_of(volume)
            if report.source != source and report.content == content_of(volume):  # moved, or copied
                content["source"] = source
                write_text(self.cases / name / REPORT, json.dumps(content, indent=2, allow_nan=False) + "\n")
                return True
            return report.source == source
        return False

    def content_of_case(self, name: str) -> str | None:
        """Return what a case's results are of.

        Args:
            name: Of the case.

        Returns:
            See `CasesFolder`.
        """
        report = self.report(name)
        return None if report is None else report.content

    def clear(self, keep: set[str]) -> None:
        """Remove the results of cases.

        Args:
            keep: Names of those that stay.
        """
        for folder in self.cases.iterdir():
            if folder.is_dir() and folder.name not in keep:
                for pattern in _FILES:
                    for file in folder.glob(pattern):
                        file.unlink(missing_ok=True)
                with suppress(OSError):  # holds other files
                    folder.rmdir()

    def report(self, name: str) -> CaseReport | None:
        """Read a case's report.

        Args:
            name: Of the case.

        Returns:
            The report, None where the case is not done.

        Raises:
            TonnoError: The file is damaged.
        """
        found = self._read(name)
        return None if found is None else found[0]

    def _read(self, name: str) -> tuple[CaseReport, Json] | None:
        return load_report(self.cases / name / REPORT, self.fingerprint)


def reconstruct_cohort(
    places: Sequence[Path],
    output: Path,
    options: Options,
    compute: Compute,
    *,
    overwrite: bool = False,
    ask: bool = True,
    progress: bool = True,
) -> Outcome:
    """Reconstruct many volumes, by one model that is loaded once.

    Resumes a folder whose settings are the same, whatever has become of the list; a volume whose file has changed since
    is done again, and one that is missing is a case that failed. Several processes with RANK and WORLD_SIZE set share
    the cases; the last one writes the summary.

    Args:
        places: A CSV with a column ``volume``; or folders, patterns and files, see `find_volumes`.
        output: Folder of the cohort.
        options: Of the command line.
        compute: Where.
        overwrite: Start anew where another cohort is.
        ask: Refuse to begin where scans would get thresholds of their own because the model has none.
        progress: Show a bar.

    Returns:
        What to print.

    Raises:
        TonnoError: An option or the manifest is wrong, the model has no threshold and none is asked for, or the folder
            holds another cohort.
    """
    request = read_options(options)
    notes: list[str] = []
    listed = _listed(places, notes)
    rank, world = share_of_cases()
    runs = -(-len(listed) // world)
    prepared = prepare(request, dataclasses.replace(compute, device=device_of_process(compute.device)), runs)
    folder = CohortFolder(output)
    volumes = [(number, volume.volume) for number, volume in enumerate(listed, start=1)]
    content = _content(prepared, compute.compiled)
    names = folder.take_up(content, [str(volume) for _, volume in volumes], volumes, overwrite=overwrite)
    if ask and (overwrite or not (output / SETTINGS_NAME).is_file()):
        _require_thresholds(prepared)
    tasks = [Task(name, volume) for name, volume in zip(names, listed, strict=True)]
    folder.volumes = {task.name: task.listed.volume for task in tasks}
    share = tasks[rank::world]
    folder.open(names, [task.name for task in share])

    def read(task: Task) -> Scan:
        volume = task.listed.volume
        if not volume.exists():
            of_list = task.listed.absent and _is_list(places)
            raise TonnoError(why_absent(places[0], task.listed) if of_list else f"{volume}: no such file or folder")
        if request.options.file_format == dicom.FORMAT:
            dicom.check_places(volume, folder.cases / task.name)
        # Before it is read.
        identity = {"run": folder.fingerprint, "source": source_of(volume), "content": content_of(volume)}
        intensity = prepared.run.intensity
        image = read_volume(volume, replace_nonfinite=request.options.replace_nonfinite, intensity=intensity)
        return Scan(volume, get_ready(image, prepared.run), identity)

    def work(task: Task, advanced: Progress, get: Callable[[], Scan]) -> None:
        volume, place = task.listed.volume, folder.cases / task.name
        for name in (REPORT, PLANES):  # of what the file was before; should it fail now, nothing is reported
            (place / name).unlink(missing_ok=True)
        reconstruct_into(place, get(), prepared, progress=advanced, overwrite=place.exists())
        write_planes(place, volume, list(prepared.run.targets[0].variants))

    shown = progress and rank == 0
    run_cases(share, folder, work, read=read, label="reconstructing", progress=shown, reworded=as_options)
    outcome = _outcome(folder, tasks, len(share))
    return dataclasses.replace(outcome, text="\n".join([*notes, outcome.text]))


def _listed(places: Sequence[Path], notes: list[str]) -> tuple[Listed, ...]:
    return read_volumes(places[0], absent=True) if _is_list(places) else find_volumes(places, notes)


def _is_list(places: Sequence[Path]) -> bool:
    return len(places) == 1 and places[0].suffix.lower() in LIST_ENDINGS


def _require_thresholds(prepared: PreparedRun) -> None:
    """Ask, before hours of work, where each scan would get a threshold of its own."""
    model, run = prepared.request.model, prepared.run
    target = run.targets[0]
    without = [name for name in target.variants if run.threshold(target, name) is None]
    none_needed = isinstance(model, str) or run.choices.kind == REGRESSOR
    if none_needed or prepared.request.options.threshold != "auto" or not without:
        return
    raise TonnoError(
        f"`model` {prepared.request.options.model}: has no threshold for {', '.join(without)}; which one for all these "
        "scans? `threshold` with a number; or `threshold` otsu, which finds one in each scan, even where it has no "
        "finding; or `tonno calibrate`, which measures the model's own on labelled scans"
    )


def _content(prepared: PreparedRun, compiled: Compiled) -> Json:
    """Return what this run is, as ``settings.json`` states it, but for its list."""
    run, options = prepared.run, prepared.request.options
    target = run.targets[0]
    heatmaps: Json = {}
    for name, variant in target.variants.items():
        known = run.threshold(target, name)
        # Scaled for other planes, where machines may round otherwise.
        heatmaps[name] = {**variant.record(), "threshold": None if known is None else float(f"{known.value:.9g}")}
        if known is not None and ABOVE_HALF_PEAK in known.record:
            heatmaps[name][ABOVE_HALF_PEAK] = known.record[ABOVE_HALF_PEAK]
        if known is not None and known.min_volume_mm3 and options.min_volume_mm3 is None:
            heatmaps[name][MIN_VOLUME] = known.min_volume_mm3
        if known is not None and known.min_peak is not None and options.min_peak is None:
            heatmaps[name][MIN_PEAK] = known.min_peak
    content = {
        "tonno": tonno_core.__version__,
        "model": model_identity(prepared.request.model),
        "device": run.device.type,
        "precision": str(run.precision).removeprefix("torch."),
        "compiled": compiled,
        **prepared.request.record(),
        "heatmaps": heatmaps,
    }
    return dict(json.loads(json.dumps(content)))  # as it will be read: tuples are lists


def _outcome(folder: CohortFolder, tasks: Sequence[Task], here: int) -> Outcome:
    done, missing = [], 0
    for task in tasks:
        report = folder.report(task.name)
        reason = None if report is not None else folder.reason(task.name)
        if report is None and reason is None:
            missing += 1
        done.append(Done(folder.cases / task.name, task.listed, report, reason or ""))
    if missing:
        return Outcome(f"{here} of {count_of(len(tasks), 'case')} done here, {missing} are not done elsewhere yet", "")
    left_out = folder.left_out([task.name for task in tasks])
    outcome = write_summary(folder.path, done)
    return dataclasses.replace(outcome, text="\n".join(filter(None, [outcome.text, left_out])))
