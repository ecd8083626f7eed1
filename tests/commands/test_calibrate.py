"""`tonno calibrate`: a model in, the same network with choices and thresholds of other planes out."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.networks import write_random_bundle
from tests.training.toy import write_toy_set
from tonno_core.bundle import calibration
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import load_bundle, save_description
from tonno_core.bundle.ready import prepare_model
from tonno_core.commands.calibrate import complete, recalibrate
from tonno_core.commands.reconstruct import segment_all as segment
from tonno_core.errors import TonnoError
from tonno_core.reconstruction import execute
from tonno_core.settings import METHODS, PRESETS, Variant
from tonno_core.training.calibration import Search
from tonno_core.training.look import Look
from tonno_core.volume.appearance import appearance, record_of_images
from tonno_core.volume.io import read_volume

QUIETLY = Look("cpu", "float32", progress=False)
PLANES = {"slices": 8, "directions": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans with a manifest, and a model that was never calibrated."""
    folder = tmp_path_factory.mktemp("home")
    write_toy_set(folder, train=2, val=3)
    write_random_bundle(folder / "model", intensity="zscore")
    return folder


def run(
    home: Path, output: Path, *, model: str = "model", manifest: str | Path = "manifest.csv", **options: Any
) -> str:
    asked = options.pop("options", PLANES)
    chosen = {name: options.pop(name) for name in ("stages", "quantile", "presets") if name in options}
    return recalibrate(home / model, home / manifest, output, asked, Search(**chosen), QUIETLY, **options)


def test_every_method_gets_a_choice_and_the_planes_become_the_defaults(home: Path, tmp_path: Path) -> None:
    summary = run(home, tmp_path / "new")
    before, after = load_bundle(home / "model"), load_bundle(tmp_path / "new")
    assert tuple(after.spec.thresholds) == METHODS
    assert {record["settings"]["slices"] for key, record in after.spec.thresholds.items() if key != "center"} == {8}
    assert after.spec.defaults == {**before.spec.defaults, **PLANES}
    assert all(torch.equal(tensor, after.weights[name]) for name, tensor in before.weights.items())
    assert not before.spec.thresholds
    assert all(f"{method}: threshold" in summary for method in METHODS)


def test_options_that_are_not_given_change_nothing(home: Path, tmp_path: Path) -> None:
    run(home, tmp_path / "new", options={"methods": None, "filter": None, **PLANES}, stages=(2,))
    spec = load_bundle(tmp_path / "new").spec
    assert tuple(spec.thresholds) == METHODS
    assert {one["stage"] for one in spec.calibration} == {None, 2}
    assert {one["filter"] for one in spec.calibration if one["method"] == "tomographic-cam"} == {
        "second-difference", "hann",
    }  # fmt: skip


def test_what_is_asked_for_is_not_chosen(home: Path, tmp_path: Path) -> None:
    asked = {"methods": ("matched-cam",), "filter": "hann", "sigma_scale": 0.5, "smooth_mm": 3.0, **PLANES}
    run(home, tmp_path / "new", options=asked, stages=(3,))
    spec = load_bundle(tmp_path / "new").spec
    assert spec.choices.variant("matched-cam") == Variant("matched-cam", (3,), "hann", 0.5, 3.0)
    assert len(spec.calibration) == 1


def test_a_model_that_adds_up_stages_is_used_like_any_other(home: Path, tmp_path: Path) -> None:
    asked = {"methods": ("averaged-cam", "slicewise-cam"), "smooth_mm": 3.0, **PLANES}
    run(home, tmp_path / "new", options=asked, stages=(2, 3))
    path = tmp_path / "new/model.json"
    data = json.loads(path.read_text())
    record = next(one for one in data["calibration"] if (one["method"], one["stage"]) == ("averaged-cam", "2+3"))
    data["thresholds"]["averaged-cam"]["settings"]["stage"] = "2+3"  # as if it had won
    path.write_text(json.dumps(data))
    bundle = load_bundle(tmp_path / "new")
    made = bundle.spec.choices.variant("averaged-cam")
    assert made == Variant("averaged-cam", (2, 3), smooth_mm=3.0, weights=tuple(record["weights"]))
    scan = read_volume(home / "0.nii.gz")
    model = prepare_model(bundle, None, "cpu", "float32")
    made_once = decide(None, model, variants={"it": made})
    found = segment(execute(scan, model.encoder, made_once), made_once)["it"]
    assert (found.threshold, found.source) == (record["threshold"], "the model's own")


def test_the_threshold_is_the_quantile_of_the_negative_peaks_that_was_asked_for(home: Path, tmp_path: Path) -> None:
    asked = {"methods": ("matched-cam",), "filter": "hann", "sigma_scale": 0.5, "smooth_mm": 3.0, **PLANES}
    thresholds = []
    for number, quantile in enumerate((0.0, 0.5, 1.0)):
        run(home, tmp_path / str(number), options=asked, stages=(3,), quantile=quantile)
        record = load_bundle(tmp_path / str(number)).spec.thresholds["matched-cam"]
        assert (record["volume_quantile"], record["negative_volumes"]) == (quantile, 2)
        thresholds.append(record["threshold"])
    low, middle, high = thresholds
    # Of two peaks the median is their mean; float64 sums round at 1e-16 of it.
    assert low < high
    assert middle == pytest.approx((low + high) / 2, rel=1e-12)


def test_several_classes_have_thresholds_of_their_own(home: Path, tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "model", classes=("a", "b"), intensity="zscore")
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["volume", "label:a", "label:b", "patient", "split"])
        for index, (a, b) in enumerate(((0, 1), (1, 0), (0, 0))):
            rows.writerow([home / f"{index}.nii.gz", a, b, f"p{index}", "val"])
    options = {"methods": ("matched-cam",), **PLANES}
    search = Search(stages=(4,))
    recalibrate(tmp_path / "model", tmp_path / "manifest.csv", tmp_path / "new", options, search, QUIETLY)
    thresholds = load_bundle(tmp_path / "new").spec.thresholds
    assert set(thresholds) == {"matched-cam", "matched-cam/b"}
    assert [thresholds[key]["positive_volumes"] for key in ("matched-cam", "matched-cam/b")] == [1, 1]
    assert thresholds["matched-cam"]["threshold"] != thresholds["matched-cam/b"]["threshold"]


def test_label_1_means_the_finding_of_a_model_that_tells_normal_from_it(home: Path, tmp_path: Path) -> None:
    """By the rule of `tonno evaluate`; a normal volume is one without the finding."""
    write_random_bundle(tmp_path / "model", classes=("normal", "lesion"), intensity="zscore")
    options = {"methods": ("matched-cam",), **PLANES}
    recalibrate(tmp_path / "model", home / "manifest.csv", tmp_path / "new", options, Search(stages=(4,)), QUIETLY)
    thresholds = load_bundle(tmp_path / "new").spec.thresholds
    counts = {key: (one["positive_volumes"], one["negative_volumes"]) for key, one in thresholds.items()}
    assert counts == {"matched-cam": (2, 1), "matched-cam/lesion": (1, 2)}


def test_scans_unlike_those_of_the_training_are_told(home: Path, tmp_path: Path) -> None:
    bundle = load_bundle(home / "model")
    scans = [read_volume(home / f"{index}.nii.gz") for index in range(5)]
    for scale, told in (
        (1.0, ""),
        (0.1, "warning: 3 of 3 volumes of split val differ from the model's training images,"),
    ):
        grids = [scan.ijk_to_ras @ np.diag([scale, scale, scale, 1.0]) for scan in scans]
        seen = [appearance(scan.array, grid, "zscore") for scan, grid in zip(scans, grids, strict=True)]
        record = record_of_images([look for look in seen if look is not None], "zscore", None)
        spec = dataclasses.replace(bundle.spec, training={"images": record})
        save_description(tmp_path / f"model-{scale}", spec, bundle)
        asked = {"methods": ("center",), **PLANES}
        summary = run(
            tmp_path, tmp_path / f"new-{scale}", model=f"model-{scale}", manifest=home / "manifest.csv", options=asked
        )
        assert ("differ from" in summary) is bool(told)
        assert told in summary


def test_what_an_earlier_version_did_not_measure_is_added_and_nothing_else_changes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"methods": ("matched-cam", "slicewise-cam"), "filter": "hann", "smooth_mm": 3.0, **PLANES}
    run(home, tmp_path / "old", options=asked, stages=(3,))
    before = load_bundle(tmp_path / "old").spec
    assert "images" not in before.training
    monkeypatch.setattr(calibration, "CALIBRATED_PRESETS", ("fast", "balanced"))
    monkeypatch.setitem(PRESETS, "fast", {"slices": 6, "directions": 3})
    monkeypatch.setitem(PRESETS, "balanced", {**PLANES, "directions": 5})
    summary = complete(tmp_path / "old", home / "manifest.csv", tmp_path / "new", QUIETLY)
    after = load_bundle(tmp_path / "new").spec
    assert "  6 slices in each of 3 directions: threshold " in summary
    counts = {method: len(record.pop("other_planes", [])) for method, record in after.thresholds.items()}
    assert counts == {"matched-cam": 2, "slicewise-cam": 1}  # which has no directions
    images = after.training.pop("images")
    assert images["volumes"] == 2  # of split train
    assert json.loads(json.dumps(dataclasses.asdict(after))) == json.loads(json.dumps(dataclasses.asdict(before)))
    with pytest.raises(TonnoError, match=r"model: has no thresholds to complete"):
        complete(home / "model", home / "manifest.csv", tmp_path / "none", QUIETLY)


def test_presets_can_be_left_for_later(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "CALIBRATED_PRESETS", ("fast",))
    monkeypatch.setitem(PRESETS, "fast", {"slices": 6, "directions": 3})
    asked = {"methods": ("averaged-cam",), "smooth_mm": 3.0, **PLANES}
    for name, presets in (("whole", True), ("own", False)):
        run(home, tmp_path / name, options=asked, stages=(3,), presets=presets)
    whole, own = (load_bundle(tmp_path / name).spec.thresholds["averaged-cam"] for name in ("whole", "own"))
    assert own == {name: value for name, value in whole.items() if name != "other_planes"}
    complete(tmp_path / "own", home / "manifest.csv", tmp_path / "completed", QUIETLY)
    assert load_bundle(tmp_path / "completed").spec.thresholds["averaged-cam"] == whole


def test_mistakes_are_told_before_anything_is_computed(home: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(TonnoError, match="there"):
        run(home, tmp_path / "there")
    with pytest.raises(TonnoError, match="`stage` 9 does not exist in this encoder, expected 1 to"):
        run(home, tmp_path / "new", stages=(9,))
    lines = (home / "manifest.csv").read_text(encoding="utf-8").splitlines()
    (home / "positive.csv").write_text("\n".join(line for line in lines if ",0," not in line), encoding="utf-8")
    with pytest.raises(TonnoError, match=r"positive.csv: no volume with label 0 has split val"):
        run(home, tmp_path / "new", manifest="positive.csv")
    whole = "\n".join(line.rsplit(",", 1)[0] for line in lines)
    assert lines[0].endswith(",split")
    (home / "whole.csv").write_text(whole, encoding="utf-8")
    with pytest.raises(TonnoError, match=r"whole.csv: gives no split.*split.csv in the run's folder"):
        run(home, tmp_path / "new", manifest="whole.csv")
    (home / "other.csv").write_text("\n".join(lines).replace("label", "label:edema", 1), encoding="utf-8")
    with pytest.raises(TonnoError, match="labels are of edema, the model tells finding"):
        run(home, tmp_path / "new", manifest="other.csv")
    first = next(number for number, line in enumerate(lines) if line.endswith("val"))
    lost = [
        line.replace(".nii", "-gone.nii") if number in (first, first + 1) else line for number, line in enumerate(lines)
    ]
    (home / "lost.csv").write_text("\n".join(lost), encoding="utf-8")
    with pytest.raises(TonnoError, match=rf"2 of 3 volumes are missing: line {first + 1}: .*; line {first + 2}: "):
        run(home, tmp_path / "new", manifest="lost.csv")
    assert not (tmp_path / "new").exists()


def test_a_missing_volume_of_training_does_not_matter(home: Path, tmp_path: Path) -> None:
    lines = (home / "manifest.csv").read_text(encoding="utf-8").splitlines()
    lost = [line.replace(".nii", "-gone.nii") if line.endswith("train") else line for line in lines]
    (home / "untrained.csv").write_text("\n".join(lost), encoding="utf-8")
    options = {"methods": ("center",), **PLANES}
    assert "center: threshold" in run(home, tmp_path / "new", manifest="untrained.csv", options=options)
