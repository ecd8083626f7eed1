"""Parts of `make.py` that need the engine alone. Here the names of commit 350c810 are right, and no others."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import SimpleITK as sitk
from safetensors.numpy import load_file

from . import tiny
from .common import DATA, DEVICE, MODELS, PLANES, emptied, shipped, tonno, voxels, workplace, write_json
from .digest import digest, read_json
from .steps import STEPS
from .talk import Worker, play

# --- scans and their lists


def data() -> None:
    """Eight toy heads, every second one with a lesion and its mask; an oblique one; one with a voxel that is NaN."""
    from tests.analytic import grid_around, make_blobs
    from tests.training.toy import toy_scan
    from tonno_core.volume.io import write_volume

    emptied(DATA)
    for index in range(8):
        scan = toy_scan(index, index % 2)
        write_volume(scan.with_array(scan.array.round()), DATA / f"{index}.nii.gz", dtype="int16")
        if index % 2:
            write_volume(scan.with_array(scan.array > 200), DATA / f"{index}-mask.nii.gz", dtype="uint8")
    shape = (20, 24, 28)
    matrix = grid_around((5, -4, 3), shape, (2.6, 3.0, 3.6), turn_degrees=(10, -15, 20), left_handed=True)
    blobs = make_blobs(3, 6, reach=16.0, sigmas=(6.0, 9.0), centre=np.array([5.0, -4.0, 3.0])).on_grid(shape, matrix)
    rounded = blobs.with_array((1000 * blobs.array).round())
    write_volume(rounded, DATA / "oblique.nii.gz", dtype="int16")
    damaged = toy_scan(1, 1).array[3:13, 3:13, 3:13].round()
    damaged[5, 5, 5] = np.nan
    image = sitk.GetImageFromArray(damaged)  # `write_volume` refuses it
    image.SetSpacing((4.0, 4.0, 4.0))
    sitk.WriteImage(image, str(DATA / "nan.nii.gz"))

    def listed(name: str, header: str, lines: list[str]) -> None:
        (DATA / f"{name}.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")

    listed("cohort", "volume", [f"{n}.nii.gz" for n in (0, 1, 2)])
    listed("unsplit", "volume,label,patient", [f"{n}.nii.gz,{n % 2},p{n}" for n in range(8)])
    masked = [f"{n}.nii.gz,{n % 2},{f'{n}-mask.nii.gz' if n % 2 else ''},p{n},test" for n in range(4)]
    listed("study", "volume,label,mask,patient,split", [*masked, "4.nii.gz,0,,p4,val"])
    both = [f"{n}.nii.gz,{n % 2},{int(n in (1, 2, 4))},p{n}," for n in range(6)]
    listed("classes", "volume,label:a,label:b,patient,split", [f"{line}val" for line in both])
    divided = [f"{line}{'train' if n < 4 else 'val'}" for n, line in enumerate(both)]
    listed("labels", "volume,label:a,label:b,patient,split", divided)


# --- the command line


def options() -> None:
    from tonno_core.cli import cli

    commands = {"": cli, **cli.commands}
    described = {name: [_parameter(each) for each in command.params] for name, command in commands.items()}
    write_json("options.json", described)


def _parameter(parameter: click.Parameter) -> dict[str, Any]:
    kind = parameter.type
    described: dict[str, Any] = {
        "names": [*parameter.opts, *parameter.secondary_opts],
        "argument": isinstance(parameter, click.Argument),
        "type": "custom" if isinstance(kind, click.types.FuncParamType) else kind.name,
        "required": parameter.required,
        "multiple": parameter.multiple,
        "nargs": parameter.nargs,
        "flag": getattr(parameter, "is_flag", False),
        "default": _plain(parameter.to_info_dict()["default"]),
    }
    if isinstance(kind, click.Choice):
        described["choices"] = list(kind.choices)
    for name in ("min", "max"):
        if getattr(kind, name, None) is not None:
            described[name] = getattr(kind, name)
    return {key: value for key, value in described.items() if value is not None and value is not False}


def _plain(value: Any) -> Any:
    """As JSON has it; None where there is no default."""
    value = str(value) if isinstance(value, Path) else value
    return value if isinstance(value, (str, int, float, bool)) else None


# --- models


def models() -> None:
    """A network of two classes, calibrated; all that can be asked of its thresholds; weights drawn by a seed."""
    emptied(MODELS)
    with workplace() as folder:
        tonno(
            "train", "data/labels.csv", "--encoder", tiny.NAME, "--slice-size", 32, "--steps", 120, "--epochs", 1,
            "--volumes-per-batch", 4, "--slices-per-volume", 4, "--seed", 1, "--learning-rate", 0.01, "--stage", 3,
            "--about", "finding=none", "--output", "plain", *PLANES, *DEVICE,
        )  # fmt: skip
        tonno(
            "calibrate", "plain", "data/classes.csv", "--output", MODELS / "calibrated", *CALIBRATE,
        )  # fmt: skip
        tonno("bundle", *RANDOM, "--output", "random")
        drawn = {name: digest(tensor) for name, tensor in load_file(folder / "random/model.safetensors").items()}
        random = read_json(folder / "random/model.json")
    words = {"words": [str(word) for word in RANDOM], "calibrate": [str(word) for word in CALIBRATE]}
    write_json("random.json", {**words, "weights": drawn, "model.json": random})
    write_json("thresholds.json", {"calibrated": thresholds(MODELS / "calibrated"), "shipped": thresholds(shipped())})


CALIBRATE = ["--stage", 2, "--stage", 3, "--quantile", 0.5, *DEVICE]
RANDOM = [
    "--encoder", tiny.NAME, "--weights", "none", "--slice-size", 32, "--classes", "a,b", "--channels", 3, "--norm",
    "group", "--intensity", "window:-100:300", "--seed", 3, "--about", "finding=none",
]  # fmt: skip
ASKED = {
    "stage": (None, 2, 3, "2+3"),
    "filter": (None, "hann", "gaussian"),
    "sigma_scale": (None, 0.5),
    "smooth_mm": (None, 4.0, 5.0),
}


def thresholds(model: Path) -> list[list[Any]]:
    """For each class, method and choice: these, what is made, its threshold, and what it was calibrated otherwise."""
    from tonno_core.encoding.bundle import load_bundle
    from tonno_core.workflow import calibrated_otherwise

    from tonno_core.settings import METHODS, choices_of, combine

    spec = load_bundle(model).spec
    rows = []
    for name, method in itertools.product(spec.classes, METHODS):
        matter = {key: values for key, values in ASKED.items() if key in choices_of(method)}
        for values in itertools.product(*matter.values()):
            asked = {key: value for key, value in zip(matter, values, strict=True) if value is not None}
            if asked.get("stage") == "2+3" and not spec.tried(name):
                continue  # the model brings no weights
            settings = combine(defaults=spec.defaults, explicit={"class_name": name, **asked})
            variant = spec.variant(method, settings)
            record = spec.record_of(variant, name) or {}
            made = json.loads(json.dumps(variant.choices()))
            otherwise = calibrated_otherwise(record, settings, variant)
            rows.append([name, method, asked, made, record.get("threshold"), otherwise])
    return rows


# --- reconstructions of one scan

ALL = ["tonno", "averaged-cam", "tomographic-cam", "matched-cam", "slicewise-cam", "slicewise-cam-3axes", "center"]
TWO = ["tonno", "matched-cam"]
SCAN, OBLIQUE = "data/1.nii.gz", "data/oblique.nii.gz"
BOX = "-20,-20,-20:16,20,12"
# By name: scan, model, methods, other words. Each option of `tonno reconstruct` that changes a result is in one.
RUNS: dict[str, tuple[str, str, list[str], list[Any]]] = {
    "all methods": (SCAN, "calibrated", ALL, []),
    "class b": (SCAN, "calibrated", ALL[:4], ["--class", "b"]),
    "the model's method": (SCAN, "calibrated", [], []),
    "oblique": (OBLIQUE, "calibrated", TWO, []),
    "stage": (SCAN, "calibrated", ["averaged-cam", "matched-cam"], ["--stage", 3]),
    "added stages": (SCAN, "calibrated", ["averaged-cam", "matched-cam", "slicewise-cam"], ["--stage", "2+3"]),
    "gradcam": (SCAN, "calibrated", ["averaged-cam"], ["--cam", "gradcam"]),
    "hann, sigma, smoothing": (
        SCAN, "calibrated", TWO, ["--filter", "hann", "--sigma-scale", 0.5, "--smooth-mm", 4],
    ),
    "gaussian": (SCAN, "calibrated", ["tonno", "tomographic-cam"], ["--filter", "gaussian"]),
    "other planes": (SCAN, "calibrated", TWO, ["--slices", 15, "--directions", 10, "--lattice", "sphere"]),
    "normalized": (OBLIQUE, "calibrated", TWO, ["--frame", "normalized"]),
    "radius": (SCAN, "calibrated", TWO, ["--radius-mm", 20]),
    "slice size": (SCAN, "calibrated", TWO, ["--slice-size", 24]),
    "every voxel": (OBLIQUE, "calibrated", TWO, ["--grid", "volume"]),
    "region": (OBLIQUE, "calibrated", TWO, ["--roi", BOX, "--slices", 24]),
    "zoom": (
        OBLIQUE, "calibrated", TWO,
        ["--roi", BOX, "--zoom", "--slices", 24, "--smooth-mm", 0, "--filter", "second-difference"],
    ),
    "stable": (SCAN, "pixel-sum", ["tonno"], ["--stop-when", "stable", "--slices", 24, "--directions", 400]),
    "preset fast": (SCAN, "pixel-sum", ["tonno"], ["--preset", "fast", "--slice-size", 24]),
    "preset paper, less": (
        SCAN, "calibrated", TWO, ["--preset", "paper", "--slices", 12, "--directions", 8, "--slice-size", 24],
    ),
    "otsu": (SCAN, "calibrated", TWO, ["--threshold", "otsu"]),
    "a number": (SCAN, "calibrated", TWO, ["--threshold", 0.1, "--min-volume-mm3", 300]),
    "nrrd": (SCAN, "pixel-sum", [], ["--format", "nrrd", *PLANES, "--slice-size", 16]),
    "not finite": ("data/nan.nii.gz", "pixel-sum", [], ["--replace-nonfinite", *PLANES, "--slice-size", 16]),
    "shipped": (OBLIQUE, "shipped", ALL[:5], ["--slices", 16, "--directions", 24]),
}  # fmt: skip


def runs() -> None:
    kept = {}
    with workplace() as folder:
        for number, (name, (scan, model, methods, words)) in enumerate(RUNS.items()):
            place = {"pixel-sum": "pixel-sum", "calibrated": "models/calibrated", "shipped": shipped()}[model]
            chosen = [word for method in methods for word in ("--method", method)]
            written = [*chosen, *map(str, words), *DEVICE]
            tonno("reconstruct", scan, "--model", place, "--output", str(number), *written)
            kept[name] = {"scan": scan, "model": model, "words": written, **outcome(folder / str(number))}
    write_json("runs.json", kept)


def shortened(report: dict[str, Any]) -> dict[str, Any]:
    """A report whose profiles are digests."""
    lists = ("offsets_mm", "logits")
    profiles = [{**entry, **{name: digest(entry[name]) for name in lists}} for entry in report["profiles"]]
    return {**report, "profiles": profiles}


def outcome(folder: Path) -> dict[str, Any]:
    """The files' names, the report, and each image as a digest."""
    images = sorted(path for path in folder.iterdir() if path.suffix in (".gz", ".nrrd"))
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "report": shortened(read_json(folder / "report.json")),
        "images": {path.name: digest(voxels(path)) for path in images},
    }


# --- manifests

LISTS = {
    "numbers": "volume,label\n0.nii.gz,0\n1.nii.gz,1\n",
    "all columns": (
        "Split, patient ,LABEL,mask,volume,notes\n val , P1 , 1 ,1-mask.nii.gz, 1.nii.gz ,x\ntrain,,0,,0.nii.gz\n"
    ),
    "semicolons": 'volume;label;patient\n0.nii.gz;0.0;"Doe; J"\n1.nii.gz;1.0;P2\n',
    "tabs": "volume\tlabel\n0.nii.gz\t0\n1.nii.gz\t1\n",
    "names": "volume,label\n0.nii.gz,tumour\n1.nii.gz,Healthy\n2.nii.gz,bleeding\n3.nii.gz,0\n",
    "columns by class": "volume,label:b,label:a,mask:a\n0.nii.gz,1,0,\n1.nii.gz,1,1.0,1-mask.nii.gz\n",
}


def manifests() -> None:
    from tonno_core.cohort.manifest import read_manifest

    kept = {}
    with workplace() as folder:
        for name, text in LISTS.items():
            path = folder / "data" / "list.csv"
            path.write_text(text, encoding="utf-8")
            manifest = read_manifest(path, class_name="lesion")
            cases = [dataclasses.asdict(case) for case in manifest.cases]
            cases = json.loads(json.dumps(cases, default=lambda place: Path(place).name))
            kept[name] = {"text": text, "classes": list(manifest.classes), "cases": cases}
    write_json("manifests.json", kept)


# --- the engine's process


def worker() -> None:
    write_json("worker.json", {"steps": STEPS, **transcript(Path(sys.argv[2]))})


def transcript(code: Path) -> dict[str, Any]:
    from tonno_core import read_volume

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        volume = read_volume(DATA / "oblique.nii.gz")
        np.save(folder / "volume.npy", volume.array)
        damaged = volume.array.copy()
        damaged[3, 3, 3] = np.nan
        np.save(folder / "damaged.npy", damaged)
        names = {
            "ARRAY": str(folder / "volume.npy"), "DAMAGED": str(folder / "damaged.npy"),
            "MATRIX": volume.ijk_to_ras.tolist(), "SHIPPED": str(shipped()),
        }  # fmt: skip
        process = Worker(code, folder / "log")
        answers = play(STEPS, process, names, folder)
        status = process.end()
        print((folder / "log").read_text()[-2000:])
    return {"answers": answers, "keys": process.keys, "status": status}


# --- the demo


def demo() -> None:
    """The whole demo of head 2026, and one of few directions for the tests."""
    kept: dict[str, Any] = {}
    with workplace() as folder:
        for name, words in (("whole", []), ("few directions", ["--directions", 12])):
            tonno("demo", "--output", folder / name, "--seed", 2026, *words)
            report = read_json(folder / name / "report.json")
            images = {file: digest(voxels(folder / name / file)) for file in ("image.nii.gz", "truth.nii.gz")}
            computed = {key: report[key] for key in ("device", "precision", "threads", "torch", "python")}
            kept[name] = {
                "words": [str(word) for word in words], "computed": computed, "images": images, "demo": report["demo"],
                "files": sorted(path.name for path in (folder / name).iterdir()),
            }  # fmt: skip
        tonno("phantoms", folder / "heads", "--count", 4, "--seed", 1)
        kept["phantoms"] = {
            path.relative_to(folder / "heads").as_posix(): digest(voxels(path))
            for path in sorted((folder / "heads").rglob("*.nii.gz"))
        }
    write_json("demo.json", kept)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
