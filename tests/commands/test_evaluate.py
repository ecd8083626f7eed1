"""`tonno evaluate`: what it writes, how it goes on, and what it says where something is wrong."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tests.commands.within import fail
from tests.mirrors import write_mirror
from tests.networks import write_random_bundle
from tests.training.toy import toy_scan, two_balls
from tonno_core import cli
from tonno_core.bundle.file import load_bundle, save_bundle
from tonno_core.cohort.cases import Outcome
from tonno_core.cohort.manifest import read_manifest
from tonno_core.cohort.split import split_patients
from tonno_core.commands import evaluate as command
from tonno_core.commands.evaluate import Choices, evaluate_manifest
from tonno_core.errors import TonnoError
from tonno_core.evaluation.record import LADDER, measure
from tonno_core.reconstruction import reconstruct
from tonno_core.segmentation.metrics import Components, best_dice, component_scores, dice
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.settings import METHODS, combine, parse_stages
from tonno_core.training.calibration import Search, calibrate
from tonno_core.training.look import Look
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume, write_volume
from tonno_core.volume.volume import Volume

LABELS = (("positive", 1), ("negative", 0))
RECORD = {"threshold": 0.25, "settings": {"slices": 10, "directions": 6, "stage": 2}}
SUMMARY = {"results.csv", "summary.csv", "summary.json", "summary.md", "contact-sheet-1.png"}


def truth_of(index: int) -> Volume:
    """Where a toy scan is brighter than its head: the lesion."""
    scan = toy_scan(index, 1)
    return scan.with_array(scan.array > 200)


def write_set(folder: Path, lines: list[str], *, header: str = "volume,label,mask,patient,split") -> Path:
    """Scans 0.nii.gz to 5.nii.gz (odd: with lesion), masks 1-mask.nii.gz ... and a manifest of given lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(6):
        write_volume(toy_scan(index, index % 2), folder / f"{index}.nii.gz")
        if index % 2:
            write_volume(truth_of(index), folder / f"{index}-mask.nii.gz", dtype="uint8")
    (folder / "manifest.csv").write_text("\n".join([header, *lines, ""]))
    return folder / "manifest.csv"


LINES = ["0.nii.gz,0,,p0,test", "1.nii.gz,1,1-mask.nii.gz,p1,test"]
LINES += ["2.nii.gz,0,,p2,val", "3.nii.gz,1,3-mask.nii.gz,p1,test"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest, a bundle with a threshold for one method, and its evaluation."""
    folder = tmp_path_factory.mktemp("home")
    write_set(folder, LINES)
    write_random_bundle(folder / "model", thresholds={"matched-cam": RECORD})
    evaluate(folder / "manifest.csv", folder / "out")
    return folder


def evaluate(manifest: Path, output: Path, *, model: Path | None = None, **changes: Any) -> Outcome:
    """Three methods on few planes."""
    options = {"methods": ("matched-cam", "slicewise-cam", "center"), "slices": 10, "directions": 6}
    options |= changes.pop("options", {})
    overwrite = changes.pop("overwrite", False)
    stages = tuple(map(parse_stages, changes.pop("stages", (2, 4))))
    choices = Choices(**{"device": "cpu", "precision": "float32", **changes}, stages=stages)
    bundle = str(model or manifest.parent / "model")
    return evaluate_manifest(
        manifest, model=bundle, output=output, choices=choices, options=options, overwrite=overwrite, progress=False
    )


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def results(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return {(line["case"], line["row"]): line for line in csv.DictReader(file)}


def test_all_files_are_there_and_nothing_else(home: Path) -> None:
    cases = {f"cases/{case}.{kind}" for case in ("0001-0", "0002-1", "0004-3") for kind in ("json", "npz")}
    assert names(home / "out") == {"settings.json", "cases", *SUMMARY, *cases}


def test_numbers_are_those_of_a_reconstruction_that_is_measured_by_hand(home: Path) -> None:
    bundle, scan = load_bundle(home / "model"), read_volume(home / "1.nii.gz")
    asked = {"methods": ("matched-cam",), "slices": 10, "directions": 6}
    settings = combine(defaults=bundle.spec.defaults, explicit=asked)
    result = reconstruct(scan, bundle, settings, device="cpu", precision="float32")
    heatmap, truth = result.heatmaps["matched-cam"].array, truth_of(1).array
    found = results(home / "out")["0002-1", "matched-cam"]
    mask = heatmap >= 0.25
    precision, recall, f1 = component_scores(mask, truth, 0.1)
    expected = {
        "threshold": 0.25, "dice": dice(mask, truth), "best_dice": best_dice(heatmap, truth)[1], "f1_10": f1,
        "precision_10": precision, "recall_10": recall, "peak": heatmap[foreground_mask(scan) & result.inside].max(),
        "volume_ml": mask.sum() * 0.064, "truth_ml": truth.sum() * 0.064, "stage": 2, "label": 1,
    }  # fmt: skip
    # float32 maps of several stages in one pass and of one alone; a voxel at the threshold may fall on either side.
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected, rel=1e-2)


def test_rows_are_the_methods_and_their_stages_with_their_thresholds(home: Path) -> None:
    rows = ["matched-cam", "matched-cam@2", "matched-cam@4", "slicewise-cam", "slicewise-cam@2"]
    rows += ["slicewise-cam@2 smoothed", "slicewise-cam@4", "slicewise-cam@4 smoothed", "center"]
    found = results(home / "out")
    assert [row for case, row in found if case == "0001-0"] == rows
    assert found["0001-0", "matched-cam"]["threshold_source"] == "the model's own"
    assert found["0001-0", "matched-cam@4"]["threshold_source"] == "otsu, as the model brings none"
    same = ("dice", "peak", "best_dice", "threshold")
    first, second = (found["0002-1", row] for row in ("matched-cam", "matched-cam@2"))
    assert [first[name] for name in same] == [second[name] for name in same]


def test_the_summary_counts_cases_and_patients(home: Path) -> None:
    summary = json.loads((home / "out" / "summary.json").read_text())
    dice_of = summary["rows"][0]["main"]["dice"]
    assert (dice_of["cases"], dice_of["patients"]) == (2, 1)
    assert (summary["cases"], summary["patients"], summary["cases_without_finding"]) == (3, 2, 1)
    settings = json.loads((home / "out" / "settings.json").read_text())
    assert summary["evaluation"] == {name: settings[name] for name in settings if name not in ("run", "cases")}
    assert "3 volumes of 2 patients" in (home / "out" / "summary.md").read_text(encoding="utf-8")


def test_a_second_run_computes_nothing_and_writes_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch, rendered: None
) -> None:
    before = {name: (home / "out" / name).read_bytes() for name in SUMMARY}
    monkeypatch.setattr(command, "evaluate_case", fail(AssertionError("computed again")))
    evaluate(home / "manifest.csv", home / "out")
    assert {name: (home / "out" / name).read_bytes() for name in SUMMARY} == before


def test_an_interrupted_run_goes_on_where_it_was_stopped(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, done = command.evaluate_case, []

    def second_is_interrupted(task: Any, *rest: Any) -> Any:
        if len(done) == 1:
            done.append("stopped")
            raise KeyboardInterrupt
        done.append(task.name)
        return original(task, *rest)

    monkeypatch.setattr(command, "evaluate_case", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(home / "manifest.csv", tmp_path / "out")
    assert names(tmp_path / "out") == {"settings.json", "cases", "cases/0001-0.json", "cases/0001-0.npz"}
    evaluate(home / "manifest.csv", tmp_path / "out")
    assert done == ["0001-0", "stopped", "0002-1", "0004-3"]
    assert same_but_seconds(tmp_path / "out", home / "out")


def same_but_seconds(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in ("results.csv", "summary.csv"))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"options": {"directions": 7}}, "`directions` was 6, now 7"),
        ({"min_volume_mm3": 100.0}, "`min_volume_mm3` was 0.0, now 100.0"),
        ({"split": "all"}, "`split` was test, now all"),
        ({"stages": (2,)}, r"rows.*4 is only in that one"),
    ],
)
def test_another_evaluation_in_the_folder_is_refused_with_the_difference(
    home: Path, changes: dict[str, Any], difference: str
) -> None:
    before = names(home / "out")
    with pytest.raises(TonnoError, match=f"`output` .* holds another evaluation: {difference}.*`overwrite`"):
        evaluate(home / "manifest.csv", home / "out", **changes)
    assert names(home / "out") == before


def test_another_model_is_another_evaluation(home: Path, tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "model", thresholds={"matched-cam": {**RECORD, "threshold": 0.5}})
    with pytest.raises(TonnoError, match=r"the model's threshold for matched-cam was 0\.25, now 0\.5"):
        evaluate(home / "manifest.csv", home / "out", model=tmp_path / "model")


def test_a_longer_sorted_and_moved_list_goes_on_and_what_has_changed_is_measured_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, out = write_set(tmp_path / "set", LINES), tmp_path / "out"
    evaluate(manifest, out, model=home / "model")
    before, done, original = results(out), [], command.evaluate_case

    def counted(task: Any, *rest: Any) -> Any:
        done.append(task.name)
        return original(task, *rest)

    monkeypatch.setattr(command, "evaluate_case", counted)
    # Longer, in another order, a patient's name corrected, at another place.
    (tmp_path / "set").rename(tmp_path / "moved")
    manifest = tmp_path / "moved" / "manifest.csv"
    lines = ["4.nii.gz,0,,p4,test", *LINES[::-1]]
    lines[3] = lines[3].replace("p1", "p1b")
    manifest.write_text("\n".join(["volume,label,mask,patient,split", *lines, ""]))
    evaluate(manifest, out, model=home / "model")
    assert done == ["0005-4"]
    after = results(out)
    assert {key: after[key]["dice"] for key in before} == {key: row["dice"] for key, row in before.items()}
    assert after["0002-1", "center"]["patient"] == "p1b"
    # Another scan, another mask and another label under the old names.
    done.clear()
    write_volume(toy_scan(8, 0), tmp_path / "moved" / "0.nii.gz")
    write_volume(truth_of(5), tmp_path / "moved" / "1-mask.nii.gz", dtype="uint8")
    manifest.write_text(manifest.read_text().replace("4.nii.gz,0,", "4.nii.gz,1,"))
    evaluate(manifest, out, model=home / "model")
    assert sorted(done) == ["0001-0", "0002-1", "0005-4"]
    assert results(out)["0005-4", "center"]["label"] == "1"
    # One that cannot be measured now has no result of what it was.
    (tmp_path / "moved" / "0.nii.gz").write_bytes(b"no image")
    outcome = evaluate(manifest, out, model=home / "model")
    assert outcome.failed.startswith("1 of 4 cases failed: 0001-0: ")
    assert ("0001-0", "center") not in results(out)


def test_a_missing_volume_is_a_case_that_failed(home: Path, tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set", [*LINES, "gone.nii.gz,0,,p9,test"])
    outcome = evaluate(manifest, tmp_path / "out", model=home / "model")
    assert outcome.failed == (
        "1 of 4 cases failed: 0005-gone: volume 'gone.nii.gz' does not exist (paths are relative to the manifest)"
    )
    assert len({case for case, _ in results(tmp_path / "out")}) == 3


def test_overwriting_starts_anew_and_leaves_other_files(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(home / "manifest.csv", out)
    (out / "notes.txt").write_text("mine")
    evaluate(home / "manifest.csv", out, overwrite=True, split="val", options={"methods": ("center",)})
    cases = {"cases/0003-2.json", "cases/0003-2.npz"}
    assert names(out) == {"settings.json", "cases", "notes.txt", *SUMMARY, *cases}


def test_a_folder_of_something_else_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TonnoError, match="holds other files and no evaluation"):
        evaluate(home / "manifest.csv", tmp_path)
    assert names(tmp_path) == {"notes.txt"}


# -------------------- cases that fail


def test_a_case_that_cannot_be_read_does_not_stop_the_others(home: Path, tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set", LINES)
    (tmp_path / "set" / "0.nii.gz").write_bytes(b"not an image")
    out = tmp_path / "out"
    outcome = evaluate(manifest, out, model=home / "model")
    assert outcome.failed.startswith(f"1 of 3 cases failed: 0001-0: {tmp_path / 'set' / '0.nii.gz'}: ")
    assert "\n" not in outcome.failed
    assert {"cases/0001-0.failed", "cases/0002-1.json", "cases/0004-3.json", *SUMMARY} <= names(out)
    assert "0001-0" in (out / "summary.md").read_text(encoding="utf-8").partition("## Cases that failed")[2]
    # Repaired, it is tried again.
    write_volume(toy_scan(0, 0), tmp_path / "set" / "0.nii.gz")
    assert evaluate(manifest, out, model=home / "model").failed == ""
    assert "cases/0001-0.failed" not in names(out)


def test_a_mask_on_another_grid_is_an_error_that_names_both(home: Path, tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set", LINES)
    mask, moved = truth_of(1), truth_of(1).ijk_to_ras.copy()
    moved[0, 3] += 1.0  # a quarter of a voxel
    write_volume(Volume(mask.array, moved), tmp_path / "set" / "1-mask.nii.gz", dtype="uint8")
    write_volume(Volume(truth_of(3).array[:-1], mask.ijk_to_ras), tmp_path / "set" / "3-mask.nii.gz", dtype="uint8")
    failed = evaluate(manifest, tmp_path / "out", model=home / "model").failed
    assert failed.startswith("2 of 3 cases failed")
    for part in ("1-mask.nii.gz", "1.nii.gz", "3-mask.nii.gz", "16 x 16 x 15 voxels", "16 x 16 x 16 voxels"):
        assert part in failed


def test_a_mask_of_fractions_is_an_error(home: Path, tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set", LINES)
    soft = truth_of(1)
    write_volume(soft.with_array(soft.array * 0.5), tmp_path / "set" / "1-mask.nii.gz")
    assert (
        "voxels are no whole numbers, such as 0.5; expected a mask"
        in evaluate(manifest, tmp_path / "out", model=home / "model").failed
    )


def test_a_case_that_the_memory_does_not_hold_fails_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_set(tmp_path / "set", LINES)
    original = command.evaluate_case
    short = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    def evaluate_case(task: Any, *rest: Any) -> Any:
        return fail(short)() if task.name == "0002-1" else original(task, *rest)

    monkeypatch.setattr(command, "evaluate_case", evaluate_case)
    failed = evaluate(manifest, tmp_path / "out", model=home / "model").failed
    assert failed.startswith("1 of 3 cases failed: 0002-1: ") and "can't allocate memory" in failed
    # Any other RuntimeError is a defect of the program, and no property of the case.
    monkeypatch.setattr(command, "evaluate_case", fail(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        evaluate(manifest, tmp_path / "other", model=home / "model")


def test_where_every_case_fails_there_is_no_summary(home: Path, tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set", LINES)
    for index in (0, 1, 3):
        (tmp_path / "set" / f"{index}.nii.gz").write_bytes(b"not an image")
    with pytest.raises(TonnoError, match="3 of 3 cases failed"):
        evaluate(manifest, tmp_path / "out", model=home / "model")
    assert not SUMMARY & names(tmp_path / "out")


# -------------------- labels and masks


def test_masks_and_labels_in_all_their_combinations(home: Path, tmp_path: Path) -> None:
    """Label 0 without mask or with an empty one: an empty truth. Label 1 without mask: volume-level alone."""
    lines = ["0.nii.gz,0,,,", "2.nii.gz,0,empty.nii.gz,,", "4.nii.gz,1,empty.nii.gz,,"]
    lines += ["1.nii.gz,1,,,", "3.nii.gz,1,3-mask.nii.gz,,"]
    manifest = write_set(tmp_path / "set", lines)
    write_volume(truth_of(1).with_array(np.zeros((16, 16, 16))), tmp_path / "set" / "empty.nii.gz", dtype="uint8")
    text = evaluate(manifest, tmp_path / "out", model=home / "model").text
    found = results(tmp_path / "out")
    counts = {case: found[case, "matched-cam"]["truth_components"] for case, row in found if row == "matched-cam"}
    assert counts == {"0001-0": "0", "0002-2": "0", "0003-4": "0", "0004-1": "", "0005-3": "1"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["cases"], summary["cases_with_truth"], summary["cases_without_finding"]) == (5, 1, 3)
    told = [warning for warning in summary["warnings"] if "that is no finding" not in warning]  # of a random network
    assert told == ["0003-4: label 1, but its mask is empty"]
    cases = {warning.partition(":")[0] for warning in summary["warnings"]}
    assert f"warnings for {len(cases)} of 5 cases: see summary.md" in text.splitlines()
    assert found["0004-1", "matched-cam"]["dice"] == ""
    assert found["0004-1", "matched-cam"]["peak"] != ""


def test_a_mask_of_several_values_asks_which_mean_the_finding(home: Path, tmp_path: Path) -> None:
    """As in LiTS: 1 is the organ, 2 the tumour. The truth is the tumour alone, as in a mask that holds nothing else."""
    manifest, out = write_set(tmp_path / "set", LINES), tmp_path / "out"
    for index in (1, 3):
        scan, tumour = toy_scan(index, 1), truth_of(index).array
        both = scan.with_array(np.where(tumour > 0, 2.0, scan.array > 50))
        assert (both.array == 1).sum() > 3 * (both.array == 2).sum()
        write_volume(both, tmp_path / "set" / f"{index}-mask.nii.gz", dtype="uint8")
    with pytest.raises(
        TonnoError, match=r"1-mask\.nii\.gz \(so do 1 more\): holds the values 1 \(.*FILE#2 for 2 alone"
    ):
        evaluate(manifest, out, model=home / "model")
    assert not out.exists()
    manifest.write_text(manifest.read_text().replace("-mask.nii.gz", "-mask.nii.gz#2"))
    evaluate(manifest, out, model=home / "model")
    assert same_but_seconds(out, home / "out")
    # One value each, but not the same: is the one of the organ?
    for index, value in ((1, 1), (3, 2)):
        one = truth_of(index)
        write_volume(one.with_array(value * one.array), tmp_path / "set" / f"{index}-mask.nii.gz", dtype="uint8")
    lines = manifest.read_text()
    manifest.write_text(lines.replace("#2", ""))
    said = (
        "masks hold one value each, but not the same: 1 in 1-mask.nii.gz and 2 in 3-mask.nii.gz; all mean the finding"
    )
    assert evaluate(manifest, tmp_path / "unlike", model=home / "model").text.startswith(f"{manifest}: {said}\nmethod")
    # Another mask is another truth: the case is measured again.
    organ = truth_of(1).with_array((toy_scan(1, 1).array > 50).astype(np.float32))
    write_volume(organ, tmp_path / "set" / "1-mask.nii.gz", dtype="uint8")
    manifest.write_text(lines.replace("#2", "#any"))
    before = results(out)["0002-1", "matched-cam"]["truth_ml"]
    evaluate(manifest, out, model=home / "model")
    assert float(results(out)["0002-1", "matched-cam"]["truth_ml"]) > 3 * float(before)


def test_a_class_of_several_has_its_own_labels_and_masks(home: Path, tmp_path: Path) -> None:
    lines = ["0.nii.gz,0,1,1-mask.nii.gz", "1.nii.gz,1,0,"]
    manifest = write_set(tmp_path / "set", lines, header="volume,label:a,label:b,mask:b")
    write_random_bundle(tmp_path / "model", classes=("a", "b"))
    options = {"class_name": "b", "methods": ("matched-cam",)}
    evaluate(manifest, tmp_path / "out", model=tmp_path / "model", options=options, split="all")
    found = results(tmp_path / "out")
    assert [found[case, "matched-cam"]["label"] for case in ("0001-0", "0002-1")] == ["1", "0"]
    assert [found[case, "matched-cam"]["truth_components"] for case in ("0001-0", "0002-1")] == ["1", "0"]
    with pytest.raises(TonnoError, match=r"labels are of a, b, the model tells finding: none are of 'finding'"):
        evaluate(manifest, tmp_path / "other", model=home / "model")


def test_label_1_means_the_finding_of_a_model_that_tells_normal_from_it(home: Path, tmp_path: Path) -> None:
    """By the rule of `tonno calibrate`: the class that is no word for no finding, or the one that is named."""
    write_random_bundle(tmp_path / "model", classes=("normal", "lesion"))
    options = {"methods": ("matched-cam",)}
    manifest, out = home / "manifest.csv", tmp_path / "out"
    evaluate(manifest, out, model=tmp_path / "model", options=options)
    assert json.loads((out / "settings.json").read_text())["class"] == "lesion"
    asked = evaluate(manifest, tmp_path / "asked", model=tmp_path / "model", options=options | {"class_name": "lesion"})
    assert "matched-cam" in asked.text
    assert same_but_seconds(out, tmp_path / "asked")
    evaluate(manifest, tmp_path / "normal", model=tmp_path / "model", options=options | {"class_name": "normal"})
    found, absent = results(out), results(tmp_path / "normal")
    assert {case: line["label"] for (case, _), line in found.items()} == {"0001-0": "0", "0002-1": "1", "0004-3": "1"}
    assert {case: line["label"] for (case, _), line in absent.items()} == {"0001-0": "1", "0002-1": "0", "0004-3": "0"}
    write_random_bundle(tmp_path / "two", classes=("a", "b"))
    with pytest.raises(TonnoError, match=r"the model has 2 classes \(a, b\); give `class_name` to say which"):
        evaluate(manifest, tmp_path / "none", model=tmp_path / "two", options=options)


def test_the_list_of_the_training_is_not_evaluated_for_want_of_a_split(home: Path, tmp_path: Path) -> None:
    lines = [line.rsplit(",", 1)[0].replace(",p1", f",p{line[0]}") for line in LINES]
    lines += ["4.nii.gz,0,,p4", "5.nii.gz,1,5-mask.nii.gz,p5"]
    manifest = write_set(tmp_path, lines, header="volume,label,mask,patient")
    divided = split_patients(read_manifest(manifest), seed=7)
    volumes = {
        part: {"finding": {key: sum(case.labels[0] == label for case in divided.split(part)) for key, label in LABELS}}
        for part in ("train", "val")
    }
    bundle = load_bundle(home / "model")
    training = {"settings": {"seed": 7}, "volumes": volumes}
    trained = dataclasses.replace(bundle.spec, classes=("finding",), training=training)
    save_bundle(tmp_path / "model", trained, bundle.weights)
    seen = len(divided.split("train")) + len(divided.split("val"))
    with pytest.raises(TonnoError, match=rf"gives no split, and looks like the list .* {seen} of its 6 volumes"):
        evaluate(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other = write_set(tmp_path, lines[:4], header="volume,label,mask,patient")
    said = evaluate(other, tmp_path / "out", options={"methods": ("center",)}).text
    assert "gives no split: all volumes are evaluated (4); none should be of the model's training" in said


def test_a_split_without_volumes_is_said(home: Path) -> None:
    with pytest.raises(TonnoError, match=r"no volume in split train \(0 in train, 1 in val, 3 in test\)"):
        evaluate(home / "manifest.csv", home / "none", split="train")
    assert not (home / "none").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": (9,)}, "`stage` 9 does not exist in this encoder, expected 1 to 4"),
        ({"stages": ("1+2",)}, r"`stage` 1\+2: the model's calibration added up none; see `tonno calibrate`"),
        ({"options": {"class_name": "x"}}, "`class_name` 'x' is unknown to this model"),
        ({"options": {"methods": ("cam",)}}, "`methods` is cam"),
        ({"min_volume_mm3": -1.0}, "`min_volume_mm3` is -1"),
        ({"device": "tpu"}, "`device` 'tpu' is unknown"),
    ],
)
def test_bad_options_are_said_before_anything_is_written(home: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TonnoError, match=message):
        evaluate(home / "manifest.csv", home / "none", **changes)
    assert not (home / "none").exists()


def test_stages_without_a_gradient_are_left_out_unless_asked_for(home: Path, tmp_path: Path) -> None:
    from tests.networks import random_network, spec_of

    vit = random_network("vit_tiny_patch16_224", size=32)
    save_bundle(tmp_path / "vit", spec_of("vit_tiny_patch16_224"), vit.state_dict())
    options = {"methods": ("averaged-cam",), "slices": 4, "directions": 2}
    evaluate(home / "manifest.csv", tmp_path / "out", model=tmp_path / "vit", options=options, stages=())
    stages = {line["stage"] for line in results(tmp_path / "out").values()}
    assert stages == {str(stage) for stage in range(1, 12)}


def test_a_calibrated_model_has_a_threshold_for_every_row(home: Path, tmp_path: Path) -> None:
    bundle = load_bundle(home / "model")
    settings = combine(defaults=bundle.spec.defaults, explicit={"methods": METHODS, "slices": 10, "directions": 6})
    scans = [(home / f"{index}.nii.gz", index % 2) for index in range(6)]
    found = calibrate(bundle, scans, settings, Search(), Look("cpu", "float32", progress=False))
    spec = dataclasses.replace(bundle.spec, thresholds=found.thresholds, calibration=found.records)
    save_bundle(tmp_path / "model", spec, bundle.weights)
    methods = {"methods": None}
    evaluate(home / "manifest.csv", tmp_path / "out", model=tmp_path / "model", options=methods, all_candidates=True)
    lines = results(tmp_path / "out")
    assert {line["threshold_source"] for line in lines.values()} == {"the model's own"}
    assert {line["called"] for line in lines.values()} <= {"0", "1"}
    by_variant = {(one["method"], one["stage"], one["smooth_mm"]): one["threshold"] for one in found.records}
    center = lines["0001-0", "center"]
    assert float(center["threshold"]) == by_variant["center", None, 0.0]
    assert len({row for _, row in lines}) >= len(found.records) + len(METHODS)


# -------------------- processes and the command line


def arguments(home: Path, output: Path) -> list[str]:
    words = f"evaluate {home / 'manifest.csv'} --model {home / 'model'} --output {output} --slices 10 --directions 6"
    words += " --stage 2 --stage 4 --method matched-cam --method slicewise-cam --method center"
    return [*words.split(), "--device", "cpu", "--precision", "float32"]


def test_two_processes_share_the_cases_and_the_last_one_sums_up(home: Path, tmp_path: Path) -> None:
    def start(output: str, *launcher: str) -> subprocess.Popen[str]:
        # One thread each: with another number sums round otherwise, and the bytes below would differ.
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "tonno_core", *arguments(home, tmp_path / output)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip

    both = start("out", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    alone = start("alone")
    outputs = [process.communicate(timeout=300) for process in (both, alone)]
    assert [process.returncode for process in (both, alone)] == [0, 0], outputs
    assert "written to" in outputs[0][0]
    assert names(tmp_path / "out") == names(home / "out")
    assert same_but_seconds(tmp_path / "out", tmp_path / "alone")


def test_one_process_of_two_leaves_the_summary_to_the_other(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    text = evaluate(home / "manifest.csv", tmp_path / "o").text
    assert text == "1 of 3 cases done here, 2 are not done elsewhere yet"
    own = {"settings.json", "cases", "cases/0002-1.json", "cases/0002-1.npz"}
    assert names(tmp_path / "o") == own
    # What the other one does, or did, is not touched when this one begins, or begins anew.
    for kind in ("json", "failed"):
        (tmp_path / "o" / "cases" / f"0001-0.{kind}").write_text("{}")
    for overwrite in (False, True):
        evaluate(home / "manifest.csv", tmp_path / "o", overwrite=overwrite)
        assert names(tmp_path / "o") == {*own, "cases/0001-0.json", "cases/0001-0.failed"}


def test_the_command_prints_the_table_then_the_failures(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(arguments(home, home / "out"))
    out, _ = capfd.readouterr()
    assert done.value.code == 0
    assert out.startswith("method")
    assert f"written to {home / 'out'}" in out

    manifest = write_set(tmp_path / "set", LINES)
    (tmp_path / "set" / "0.nii.gz").write_bytes(b"not an image")
    with pytest.raises(SystemExit) as done:
        cli.main([str(manifest) if "manifest" in word else word for word in arguments(home, tmp_path / "out")])
    out, err = capfd.readouterr()
    assert done.value.code == 2
    assert out.startswith("method")
    assert err.splitlines()[-1].startswith("tonno: 1 of 3 cases failed: 0001-0: ")
    assert "evaluating: 100%" in err


def test_every_method_is_the_default(home: Path, tmp_path: Path) -> None:
    evaluate(home / "manifest.csv", tmp_path / "out", split="val", stages=(4,), options={"methods": None})
    assert {line["method"] for line in results(tmp_path / "out").values()} == set(METHODS)


# -------------------- segmenters


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmenters that answer their input: one taught by heatmaps, one on masks, one of another class."""
    folder = tmp_path_factory.mktemp("segmenters")
    network = SegmenterNetwork((6.0, 6.0, 6.0), (32, 32, 32), filters=8, blocks=(1, 1))
    record = {"threshold": 3.0, "settings": {"smooth_mm": 0.0}, "min_volume_mm3": 5.0}
    write_mirror(folder / "labels", network, thresholds={"segmenter": record})
    write_mirror(folder / "masks", network, thresholds={}, training={"taught_by": "masks"})
    write_mirror(folder / "other", network, classes=("cyst",))
    return folder


def test_segmenters_stand_beside_a_classifiers_rows(home: Path, mirrors: Path, tmp_path: Path) -> None:
    asked = (f"{mirrors / 'labels'}", f"{mirrors / 'masks'}", f"low = {mirrors / 'labels'}".replace(" = ", "="))
    outcome = evaluate(home / "manifest.csv", tmp_path / "out", segmenters=asked)
    lines = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    rows = ["segmenter", "segmenter trained on masks", "low"]
    before = list(csv.DictReader((home / "out" / "results.csv").read_text().splitlines()))
    assert [line for line in lines if line["row"] not in rows] == before  # the classifier's are what they were
    scan, truth = toy_scan(1, 1), truth_of(1).array > 0
    heatmap = load_bundle(mirrors / "labels").segmenter().answer(scan)[0].numpy()
    for name, threshold, source in zip(
        rows, (3.0, 0.0, 3.0), ("the model's own", "probability one half, as the model brings none", "the model's own"),
        strict=True,
    ):  # fmt: skip
        line = next(line for line in lines if line["row"] == name and line["patient"] == "p1")
        assert (float(line["threshold"]), line["threshold_source"], line["method"]) == (threshold, source, "segmenter")
        assert float(line["dice"]) == pytest.approx(dice(heatmap >= threshold, truth), abs=1e-6)
        assert float(line["best_dice"]) == pytest.approx(best_dice(heatmap, truth)[1], abs=1e-6)
        assert bool(int(line["called"])) == bool(int(line["components"]))
    assert all(name in outcome.text for name in rows)
    assert (
        "smallest component: 0 mm3, of segmenter 5 mm3, of low 5 mm3" in (tmp_path / "out" / "summary.md").read_text()
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["evaluation"]["segmenters"]["segmenter"]["kind"] == "segmenter"
    assert summary["evaluation"]["rows"]["segmenter"]["min_volume_mm3"] == 5.0
    again = evaluate(home / "manifest.csv", tmp_path / "out", segmenters=asked)  # resumed: nothing is done again
    assert again.text == outcome.text
    with pytest.raises(TonnoError, match="another evaluation"):
        evaluate(home / "manifest.csv", tmp_path / "out")


def test_a_segmenters_parts_of_too_low_a_peak_do_not_count(tmp_path: Path) -> None:
    network = SegmenterNetwork((6.0, 6.0, 6.0), (32, 32, 32), filters=8, blocks=(1, 1))
    scan = two_balls()
    truth = scan.array > 200
    write_volume(scan, tmp_path / "scan.nii.gz")
    write_volume(scan.with_array(truth.astype(np.float32)), tmp_path / "mask.nii.gz", dtype="uint8")
    write_volume(toy_scan(0, 0), tmp_path / "none.nii.gz")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("volume,label,mask,patient,split\nscan.nii.gz,1,mask.nii.gz,p1,test\nnone.nii.gz,0,,p0,test\n")
    heatmap = load_bundle(write_mirror(tmp_path / "plain", network)).segmenter().answer(scan)[0].numpy()
    level = float(heatmap.max()) - 0.01
    record = {"threshold": 3.0, "settings": {"smooth_mm": 0.0}, "min_peak": level}
    folder = write_mirror(tmp_path / "model", network, thresholds={"segmenter": record})
    labels, count = ndimage.label(heatmap >= 3.0, np.ones((3, 3, 3)))
    assert count == 2
    highest = labels == labels.flat[heatmap.argmax()]

    def line(name: str, **choices: float) -> dict[str, str]:
        asked = Choices(device="cpu", precision="float32", **choices)  # type: ignore[arg-type]
        evaluate_manifest(manifest, model=folder, output=tmp_path / name, choices=asked, options={}, progress=False)
        lines = csv.DictReader((tmp_path / name / "results.csv").read_text().splitlines())
        return next(line for line in lines if line["patient"] == "p1")

    own = line("own")
    assert int(own["components"]) == 1
    assert float(own["dice"]) == pytest.approx(dice(highest, truth), abs=1e-6)
    assert f"lowest peak of a component: of segmenter {level:g}" in (tmp_path / "own" / "summary.md").read_text()
    half = {**record, "above_half_peak": -2.0}
    folder = write_mirror(tmp_path / "half", network, thresholds={"segmenter": half})
    by_half = line("by-half", min_peak=-math.inf)
    assert float(by_half["threshold"]) == pytest.approx(float(heatmap.max()) / 2 - 2.0, abs=1e-5)
    assert float(by_half["dice"]) == pytest.approx(dice(heatmap >= heatmap.max() / 2 - 2.0, truth), abs=1e-6)
    assert "each its own" in (tmp_path / "by-half" / "summary.md").read_text()
    folder = tmp_path / "model"
    everything = line("all", min_peak=-math.inf)
    assert int(everything["components"]) == 2
    assert float(everything["dice"]) == pytest.approx(dice(heatmap >= 3.0, truth), abs=1e-6)
    assert "lowest peak of a component: none" in (tmp_path / "all" / "summary.md").read_text()
    assert json.loads((tmp_path / "all" / "summary.json").read_text())["evaluation"]["min_peak"] == "none"


def test_a_segmenter_alone(home: Path, mirrors: Path, tmp_path: Path) -> None:
    choices = Choices(device="cpu", precision="float32")
    manifest, model = home / "manifest.csv", mirrors / "masks"
    evaluate_manifest(manifest, model=str(model), output=tmp_path, choices=choices, options={}, progress=False)
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert {line["row"] for line in lines} == {"segmenter trained on masks"}
    assert "directions" not in (tmp_path / "summary.md").read_text()
    for changes, said in (
        ({"options": {"slices": 10}}, "`slices` has no meaning for a segmenter"),
        ({"options": {"methods": ("tonno",)}}, "whose only method is segmenter"),
        ({"choices": dataclasses.replace(choices, all_candidates=True)}, "`all_candidates` has no meaning"),
    ):
        given = {"choices": choices, "options": {}, **changes}
        with pytest.raises(TonnoError, match=said):
            evaluate_manifest(manifest, model=str(model), output=tmp_path / "no", progress=False, **given)
    assert not (tmp_path / "no").exists()


def test_what_is_no_segmenter_to_compare_with(home: Path, mirrors: Path, tmp_path: Path) -> None:
    labels = str(mirrors / "labels")
    for asked, said in (
        ((str(home / "model"),), "is a classifier, expected a segmenter"),
        ((str(mirrors / "other"),), "has no class 'finding', which is evaluated; it has cyst"),
        ((labels, labels), "there is a row 'segmenter' already; give NAME=BUNDLE with another name"),
        ((f"center={labels}",), "there is a row 'center' already"),
        (("x=nowhere",), "nowhere: no such model folder"),
    ):
        with pytest.raises(TonnoError, match=said):
            evaluate(home / "manifest.csv", tmp_path / "out", segmenters=asked)
    assert not (tmp_path / "out").exists()


def test_a_segmenters_ladder_is_of_its_odds() -> None:
    """Factors of a threshold of 0 would all be the same; of a logit's odds they move it both ways."""
    heatmap = np.linspace(-4, 4, 80, dtype=np.float32).reshape(1, 1, 80)
    truth = Components(heatmap > 1.0)
    _, overlap = measure(heatmap, truth, 0.0, odds=True)
    expected = [dice(heatmap >= np.log(factor), truth.mask) for factor in LADDER]
    np.testing.assert_allclose(overlap.ladder_dice, expected, rtol=0, atol=1e-9)
    assert len(set(overlap.ladder_dice)) > 10
