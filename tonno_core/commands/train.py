"""`tonno train`: manifest in, bundle out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tonno_core.bundle.file import Bundle, BundleSpec, check_can_write, save_bundle
from tonno_core.cohort.manifest import read_manifest, require_trainable, write_manifest
from tonno_core.cohort.split import split_patients
from tonno_core.commands.calibrate import calibrate_bundle, summary_of
from tonno_core.distributed import processes, world_size
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.settings import model_defaults
from tonno_core.training.calibration import Look, Search
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.settings import TrainingSettings, check_shares
from tonno_core.training.train import check_trainable, train


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
        return self.run or self.output.with_name(f"{self.output.name}-run")

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


def train_bundle(
    manifest_path: Path,
    destination: Destination,
    settings: TrainingSettings,
    *,
    class_name: str = "finding",
    calibration: Json | None = None,
    about: Mapping[str, str] | None = None,
    progress: bool = True,
) -> str:
    """Train, write the bundle, and calibrate it on the validation volumes. Under torchrun all processes call this.

    Args:
        manifest_path: CSV file of volumes and labels.
        destination: Where to write.
        settings: How to train; the manifest tells the classes.
        class_name: Name of the class that label 1 means.
        calibration: Settings of the reconstructions that the thresholds are for, by name; the rest is chosen.
        about: What the bundle shall tell a person.
        progress: Show bars.

    Returns:
        Summary for a person; empty but on the first process.

    Raises:
        TonnoError: If anything that was asked for, or a volume, cannot be used.
        TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
    """
    destination.check()
    planes, overwrite = calibration or {}, destination.overwrite
    manifest = read_manifest(manifest_path, class_name=class_name)
    settings = dataclasses.replace(settings, classes=manifest.classes)
    check_shares(world_size(), settings.volumes_per_batch, settings.norm)
    taken = check_trainable(settings, planes.get("stage"))
    defaults = model_defaults(**{"frame": settings.frame, **planes})
    divided = manifest if manifest.has_split else split_patients(manifest, seed=settings.seed)
    require_trainable(divided)
    folder = RunFolder(destination.run_folder, settings, divided)
    folder.check(resume=destination.resume, overwrite=overwrite)
    with processes(settings.device) as group:
        if group.first:
            folder.open(overwrite=overwrite)
            if not manifest.has_split:
                write_manifest(folder.split, divided)
            for note in manifest.notes:
                tqdm.write(f"{manifest_path}: {note}", file=sys.stderr)
            if taken:
                tqdm.write(f"weights {settings.weights}: {'; '.join(taken)}", file=sys.stderr)
        group.wait()
        model = train(divided, settings, folder, group, progress=progress)
    if not group.first:
        return ""
    output, half = destination.output, destination.half
    spec = dataclasses.replace(model.spec, defaults=defaults, about=dict(about or {}))
    # Before the calibration, so that nothing which happens there loses the training.
    save_bundle(output, spec, model.weights, half=half, overwrite=overwrite or destination.resume)
    look = Look(settings.device, settings.precision, progress)
    spec = calibrate_bundle(Bundle(spec, model.weights, output), divided, planes, Search(), look)
    save_bundle(output, spec, model.weights, half=half, overwrite=True)
    folder.finish()
    return _summary(spec, output, folder, split_made=not manifest.has_split)


def _summary(spec: BundleSpec, output: Path, folder: RunFolder, *, split_made: bool) -> str:
    record = spec.training
    lines = [f"loss at the end {record['final_loss']}, {record['seconds']:.0f} s"]
    if "validation" in record:
        areas = record["validation"]
        lines.append(f"validation on random slices: slice AUC {areas['slice_auc']}, volume AUC {areas['volume_auc']}")
    lines += summary_of(spec)
    if split_made:
        lines.append(f"the manifest gives no split: one by patient was made, {folder.split}")
    lines.append(f"curves and metrics in {folder.path}")
    lines.append(f"written to {output}")
    return "\n".join(lines)
