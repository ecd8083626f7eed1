"""What commit 350c810 wrote and answered, against the present code: see stored/README.md.

All goes by the command line, the files and the process's protocol, which stay; `threshold_of` and `read_list` alone
know names of the present code.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure
from safetensors.numpy import load_file

import tonno_core
from tests.stored import relocate, tiny
from tests.stored.digest import differences, digest, read_json, rows_of
from tests.stored.talk import Worker, play
from tonno_core import cli

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "tests" / "stored"
SHIPPED = Path(tonno_core.__file__).parent / "models" / "brain-lesions"
# Of a value's size, in a list of the largest's: float32 through a network and a second derivative. The same machine
# stays within 1e-6 with one thread; with SSE or AVX2 in place of AVX-512, 1e-5 was measured.
REL = 1e-4
# A voxel more or less, where a value lies at the threshold.
VOLUMES = {"volume_mm3": 0.02, "voxels": 0.02, "volume_ml": 0.02, "std": 0.02}
# Of a report: what depends on the machine or is said in words.
OF_A_MACHINE = {
    **dict.fromkeys(("tonno", "torch", "python", "threads", "seconds", "layout", "warnings"), None), **VOLUMES,
}  # fmt: skip


# --- names of the present code


def threshold_of(model: Path, name: str, method: str, asked: dict[str, Any]) -> list[Any]:
    """What is made for a class and a method, its threshold, and the settings that were others at its calibration."""
    from tonno_core.bundle.file import load_bundle
    from tonno_core.settings import combine

    if model not in _SPECS:
        _SPECS[model] = load_bundle(model).spec
    spec = _SPECS[model]
    settings = combine(defaults=spec.defaults, explicit={"class_name": name, **asked})
    variant = spec.choices.variant(method, settings)
    threshold = spec.choices.threshold(variant, settings)
    value, changed = (None, ()) if threshold is None else (threshold.value, threshold.changed)
    # The slices' size is looked at since; what it does to a threshold is not known, so its value is as it was.
    return [json.loads(json.dumps(variant.choices())), value, sorted(set(changed) - {"slice_size"})]


_SPECS: dict[Path, Any] = {}


def shipped_then(folder: Path) -> Path:
    """The shipped model as it was: it has since been given thresholds for other planes."""
    if not folder.exists():
        shutil.copytree(SHIPPED, folder)
        description = read_json(folder / "model.json")
        for threshold in description["thresholds"].values():
            del threshold["other_planes"]
        (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def read_list(path: Path) -> dict[str, Any]:
    """A manifest: the classes, and of each case volume, labels, masks, patient, split and line."""
    from tonno_core.cohort.manifest import read_manifest

    manifest = read_manifest(path, class_name="lesion")
    cases = [json.loads(json.dumps(vars(case), default=lambda place: Path(place).name)) for case in manifest.cases]
    return {"classes": list(manifest.classes), "cases": cases}


# --- what the tests share


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the scans and models, from which the commands run; pictures are left out, they take longest."""
    shutil.copytree(STORED / "data", tmp_path / "data")
    shutil.copytree(STORED / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(Figure, "savefig", lambda figure, target, **options: Path(target).touch())
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def tonno(*words: object) -> int:
    """Run the command in this process; returns its exit status.

    The first class of a model of several was taken without a word; it is asked for since.
    """
    if words[0] in ("reconstruct", "evaluate") and "models/calibrated" in words and "--class" not in words:
        words = (*words, "--class", "a")
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    assert isinstance(done.value.code, int)
    return done.value.code


def stored(name: str) -> Any:
    return read_json(STORED / name)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def above_zero(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose thresholds are above 0; with others, all that no plane covers was once segmented."""
    return [row for row in rows if not isinstance(row["threshold"], float) or row["threshold"] > 0]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def same(now: Any, then: Any, *, rel: float = REL, skip: dict[str, float | None] | None = None) -> None:
    assert not differences(now, then, rel=rel, skip=skip)


def test_what_differs_is_seen() -> None:
    then = {"a": 1.0, "b": [1.0, 2.0], "c": {"d": "text"}, "e": None, "image": digest(np.arange(8.0).reshape(2, 2, 2))}
    assert differences({**then, "more": 1}, then, rel=0.0) == []
    assert differences({**then, "a": 1.01, "b": [1.01, 2.0]}, then, rel=0.02) == []
    others = {
        "a": [1.1, math.nan, "1.0", None], "b": [[1.1, 2.0], [1.0], [1.0, math.nan], 1.0], "e": [0.0],
        "c": [{}, {"d": "other"}, "text"], "image": [digest(np.ones((2, 2, 2))), digest(np.ones((2, 2, 1))), None],
    }  # fmt: skip
    for name, values in others.items():
        for value in values:
            assert len(differences({**then, name: value}, then, rel=0.02)) >= 1, (name, value)
        less = {key: value for key, value in then.items() if key != name}
        assert differences(less, then, rel=0.02, skip={"a": None}) == [f"{name} is missing"]


# --- the command line


def test_every_option_is_there_and_takes_what_it_took() -> None:
    commands = {"": cli.cli, **cli.cli.commands}
    for command, parameters in stored("options.json").items():
        assert command in commands, command
        for then in parameters:
            where = f"tonno {command} {then['names'][-1]}"
            parameters_now = {name: each for each in commands[command].params for name in each.opts}
            assert set(then["names"]) <= parameters_now.keys(), where
            assert _narrower(parameters_now[then["names"][0]], then) == [], where


def _narrower(now: click.Parameter, then: dict[str, Any]) -> list[str]:
    """In what a parameter takes less than it did, or something else."""
    facts = {
        "argument": isinstance(now, click.Argument), "multiple": now.multiple, "nargs": now.nargs,
        "flag": getattr(now, "is_flag", False), "type": now.type.name,
        "required": now.required or then.get("required", False),  # one that may be left out by now takes more
    }  # fmt: skip
    if then["type"] == "custom":
        facts["type"] = "custom"  # a function of ours; the runs below use it
    wrong = [name for name, value in facts.items() if value != then.get(name, False)]
    default = now.to_info_dict()["default"]
    default = str(default) if isinstance(default, Path) else default
    if then.get("default") is not None and default != then["default"]:
        wrong.append(f"default {default}")
    if not set(then.get("choices", ())) <= set(getattr(now.type, "choices", ())):
        wrong.append("choices")
    low, high = getattr(now.type, "min", None), getattr(now.type, "max", None)
    if low is not None and low > then.get("min", -np.inf):
        wrong.append(f"min {low}")
    if high is not None and high < then.get("max", np.inf):
        wrong.append(f"max {high}")
    return wrong


@pytest.mark.parametrize("name", stored("runs.json"))
def test_a_run_gives_what_it_gave(name: str, place: Path) -> None:
    then = stored("runs.json")[name]
    shipped = shipped_then(place / "brain-lesions")
    models = {"pixel-sum": "pixel-sum", "calibrated": "models/calibrated", "shipped": shipped}
    assert tonno("reconstruct", then["scan"], "--model", models[then["model"]], "--output", "out", *then["words"]) == 0
    assert files(place / "out") == set(then["files"])
    report = read_json(place / "out/report.json")
    for profile in report["profiles"]:
        profile.update({name: digest(profile[name]) for name in ("offsets_mm", "logits")})
    for method in report["methods"].values():  # it names one setting more since
        method["threshold_source"] = method["threshold_source"].replace(", slice_size", "").replace(
            ", calibrated at other slice_size", ""
        )  # fmt: skip
    if report["class"] == "a":  # which is named since
        report["settings"]["class_name"] = None
    # Then rounding let some slices beside the content show 1e-5 of it.
    counts, known = report["slices"], then["report"]["slices"]["blank_and_skipped"]
    assert known <= counts["blank_and_skipped"] <= counts["total"]
    counts["blank_and_skipped"] = known
    same(report, then["report"], skip=OF_A_MACHINE)
    assert len(said_then(report["warnings"])) == len(then["report"]["warnings"])
    assert report["seconds"].keys() >= then["report"]["seconds"].keys()
    images = {name: digest(voxels(place / "out" / name)) for name in then["images"]}
    for name, image in images.items():
        method = name.partition("-")[2].partition(".")[0]
        if name.startswith("segmentation") and then["report"]["methods"][method]["threshold"] <= 0:
            # Then all that no plane covers was in it.
            heatmap = voxels(place / "out" / name.replace("segmentation", "heatmap"))
            assert not voxels(place / "out" / name)[heatmap == 0].any()
            continue
        # Of a segmentation's voxels one may be another; its heatmap tells more.
        same(image, then["images"][name], rel=0.02 if name.startswith("segmentation") else REL)


# --- models


@pytest.mark.parametrize("model", ["calibrated", "shipped"])
def test_a_model_of_then_has_the_thresholds_of_then(model: str, place: Path) -> None:
    path = shipped_then(place / "brain-lesions") if model == "shipped" else STORED / "models" / model
    rows = stored("thresholds.json")[model]
    assert len(rows) > 50
    for name, method, asked, choices, value, changed in rows:
        same(threshold_of(path, name, method, asked), [choices, value, sorted(changed)], rel=0.0)


@pytest.mark.slow
def test_a_calibration_chooses_what_it_chose(place: Path) -> None:
    words = stored("random.json")["calibrate"]
    assert tonno("calibrate", "models/calibrated", "data/classes.csv", "--output", "again", *words) == 0
    # Of so few volumes nothing is chosen any more; what was measured of each variant is as it was.
    then = read_json(place / "models/calibrated/model.json")
    same(read_json(place / "again/model.json"), then, skip={"thresholds": None})


def test_the_same_seed_draws_the_same_weights(place: Path) -> None:
    then = stored("random.json")
    assert tonno("bundle", *then["words"], "--output", "random") == 0
    now = {name: digest(tensor) for name, tensor in load_file(place / "random/model.safetensors").items()}
    # torch draws normal numbers by vector instructions that are not the same everywhere: float32 rounding.
    same(now, then["weights"], rel=1e-5)
    same(read_json(place / "random/model.json"), then["model.json"], skip={"sha256": None})


def test_readme_s_lines_give_what_the_command_gave() -> None:
    then = stored("runs.json")["the model's method"]
    volume = tonno_core.read_volume("data/1.nii.gz")
    model = tonno_core.load_bundle("models/calibrated")
    settings = dataclasses.replace(model.spec.choices.settings(), class_name="a")
    result = tonno_core.reconstruct(volume, model, settings, device="cpu", precision="float32")
    heatmap = result.heatmaps["matched-cam"]
    same(digest(heatmap.array), then["images"]["heatmap-matched-cam.nii.gz"])
    threshold = then["report"]["methods"]["matched-cam"]["threshold"]
    mask = tonno_core.binarize(heatmap, threshold=threshold)
    same(digest(mask), then["images"]["segmentation-matched-cam.nii.gz"], rel=0.02)
    tonno_core.write_volume(volume.with_array(mask), "mask.nii.gz", dtype="uint8")
    assert (voxels(Path("mask.nii.gz")) == mask).all()


# --- cohorts


def cohort_of(name: str, place: Path) -> list[Any]:
    """Put a stored folder here; returns the words of its command."""
    then = stored("cohort.json")
    shutil.copytree(STORED / "cohort" / name, place / "out")
    volumes = [place / volume for volume in then["volumes"]]
    relocate.cohort(place / "out", volumes, version=tonno_core.__version__)
    for path in (place / "out").glob("cases/*/report.json"):
        report = read_json(path)
        report["seconds"]["total"] = 123.0  # a case that is done again has another
        path.write_text(json.dumps(report), encoding="utf-8")
    return ["reconstruct", "data/cohort.csv", "--model", "models/calibrated", *then["words"], "--output", "out"]


def summary_of(place: Path) -> list[dict[str, Any]]:
    return rows_of((place / "out/summary.csv").read_text(encoding="utf-8"))


def test_a_finished_cohort_is_left_as_it_is(place: Path) -> None:
    words = cohort_of("finished", place)
    assert tonno(*words) == 0
    assert {row["seconds"] for row in summary_of(place)} == {123.0}
    same(summary_of(place), stored("cohort.json")["summary"], skip={"seconds": None}, rel=1e-9)


def test_an_interrupted_cohort_goes_on(place: Path) -> None:
    words = cohort_of("interrupted", place)
    before = files(place / "out")
    assert tonno(*words) == 0
    summary = summary_of(place)
    assert [row["case"] for row in summary if row["seconds"] == 123.0] == ["0001-0", "0001-0"]
    then = stored("cohort.json")["summary"]
    assert 0 < len(above_zero(then)) < len(then)
    same(above_zero(summary), above_zero(then), skip={"seconds": None, "warnings": None, **VOLUMES})
    pictures = {f"cases/0001-0/{name}" for name in ("overview.png",)}  # not stored
    added = {
        "findings.csv",
        "contact-sheet-1.png",
        *(f"cases/{case}/planes.npz" for case in ("0001-0", "0002-1", "0003-2")),
    }
    assert files(place / "out") == (set(stored("cohort.json")["files"]) - pictures) | added
    assert before < files(place / "out")


# --- evaluations


def test_an_interrupted_evaluation_goes_on(place: Path) -> None:
    then = stored("evaluation.json")
    shutil.copytree(STORED / "evaluation", place / "out")
    rows = [[place / volume, label, mask and place / mask, patient] for volume, label, mask, patient in then["rows"]]
    relocate.evaluation(place / "out", rows, version=tonno_core.__version__)
    before = {path.name: path.read_bytes() for path in (place / "out/cases").iterdir()}
    assert len(before) == 4
    # It took label 1 as the first of the model's classes, which now has to be said.
    words = ["--model", "models/calibrated", *then["words"], "--class", "a", "--output", "out"]
    assert tonno("evaluate", "data/study.csv", *words) == 0
    assert files(place / "out") == set(then["files"])
    assert {name: (place / "out/cases" / name).read_bytes() for name in before} == before
    skip: dict[str, float | None] = {**VOLUMES, "seconds": None, "warnings": None, "fingerprint": None, "tonno": None}
    for name in ("results.csv", "summary.csv"):
        rows_now = rows_of((place / "out" / name).read_text(encoding="utf-8"))
        same(above_zero(rows_now), above_zero(then[name]), rel=0.02, skip=skip)
    summary = read_json(place / "out/summary.json")
    for each in (summary, then["summary"]):
        each["rows"] = above_zero(each["rows"])
    same(summary, then["summary"], rel=0.02, skip={**skip, "manifest": None})


# --- training


def test_an_interrupted_training_goes_on_to_the_same_end(place: Path) -> None:
    then = stored("training.json")
    shutil.copytree(STORED / "run", place / "run")
    words = ["train", "data/unsplit.csv", *then["words"], "--output", "model", "--run", "run", "--resume"]
    assert tonno(*words) == 0
    assert files(place / "run") == set(then["files"])
    skip: dict[str, float | None] = {name: None for name in then["metrics.csv"][0] if "seconds" in name}
    metrics = rows_of((place / "run/metrics.csv").read_text(encoding="utf-8"))
    same(metrics, then["metrics.csv"], skip={**skip, "slices_per_second": None, "wait_share": None})
    assert _drawn(place / "run/split.csv") == _drawn(STORED / "run/split.csv")
    _same_model(place / "model", STORED / "models/trained")


def test_the_same_seed_trains_the_same_network(place: Path) -> None:
    assert tonno("train", "data/unsplit.csv", *stored("training.json")["words"], "--output", "model") == 0
    assert _drawn(place / "model-run/split.csv") == _drawn(STORED / "run/split.csv")
    _same_model(place / "model", STORED / "models/trained")


def _drawn(path: Path) -> dict[str, str]:
    return {row["patient"]: row["split"] for row in rows_of(path.read_text(encoding="utf-8"))}


def _same_model(now: Path, then: Path) -> None:
    weights, trained = (load_file(path / "model.safetensors") for path in (now, then))
    assert weights.keys() == trained.keys()
    for name, tensor in trained.items():
        # Adam moves a weight by up to the rate, 1e-3, in each step, whatever its gradient's size: where that is all
        # rounding, so is the step. On the same machine the bits are the same.
        np.testing.assert_allclose(weights[name], tensor, atol=1e-3 + 1e-3 * np.abs(tensor).max(), err_msg=name)
    # What is chosen of so few volumes is the default now; each variant's own numbers are in the records.
    names = ("sha256", "seconds", "seconds_in_steps", "threads", "thresholds")
    skip: dict[str, float | None] = dict.fromkeys(names)
    same(read_json(now / "model.json"), read_json(then / "model.json"), rel=0.02, skip=skip)


def said_then(warnings: Iterable[str]) -> list[str]:
    """Warnings but for those that earlier builds did not have: of thresholds, and of images unlike the training's."""
    since = ("that is no finding", "the model was trained on", "the training images", "model's training images")
    return [text for text in warnings if not any(part in text for part in since)]


# --- manifests


@pytest.mark.parametrize("name", stored("manifests.json"))
def test_a_manifest_says_what_it_said(name: str, place: Path) -> None:
    then = stored("manifests.json")[name]
    path = place / "data" / "list.csv"
    path.write_text(then.pop("text"), encoding="utf-8")
    same(read_list(path), then, rel=0.0)


def test_a_list_is_checked_as_it_was(place: Path) -> None:
    assert tonno("check", "data/unsplit.csv") == 0
    (place / "data/0.nii.gz").write_bytes(b"no image")
    assert tonno("check", "data/unsplit.csv") == 2


# --- the engine's process


@pytest.mark.slow
def test_the_process_answers_what_it_answered(place: Path) -> None:
    then = stored("worker.json")
    volume = tonno_core.read_volume("data/oblique.nii.gz")
    np.save("volume.npy", volume.array)
    damaged = volume.array.copy()
    damaged[3, 3, 3] = np.nan
    np.save("damaged.npy", damaged)
    names = {
        "ARRAY": str(place / "volume.npy"), "DAMAGED": str(place / "damaged.npy"),
        "MATRIX": volume.ijk_to_ras.tolist(), "SHIPPED": str(shipped_then(place / "brain-lesions")),
    }  # fmt: skip
    process = Worker(ROOT, place / "log")
    answers = play(then["steps"], process, names, place)
    assert process.end() == then["status"]
    stopped = answers["refine of a stopped run"]  # the one answer that is another on purpose: `resume` goes on
    assert (stopped["type"], stopped["kind"]) == ("error", "not-kept")
    assert 0 < stopped["directions"] < stopped["planned"] == 6000
    assert then["answers"].pop("refine of a stopped run")["type"] == "result"
    wrong = {name: _otherwise(answers[name], answer) for name, answer in then["answers"].items()}
    assert {name: text for name, text in wrong.items() if text} == {}
    for kind, keys in then["keys"].items():
        assert set(keys) <= set(process.keys[kind]), kind


def _otherwise(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """In what an answer differs; words may."""
    skip: dict[str, float | None] = dict.fromkeys(("message", "next", "warnings", *_VERSIONS))
    if then.get("stopped"):  # wherever it was by then
        kept = {"type": then["type"], "stopped": True, "heatmaps": {"tonno": {"variant": {"method": "tonno"}}}}
        return differences(now, kept, rel=REL)
    wrong = differences(now, then, rel=REL, skip=skip)
    if len(said_then(now.get("warnings", ()))) != len(then.get("warnings", ())):
        wrong.append(f"warnings were {then['warnings']}, are {now['warnings']}")
    return wrong


_VERSIONS = ("python", "torch", "timm", "tonno_core")


# --- the demo


@pytest.mark.slow
def test_the_demo_of_few_directions(place: Path) -> None:
    then = stored("demo.json")["few directions"]
    assert tonno("demo", "--output", "out", "--seed", 2026, *then["words"]) == 0
    _same_demo(place / "out", then)


@pytest.mark.skipif("TONNO_DEMO" not in os.environ, reason="TONNO_DEMO names no folder that `tonno demo` wrote")
def test_the_demo_s_table() -> None:
    _same_demo(Path(os.environ["TONNO_DEMO"]), stored("demo.json")["whole"])


def _same_demo(output: Path, then: dict[str, Any]) -> None:
    assert {path.name for path in output.iterdir()} == set(then["files"])
    for name, image in then["images"].items():
        same(digest(voxels(output / name)), image, rel=1e-4)
    report = read_json(output / "report.json")
    same(report["demo"]["lesions"], then["demo"]["lesions"], rel=1e-6)
    # In bfloat16, which CPUs with matrix units choose, Dice is another by up to 0.01.
    precise = report["precision"] == then["computed"]["precision"]
    for method, row in then["demo"]["scores"].items():
        for name in ("dice", "best_dice"):
            now = report["demo"]["scores"][method][name]
            assert now == pytest.approx(row[name], abs=2e-3 if precise else 0.02), (method, name)
        assert report["demo"]["scores"][method].keys() >= row.keys()


@pytest.mark.slow
def test_phantoms_of_a_seed(place: Path) -> None:
    then = stored("demo.json")["phantoms"]
    assert tonno("phantoms", "heads", "--count", 4, "--seed", 1) == 0
    for name, image in then.items():
        same(digest(voxels(place / "heads" / name)), image, rel=1e-4)


# --- what is loaded


def test_the_package_is_light() -> None:
    code = "import sys, tonno_core; print(*{name.partition('.')[0] for name in sys.modules})"
    heavy = {"torch", "timm", "SimpleITK", "scipy", "matplotlib", "numpy", "safetensors", "tqdm", "click"}
    assert not heavy & set(_said(code))


def test_what_the_module_imports_needs_no_torch() -> None:
    sources = [path for path in (ROOT / "ToNNOSlicer").rglob("*.py") if "Testing" not in path.parts]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    modules = {module for module in modules if module.partition(".")[0] == "tonno_core"}
    assert len(modules) > 5
    code = "import sys, importlib\nsys.modules.update(torch=None, timm=None)\n"
    code += f"for name in {sorted(modules)!r}: importlib.import_module(name)\nprint('all')"
    assert _said(code) == ["all"]


def _said(code: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_stored_files_are_small() -> None:
    sizes = [path.stat().st_size for path in STORED.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert max(sizes) < 300_000
    assert sum(sizes) < 1_500_000


assert tiny.NAME  # imported for what it does
