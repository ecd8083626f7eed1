"""A regressor from its manifest to its heatmaps by the commands, and what says in one line that it is not for it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.analytic import correlation
from tests.blob_heads import amounts_by_blob, make_head, write_heads
from tests.networks import write_random_bundle
from tests.training.test_regression import numbers_set
from tests.training.toy import OPTIONS
from tonno_core import cli
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.quantity import Quantity
from tonno_core.commands import cohort_summary
from tonno_core.commands import reconstruct as reconstruct_command
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_heatmap

pytestmark = pytest.mark.usefixtures("no_curves", "kept_signals")
# Ours of the toy trainings, as the command line has them.
ASKED = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def tonno(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbers_set(tmp_path_factory.mktemp("numbers"), train=4, val=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regressor with random weights."""
    folder = tmp_path_factory.mktemp("model") / "regressor"
    quantity = Quantity("brightness", 1000.0, 20.0)
    return write_random_bundle(folder, classes=("brightness",), kind="regressor", schema=2, quantity=quantity)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out pictures, which take longer than all else."""
    monkeypatch.setattr(reconstruct_command, "write_overview", lambda path, *rest, **more: path.touch())
    monkeypatch.setattr(cohort_summary, "_write_sheets", lambda *rest: None)


def test_from_a_manifest_to_heatmaps(
    manifest: Path, tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, scan = tmp_path / "model", manifest.parent / "6.nii.gz"
    assert tonno("train", manifest, "--target", "brightness", "--output", trained, *ASKED, "--steps", "3") == 0
    said = capsys.readouterr().out
    assert "brightness: mean 10" in said
    assert "validation, mean of random slices: Pearson" in said
    assert "calibrat" not in said
    spec = load_bundle(trained).spec
    assert (spec.kind, spec.thresholds) == ("regressor", {})
    assert (spec.defaults["methods"], spec.defaults["cam"]) == (["tonno"], "gradcam")
    few = ("--slices", 12, "--directions", 8)
    assert tonno("reconstruct", scan, "--model", trained, "--output", tmp_path / "one", *few) == 0
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert files == {"heatmap-tonno.nii.gz", "report.json", "overview.png"}  # no segmentation
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert report["model"]["kind"] == "regressor"
    assert report["model"]["quantity"] == {"name": "brightness", "mean": spec.quantity.mean, "sd": spec.quantity.sd}
    assert report["score"] == report["prediction"]["value"]
    # Hardly trained, it answers near the mean of what it has seen.
    assert report["prediction"]["value"] == pytest.approx(spec.quantity.mean, abs=5 * spec.quantity.sd)
    assert report["methods"]["tonno"]["threshold_source"].startswith("none: a regressor")
    assert report["methods"]["tonno"]["components"] == []
    assert not {"threshold", "volume_mm3"} & set(report["methods"]["tonno"])  # they would look like measurements
    said = capsys.readouterr().out
    assert f"predicted: brightness {report['score']:.4g}" in said
    assert "what is a finding  -             -            " in said  # a volume of 0 would look like a measurement


def test_a_list_of_numbers_is_checked(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tonno("check", manifest, "--target", "brightness") == 0
    said = capsys.readouterr().out
    assert "least" in said
    assert "split val has 3 volumes, too few to tell how well it is learned" in said
    assert "usable: 0 errors" in said


def test_a_threshold_makes_a_segmentation(manifest: Path, model: Path, tmp_path: Path, no_pictures: None) -> None:
    scan, output = manifest.parent / "0.nii.gz", tmp_path / "out"
    methods = ("--method", "tonno", "--method", "matched-cam", "--method", "averaged-cam")
    assert tonno("reconstruct", scan, "--model", model, "--output", output, "--threshold", "1", *methods) == 0
    for method in ("tonno", "matched-cam", "averaged-cam"):
        mask = read_heatmap(output / f"segmentation-{method}.nii.gz").array
        heatmap = read_heatmap(output / f"heatmap-{method}.nii.gz").array
        np.testing.assert_array_equal(mask != 0, heatmap >= 1)
    assert tonno("reconstruct", scan, "--model", model, "--output", output, "--overwrite") == 0
    # The model's own method alone was made again; what was a segmentation of its old heatmap is gone.
    assert {path.name for path in output.glob("segmentation-*")} == {
        "segmentation-tonno.nii.gz", "segmentation-averaged-cam.nii.gz",
    }  # fmt: skip


def test_a_cohort_asks_for_no_threshold_and_lists_the_predictions(
    manifest: Path, model: Path, tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "two.csv"
    listed.write_text(f"volume\n{manifest.parent / '0.nii.gz'}\n{manifest.parent / '1.nii.gz'}\n")
    assert tonno("reconstruct", listed, "--model", model, "--output", tmp_path / "out") == 0
    assert "brightness  2        -                  -                 " in capsys.readouterr().out
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["brightness"] * 2
    for case, row in zip(sorted((tmp_path / "out" / "cases").iterdir()), rows, strict=True):
        assert float(row["score"]) == json.loads((case / "report.json").read_text())["prediction"]["value"]
        assert (row["threshold"], row["volume_mm3"], row["components"]) == ("", "", "")
        assert not list(case.glob("segmentation-*"))
    assert tonno("reconstruct", listed, "--model", model, "--output", tmp_path / "out") == 0  # resumes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("evaluate", "M", "--model", "B", "--output", "O"), "is a regressor; an evaluation compares findings with"),
        (("calibrate", "B", "M", "--output", "O"), "is a regressor; a calibration looks for thresholds of findings"),
        (("distill", "M", "--model", "B", "--output", "O"), "is a regressor, whose heatmaps tell how much"),
        (("reproduce", "fig2", "V", "--model", "B", "--output", "O"), "is a regressor, expected a classifier"),
        (("reconstruct", "V", "--model", "B", "--output", "O", "--stop-when", "stable"), "--stop-when looks at segm"),
        (("reconstruct", "V", "--model", "B", "--output", "O", "--format", "dicom"), "--format dicom: a regressor has"),
        (("reconstruct", "V", "--model", "B", "--output", "O", "--method", "segmenter"), "the model is a regressor of"),
        (("train", "M", "--output", "O", "--target", "brightness", "--class", "x"), "--target and --class: expected"),
        (("train", "M", "--output", "O", "--target", "brightness", "--rounds", "2"), "--rounds 2 lets slices without"),
        (("train", "M", "--output", "O", "--target", "age"), "no column age, which --target names; found"),
        (
            ("train", "M", "--output", "O", "--target", "brightness", "--calibrate-stages", "2"),
            "--calibrate-stages has no meaning for a regressor",
        ),
        (("train", "M", "--output", "O"), "column label missing"),
    ],
)
def test_what_is_not_for_a_regressor_says_so(
    words: tuple[str, ...], said: str, manifest: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"M": manifest, "B": model, "V": manifest.parent / "0.nii.gz", "O": tmp_path / "out"}
    assert tonno(*(places.get(word, word) for word in words)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_regressor_has_no_threshold_and_says_what_it_is(model: Path) -> None:
    bundle = load_bundle(model)
    assert "slices of 32 x 32" in repr(bundle)
    with pytest.raises(TonnoError, match="is a regressor, which has no thresholds"):
        bundle.threshold("tonno")
    with pytest.raises(TonnoError, match="is a regressor, expected a model of the kind classifier"):
        bundle.to_calibrate()


@pytest.mark.slow
def test_the_heatmap_tells_the_load_of_single_blobs(
    tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """From one number for each head to the number of each blob, which nobody told: two minutes on a core of its own."""
    heads, trained, output = tmp_path / "heads", tmp_path / "model", tmp_path / "out"
    listed = write_heads(heads, train=60, val=12, test=10)
    options = ("--encoder", "test_resnet", "--slice-size", 32, "--steps", 400, "--epochs", 4, "--intensity")
    batch = ("window:0:400", "--volumes-per-batch", 16, "--device", "cpu", "--precision", "float32")
    assert tonno("train", listed, "--target", "load", "--output", trained, *options, *batch) == 0
    planes = ("--slices", 32, "--directions", 96, "--device", "cpu")
    assert tonno("reconstruct", heads / "test.csv", "--model", trained, "--output", output, *planes) == 0
    drawn, found, totals, predicted = [], [], [], []
    for report in sorted((output / "cases").glob("*/report.json")):
        told = json.loads(report.read_text())["prediction"]
        _, centres, loads = make_head(int(report.parent.name.partition("-")[2]))
        totals.append(loads.sum())
        predicted.append(told["value"])
        if len(loads):
            heatmap = read_heatmap(report.parent / "heatmap-tonno.nii.gz")
            drawn += loads.tolist()
            found += amounts_by_blob(heatmap, centres, told["per_mm3"]).tolist()
    slope = load_bundle(trained).spec.training["validation"]["slope"]
    # Measured: 0.985, 0.894 and 0.59 / 0.86; with 80 heads and 600 steps 0.986, 0.894 and 0.57 / 0.65. Another machine
    # rounds to other weights.
    assert correlation(totals, predicted) > 0.9
    assert correlation(drawn, found) > 0.75
    assert np.polyfit(drawn, found, 1)[0] / slope == pytest.approx(0.8, abs=0.35)
