"""`tonno train`: manifest in, bundle out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from tonno_core.bundle.file import Bundle, BundleSpec, check_can_write, save_bundle
from tonno_core.cohort.manifest import (
    DEFAULT_CLASS,
    Manifest,
    further_columns,
    read_manifest,
    require_trainable,
    write_manifest,
)
from tonno_core.cohort.split import split_patients
from tonno_core.commands.calibrate import calibrate_bundle, summary_of
from tonno_core.distributed import processes, world_size
from tonno_core.errors import TonnoError, is_out_of_memory, rename
from tonno_core.output import Json
from tonno_core.settings import REGRESSOR_DEFAULTS, model_defaults
from tonno_core.training.calibration import Search
from tonno_core.training.look import Look
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.settings import TrainingSettings, check_shares
from tonno_core.training.steps import TrainingInterrupted
from tonno_core.training.train import check_trainable, train
from tonno_core.volume.intensity import check_channels
from tonno_core.volume.io import read_header


@dataclass(frozen=True)
class Destination:
    """Where a training writes, and what may be there already.

    Attributes:
        output: Folder of the bundle.
        run: Folder of the run; None for a folder beside ``output`` with ``-run`` appended.
        resume: Go on from the run's checkpoint, if there is one.
        overwrite: Replace a bundle and a run.
        half: Store the weights as float16.
    """

    output: Path
    run: Path | None = None
    resume: bool = False
    overwrite: bool = False
    half: bool = False

    @property
    def run_folder(self) -> Path:
        """Return the folder of the run."""
        output = self.output if self.output.name not in ("", "..") else self.output.resolve()
        return self.run or output.parent / f"{output.name}-run"

    def check(self) -> None:
        """Check that a bundle and a run can be written.

        Raises:
            TonnoError: If something is in the way, or the choices contradict each other.
        """
        if self.resume and self.overwrite:
            raise TonnoError("`resume` and `overwrite`: expected one of them, to go on or to begin again")
        if self.run_folder.resolve().is_relative_to(self.output.resolve()):
            raise TonnoError(
                f"`run` {self.run_folder}: lies in `output` {self.output}, which holds the model alone; "
                "choose another place"
            )
        check_can_write(self.output, overwrite=self.overwrite or self.resume)


@dataclass(frozen=True)
class Ending:
    """How a training ends: the calibration of its model.

    Attributes:
        planes: Settings of the reconstructions that the thresholds are for, by name; the rest is chosen.
        stages: To choose among; empty for all that give maps.
        calibrate: Whether to calibrate at all.
        presets: Whether to measure the thresholds for the planes of presets as well.
    """

    planes: Json = field(default_factory=dict)
    stages: tuple[int, ...] = ()
    calibrate: bool = True
    presets: bool = True

    def check(self) -> None:
        """Check that the choices agree.

        Raises:
            TonnoError: They contradict each other.
        """
        if self.stages and not self.calibrate:
            raise TonnoError("`calibrate_stages` and `no_calibrate`: expected one of them, nothing is chosen without")
        if self.stages and "stage" in self.planes:
            raise TonnoError("`stage` and `calibrate_stages`: expected one of them, the stage itself or the choice")

    def check_stages(self, settings: TrainingSettings) -> tuple[str, ...]:
        """Check that a network can be trained, and has the stages.

        Args:
            settings: How to train.

        Returns:
            What is worth saying of the weights that training starts from, and of the norm.

        Raises:
            TonnoError: It cannot, or has not.
        """
        stages = self.stages or ((self.planes["stage"],) if "stage" in self.planes else ())
        try:
            return check_trainable(settings, stages)
        except TonnoError as error:
            names = {"stage": "`calibrate_stages`"} if self.stages else {}
            raise TonnoError(rename(str(error), names)) from error


def train_bundle(
    manifest_path: Path,
    destination: Destination,
    settings: TrainingSettings,
    *,
    class_name: str = "finding",
    calibration: Ending | None = None,
    about: Mapping[str, str] | None = None,
    progress: bool = True,
) -> str:
    """Train, write the bundle, and calibrate it on the validation volumes. Under torchrun all processes call this.

    Args:
        manifest_path: CSV file of volumes and labels.
        destination: Where to write.
        settings: How to train; the manifest tells the classes.
        class_name: Name of the class that label 1 means.
        calibration: How the model is calibrated; None for the standard planes, and all stages.
        about: What the bundle shall tell a person.
        progress: Show bars.

    Returns:
        Summary for a person; empty but on the first process.

    Raises:
        TonnoError: If anything that was asked for, or a volume, cannot be used.
        TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
    """
    ending = calibration or Ending()
    destination.check()
    ending.check()
    if settings.target:
        ending = _of_a_regressor(ending, class_name)
    planes, overwrite = ending.planes, destination.overwrite
    manifest = read_manifest(manifest_path, class_name=class_name, target=settings.target)
    settings = dataclasses.replace(settings, classes=manifest.classes)
    check_shares(world_size(), settings.volumes_per_batch, settings.norm)
    taken = ending.check_stages(settings)
    of_kind = REGRESSOR_DEFAULTS if settings.target else {}
    defaults = model_defaults(**{"frame": settings.frame, **of_kind, **planes})
    divided = manifest if manifest.has_split else split_patients(manifest, seed=settings.seed)
    require_trainable(divided)
    _check_first(divided, settings.intensity)
    folder = RunFolder(destination.run_folder, settings, divided)
    folder.check(resume=destination.resume, overwrite=overwrite)
    with processes(settings.device) as group:
        if group.first:
            folder.open(overwrite=overwrite)
            write_manifest(folder.split, divided, further_columns(divided))
            for note in manifest.notes:
                tqdm.write(f"{manifest_path}: {note}", file=sys.stderr)
            for note in taken:
                tqdm.write(note, file=sys.stderr)
        group.wait()
        model = train(divided, settings, folder, group, progress=progress)
    if not group.first:
        return ""
    output, half = destination.output, destination.half
    spec = dataclasses.replace(model.spec, defaults=defaults, about=dict(about or {}))
    # Before the calibration, so that nothing which happens there loses the training.
    spec = save_bundle(output, spec, model.weights, half=half, overwrite=overwrite or destination.resume)
    if ending.calibrate:
        look = Look(settings.device, settings.precision, progress, kept=folder.calibration)
        with _told(destination):
            spec = calibrate_bundle(
                Bundle(spec, model.weights, output),
                divided,
                planes,
                Search(stages=ending.stages, presets=ending.presets),
                look,
            )
            save_bundle(output, spec, model.weights, half=half, overwrite=True)
    folder.finish()
    manifest_path = manifest_path if manifest.has_split else folder.split
    return _summary(
        spec, output, folder, None if ending.calibrate else manifest_path, split_made=not manifest.has_split
    )


def _check_first(manifest: Manifest, intensity: str) -> None:
    """Check the channels of the first volume, before all of them are measured."""
    path = manifest.split("train")[0].volume
    try:
        check_channels(read_header(path).channels, intensity)
    except TonnoError as error:
        told = str(error)
        raise TonnoError(told if told.startswith(str(path)) else f"{path}: {told}") from error


def _of_a_regressor(ending: Ending, class_name: str) -> Ending:
    """Return how the training of a regressor ends: without a calibration, which looks for thresholds of findings."""
    if class_name != DEFAULT_CLASS:
        raise TonnoError("`target` and `class_name`: expected one of them, a column of numbers or the name of a class")
    if ending.stages:
        raise TonnoError("`calibrate_stages` has no meaning for a regressor, which has no findings; give `stage`")
    return dataclasses.replace(ending, calibrate=False)


@contextmanager
def _told(destination: Destination) -> Iterator[None]:
    """Say where the model is, and how to go on, where its calibration ends early."""
    resume = "`resume` in place of `overwrite`" if destination.overwrite else "`resume`"
    written = (
        f"the model is written to {destination.output}, without thresholds; the same command with {resume} goes on "
        "with its calibration"
    )
    try:
        yield
    except KeyboardInterrupt:
        raise TrainingInterrupted(f"interrupted while calibrating; {written} where it stopped") from None
    except (TonnoError, MemoryError, RuntimeError) as error:
        if not isinstance(error, TonnoError) and not is_out_of_memory(error):
            raise
        reason = error if isinstance(error, TonnoError) else "out of memory while calibrating"
        raise TonnoError(f"{reason}; {written}") from error


def _summary(spec: BundleSpec, output: Path, folder: RunFolder, uncalibrated: Path | None, *, split_made: bool) -> str:
    """Return what a person should know of a model; ``uncalibrated`` is the manifest of one that was not calibrated."""
    record = spec.training
    lines = [f"loss at the end {record['final_loss']}, {record['seconds']:.0f} s"]
    if spec.quantity is not None:
        lines += _told_of_numbers(spec)
    elif "validation" in record:
        areas = record["validation"]
        lines.append(f"validation on random slices: slice AUC {areas['slice_auc']}, volume AUC {areas['volume_auc']}")
    if uncalibrated is None:
        lines += summary_of(spec)
    elif spec.quantity is None:
        lines.append(
            "not calibrated: the model has no thresholds, `threshold` auto will be Otsu's; "
            f"`tonno calibrate` finds some, of {output} and {uncalibrated}"
        )
    if split_made:
        lines.append(f"the manifest gives no split: one by patient was made, {folder.split}")
    lines.append(f"curves and metrics in {folder.path}")
    lines.append(f"written to {output}")
    return "\n".join(lines)


def _told_of_numbers(spec: BundleSpec) -> list[str]:
    """Return what a person should know of a regressor's answers."""
    assert spec.quantity is not None
    quantity, found = spec.quantity, spec.training.get("validation", {})
    spread = f"{quantity.name}: mean {quantity.mean:.4g}, standard deviation {quantity.sd:.4g} in split train"
    texts = {name: "-" if value is None else f"{value:.4g}" for name, value in found.items()}
    told = "Pearson {pearson}, Spearman {spearman}, R2 {r2}, mean absolute error {mae}, slope {slope}"
    told = told.format(**texts) if found else ""
    return [spread, *([f"validation, mean of random slices: {told}"] if told else [])]
