"""Every command that writes, on toy scans: what it is given, and given again after it was disturbed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.commands.test_dicom import write_series
from tests.datasets.test_prepare import write_halves
from tests.datasets.trees import write_autopet
from tests.networks import random_network, spec_of
from tests.training.toy import toy_scan
from tonno_core import cli
from tonno_core.bundle.file import save_bundle
from tonno_core.pictures.drawing import Scene
from tonno_core.slicing.profile import Profile
from tonno_core.volume.io import write_volume
from tonno_core.volume.volume import Forms, Volume
from tonno_core.worker.exports import Export, Picture
from tonno_core.worker.failures import failure_of
from tonno_core.worker.job import Job
from tonno_core.worker.session import Session

_CPU = ("--device", "cpu", "--precision", "float32")
_PLANES = ("--slices", "10", "--directions", "6", *_CPU)
_TRAINING = ("--encoder", "test_resnet", "--slice-size", "32", "--volumes-per-batch", "2", "--slices-per-volume", "2",
             "--steps", "4", "--epochs", "2", "--no-calibrate", *_CPU)  # fmt: skip
_DISTILLING = ("--slices", "6", "--directions", "4", "--method", "averaged-cam", "--spacing-mm", "8", "--patch", "8",
               "--steps", "4", "--epochs", "2", *_CPU)  # fmt: skip
# Without it a command refuses the results that a run has finished whose process was ended a moment later.
_REPLACING = "--overwrite"


@dataclass(frozen=True)
class Command:
    """A command, given in a folder where ``material`` has scans and models; it writes to ``out``.

    Attributes:
        name: In tables.
        run: Does it and ends with status 0, or 2 after one line of what went wrong.
        resumed: Whether it goes on where it was stopped.
    """

    name: str
    run: Callable[[], int]
    resumed: bool = False


def _typed(*words: str) -> Callable[[], int]:
    def run() -> int:
        try:
            cli.main(list(words))
        except SystemExit as end:
            return int(end.code or 0)
        return 1

    return run


def _asked(*requests: Callable[[], dict[str, Any]]) -> Callable[[], int]:
    """What the Slicer module asks of the worker, one request after another in one session."""

    def run() -> int:
        session, out = Session(), Path("out")
        for request in requests:
            job = Job(1, {"folder": str(out), **request()}, lambda kind, identifier, **more: None)
            try:
                out.mkdir(exist_ok=True)  # as the module does
                session.compute(job)
            except Exception as error:
                failure = failure_of(error)  # prints the traceback of a bug
                print(f"tonno: {failure.message}", file=sys.stderr)
                return 2
        return 0

    return run


def _reconstruct() -> dict[str, Any]:
    volume = {"array": "material/scan.npy", "ijk_to_ras": np.diag([4.0, 4.0, 4.0, 1.0]).tolist()}
    return {"type": "reconstruct", "volume": volume, "model": "material/model", "device": "cpu",
            "precision": "float32", "options": {"slices": 12, "directions": 8}, "preview": True}  # fmt: skip


def _refine() -> dict[str, Any]:
    return {"type": "refine", "options": {"sigma_scale": 2.0}}


def _export() -> dict[str, Any]:
    return {"type": "export", **json.loads(Path("material/export.json").read_text())}


COMMANDS = [
    Command("reconstruct", _typed("reconstruct", "material/0.nii.gz", "--model", "material/model", "--output", "out",
                                  _REPLACING, *_PLANES)),
    Command("reconstruct --format dicom", _typed("reconstruct", "material/series", "--model", "material/model",
                                                 "--output", "out", "--format", "dicom", _REPLACING, *_PLANES)),
    Command("reconstruct cohort.csv", _typed("reconstruct", "material/cohort.csv", "--model", "material/model",
                                             "--output", "out", "--threshold", "otsu", *_PLANES), resumed=True),
    Command("train", _typed("train", "material/all.csv", "--output", "out/model", "--resume", *_TRAINING),
            resumed=True),
    Command("calibrate", _typed("calibrate", "material/model", "material/all.csv", "--output", "out", "--stage", "3",
                                _REPLACING, "--no-presets", *_PLANES)),
    Command("evaluate", _typed("evaluate", "material/all.csv", "--model", "material/model", "--output", "out",
                               "--stage", "3", *_PLANES), resumed=True),
    Command("distill", _typed("distill", "material/all.csv", "--model", "material/model", "--output", "out/model",
                              "--resume", *_DISTILLING), resumed=True),
    Command("prepare autopet", _typed("prepare", "autopet", "material/autopet", "--output", "out"),
            resumed=True),
    Command("prepare halves", _typed("prepare", "halves", "material/halves", "--output", "out"),
            resumed=True),
    Command("bundle", _typed("bundle", "--encoder", "test_resnet", "--weights", "none", "--slice-size", "32",
                             "--channels", "1", "--classes", "a,b", "--activation", "softmax", "--intensity", "none",
                             "--mean", "0", "--std", "1", "--output", "out", _REPLACING)),
    Command("features", _typed("features", "material/0.nii.gz", "--model", "material/model", "--output", "out",
                               _REPLACING, *_PLANES)),
    Command("reproduce fig8", _typed("reproduce", "fig8", "material/all.csv", "--model", "material/model", "--output",
                                     "out", "--slices", "12", "--directions", "16", *_CPU), resumed=True),
    Command("reproduce table2", _typed("reproduce", "table2", "material/all.csv", "--model", "material/model",
                                       "--output", "out", "--baseline", "averaged-cam", "--slices", "12",
                                       "--directions", "16", *_CPU), resumed=True),
    Command("phantoms", _typed("phantoms", "out", "--count", "4", "--spacing-mm", "8", _REPLACING)),
    Command("worker: reconstruct, refine", _asked(_reconstruct, _refine), resumed=True),
    Command("worker: export", _asked(_export)),
]  # fmt: skip


def write_material(folder: Path) -> None:
    """Write scans, lists of them, and models."""
    folder.mkdir(parents=True)
    listed = ["volume,label,mask,patient,split"]
    for index in range(10):
        scan, label, split = toy_scan(index, index % 2), index % 2, ("train", "val", "test")[min(index // 4, 2)]
        write_volume(scan, folder / f"{index}.nii.gz")
        if label:
            write_volume(scan.with_array(scan.array > 200), folder / f"{index}-mask.nii.gz", dtype="uint8")
        listed.append(f"{index}.nii.gz,{label},{f'{index}-mask.nii.gz' if label else ''},p{index},{split}")
    (folder / "all.csv").write_text("\n".join([*listed, ""]))
    np.save(folder / "scan.npy", toy_scan(1, 1).array)
    write_volume(toy_scan(1, 1), folder / "pair.nii")  # beside which ITK needs another name for the next
    write_volume(toy_scan(1, 1), folder / "pair.nii.gz")
    (folder / "cohort.csv").write_text("\n".join(["volume", "pair.nii.gz", "0.nii.gz", "2.nii.gz", ""]))
    write_series(folder / "series")
    write_autopet(folder / "autopet", patients=4)
    write_halves(folder / "halves")
    thresholds = {"matched-cam": {"threshold": 0.25, "settings": {"filter": "hann"}}}
    network = random_network("test_resnet")  # timm's smallest
    save_bundle(folder / "model", spec_of("test_resnet", thresholds=thresholds), network.state_dict())
    _write_export(folder)


def _write_export(folder: Path) -> None:
    matrix = np.diag([1.0, 2.0, 3.0, 1.0])
    rows = tuple(matrix[:3].ravel().tolist())
    forms = Forms(1, 2, 10, (1.0, 1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), rows)
    heatmap = Volume(np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32), matrix, forms)
    scene = Scene(heatmap.with_array(100 * heatmap.array), heatmap, (heatmap.array > 1).astype(np.uint8), 1.0)
    pictures = tuple(Picture(f"{name}.png", (3.0, 4.0, 6.0)) for name in "ab")
    profile = Profile("R", np.arange(5.0), np.arange(5.0) ** 2)
    (folder / "export").mkdir()
    fields = Export(heatmap, "h.nii.gz", scene, pictures, (profile,), "p.png").fields(folder / "export")
    (folder / "export.json").write_text(json.dumps(fields))
