"""A segmenter on the command line: one volume, many, DICOM; and clear words where something has no meaning."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import ndimage

from tests.commands.test_dicom import write_series
from tests.mirrors import write_mirror
from tests.training.toy import toy_scan, two_balls
from tonno_core import cli, load_bundle
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.volume.io import read_volume, write_volume

NETWORK = SegmenterNetwork((6.0, 6.0, 6.0), (32, 32, 32), filters=8, blocks=(1, 1))
RECORD = {"threshold": 3.0, "settings": {"smooth_mm": 0.0}, "min_volume_mm3": 900.0}
pytestmark = pytest.mark.usefixtures("kept_signals")
CPU = ("--device", "cpu", "--precision", "float32")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans with and without a lesion, and a segmenter that answers its input."""
    folder = tmp_path_factory.mktemp("home")
    for index in (0, 1):
        write_volume(toy_scan(index, index), folder / f"scan{index}.nii.gz")
    write_mirror(folder / "model", NETWORK, thresholds={"segmenter": RECORD}, about={"finding": "bright parts"})
    return folder


def tonno(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(argument) for argument in arguments])


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The only line that is said."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(argument) for argument in arguments])
    assert done.value.code == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    return err


def test_one_volume(home: Path, tmp_path: Path) -> None:
    made = tonno("reconstruct", home / "scan1.nii.gz", "--model", home / "model", "--output", tmp_path / "out", *CPU)
    assert made.exit_code == 0, made.output
    names = {"heatmap-segmenter.nii.gz", "segmentation-segmenter.nii.gz", "report.json", "overview.png"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    assert "segmenter  finding  3 (the model's own)" in made.stdout
    assert "1 window in" in made.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    heatmap = read_volume(tmp_path / "out" / "heatmap-segmenter.nii.gz").array
    expected = load_bundle(home / "model").segmenter().answer(toy_scan(1, 1))[0].numpy()
    np.testing.assert_allclose(heatmap, expected, rtol=0, atol=1e-6)
    assert (report["windows"], report["slices"]["total"], report["profiles"]) == (1, 0, [])
    assert (report["model"]["kind"], report["model"]["network"]) == ("segmenter", NETWORK.record())
    method = report["methods"]["segmenter"]
    assert (method["settings"], method["threshold"], method["min_volume_mm3"]) == ({"smooth_mm": 0.0}, 3.0, 900.0)
    mask = read_volume(tmp_path / "out" / "segmentation-segmenter.nii.gz").array > 0
    assert mask.any()
    assert (heatmap[mask] >= 3.0).all()


def test_what_is_stated_counts_before_what_the_model_brings(home: Path, tmp_path: Path) -> None:
    options = ("--threshold", "-1", "--min-volume-mm3", "0", "--smooth-mm", "4", "--method", "segmenter")
    scan, output = home / "scan1.nii.gz", tmp_path / "out"
    made = tonno("reconstruct", scan, "--model", home / "model", "--output", output, *CPU, *options)
    assert made.exit_code == 0, made.output
    method = json.loads((output / "report.json").read_text())["methods"]["segmenter"]
    assert (method["threshold"], method["threshold_source"], method["settings"]) == (-1.0, "given", {"smooth_mm": 4.0})
    assert "min_volume_mm3" not in method
    # A logit of -1 is a threshold like any other; but this mask is more than half of the volume.
    assert "100 % of the volume is segmented: that is no finding" in made.output
    assert "tonno calibrate" not in made.output


def test_parts_of_too_low_a_peak_are_dropped(home: Path, tmp_path: Path) -> None:
    scan = tmp_path / "balls.nii.gz"
    write_volume(two_balls(), scan)
    answer = load_bundle(home / "model").segmenter().answer(two_balls())[0].numpy()
    labels, count = ndimage.label(answer >= 3.0, np.ones((3, 3, 3)))
    assert count == 2
    low, high = sorted(ndimage.maximum(answer, labels, (1, 2)))
    level = float(low + high) / 2
    record = {"threshold": 3.0, "settings": {"smooth_mm": 0.0}, "min_peak": level}
    model = write_mirror(tmp_path / "model", NETWORK, thresholds={"segmenter": record})

    def run(name: str, *more: object) -> dict[str, Any]:
        made = tonno("reconstruct", scan, "--model", model, "--output", tmp_path / name, *CPU, *more)
        assert made.exit_code == 0, made.output
        return dict(json.loads((tmp_path / name / "report.json").read_text())["methods"]["segmenter"])

    own = run("own")
    assert (own["min_peak"], len(own["components"])) == (level, 1)
    assert own["components"][0]["peak"] == pytest.approx(high, abs=1e-6)
    everything = run("all", "--min-peak", "none")
    assert len(everything["components"]) == 2
    assert "min_peak" not in everything
    assert run("given", "--min-peak", level + 100)["components"] == []
    assert len(run("above", "--threshold", level)["components"]) == 1
    many = (home / "scan0.nii.gz", scan, "--model", model, "--output", tmp_path / "many", *CPU)
    assert tonno("reconstruct", *many).exit_code == 0
    settings = json.loads((tmp_path / "many" / "settings.json").read_text())
    assert settings["heatmaps"]["segmenter"]["min_peak"] == level
    assert "min_peak" not in settings
    assert tonno("reconstruct", *many).exit_code == 0  # goes on
    assert tonno("reconstruct", *many, "--min-peak", "none").exit_code != 0  # another cohort


def test_each_volume_has_a_threshold_of_its_own(home: Path, tmp_path: Path) -> None:
    record = {"threshold": 3.0, "settings": {"smooth_mm": 0.0}, "above_half_peak": -0.5}
    model = write_mirror(tmp_path / "model", NETWORK, thresholds={"segmenter": record})
    write_volume(two_balls(), tmp_path / "balls.nii.gz")
    scans = (tmp_path / "balls.nii.gz", home / "scan0.nii.gz")
    assert tonno("reconstruct", *scans, "--model", model, "--output", tmp_path / "many", *CPU).exit_code == 0
    found = []
    for report in sorted((tmp_path / "many" / "cases").glob("*/report.json")):
        made = json.loads(report.read_text())["methods"]["segmenter"]
        assert made["threshold"] == pytest.approx(made["peak"] / 2 - 0.5, abs=1e-5)
        assert made["threshold_source"] == "the model's own, half way to the highest logit"
        found.append(made["threshold"])
    assert len(set(found)) == 2
    settings = json.loads((tmp_path / "many" / "settings.json").read_text())["heatmaps"]["segmenter"]
    assert (settings["threshold"], settings["above_half_peak"]) == (3.0, -0.5)


def test_a_peak_that_is_no_number(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for text in ("low", "nan", "inf"):
        said = refused(
            capfd, "reconstruct", home / "scan1.nii.gz", "--model", home / "model", "--output", tmp_path / "out",
            "--min-peak", text,
        )  # fmt: skip
        assert f"--min-peak '{text}': expected a number, or none for all components" in said
    assert not (tmp_path / "out").exists()


def test_many_volumes(home: Path, tmp_path: Path) -> None:
    def run(*more: object) -> Result:
        volumes = (home / "scan0.nii.gz", home / "scan1.nii.gz")
        return tonno("reconstruct", *volumes, "--model", home / "model", "--output", tmp_path / "out", *CPU, *more)

    made = run()
    assert made.exit_code == 0, made.output
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
    assert [(row["method"], row["threshold"]) for row in rows] == [("segmenter", "3.0")] * 2
    assert all(float(row["volume_mm3"]) >= 900.0 for row in rows if int(row["components"]))
    assert int(rows[1]["components"]) > 0
    assert (tmp_path / "out" / "contact-sheet-1.png").is_file()
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["heatmaps"]["segmenter"]["min_volume_mm3"] == 900.0
    report = tmp_path / "out" / "cases" / rows[0]["case"] / "report.json"
    before = report.stat().st_mtime_ns
    assert run().exit_code == 0  # goes on: nothing is left
    assert report.stat().st_mtime_ns == before
    assert run("--min-volume-mm3", "0").exit_code != 0  # another cohort


def test_dicom(home: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    series = tmp_path / "series"
    write_series(series)
    network = SegmenterNetwork((2.0, 2.0, 2.0), (32, 32, 32), filters=8, blocks=(1, 1))
    model = write_mirror(tmp_path / "model", network, about={"finding": "lesion"})
    output = tmp_path / "out"
    made = tonno("reconstruct", series, "--model", model, "--output", output, "--format", "dicom", *CPU)
    assert made.exit_code == 0, made.output
    segmented = pydicom.dcmread(output / "segmentation-segmenter.dcm")
    assert segmented.Modality == "SEG"
    expected = load_bundle(model).segmenter().answer(read_volume(series))[0].numpy()
    frames = pydicom.dcmread(output / "heatmap-segmenter.dcm").pixel_array
    np.testing.assert_allclose(np.sort(frames, axis=None), np.sort(expected, axis=None), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "tonno"), "--method tonno: the model is a segmenter, whose only method is segmenter"),
        (("--slices", "20"), "--slices has no meaning for a segmenter, which looks at no planes; leave it out"),
        (("--preset", "fast"), "--preset has no meaning for a segmenter"),
        (("--stage", "2"), "--stage has no meaning for a segmenter"),
        (("--stop-when", "stable"), "--stop-when has no meaning for a segmenter"),
        (("--roi", "0,0,0:9,9,9", "--zoom"), "--zoom has no meaning for a segmenter"),
        (("--compile",), "--compile: a segmenter is not compiled; leave it out"),
    ],
)
def test_what_has_no_meaning(
    options: tuple[str, ...], said: str, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", home / "model", "--output", tmp_path / "out", *CPU, *options)
    assert said in refused(capfd, "reconstruct", home / "scan1.nii.gz", *arguments)
    assert not (tmp_path / "out").exists()


def test_other_commands(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_text("volume,label,split\n")
    model = ("--model", home / "model")
    calibrate = ("calibrate", home / "model", tmp_path / "list.csv", "--output", tmp_path / "out")
    for more in ((), ("--complete",)):
        said = refused(capfd, *calibrate, *more)
        assert "is a segmenter; a calibration chooses among the heatmaps of a classifier" in said
    assert "is a segmenter, and what is measured are the steps of a reconstruction" in refused(capfd, "bench", *model)
    classifier = Path(cli.__file__).parent / "models" / "brain-lesions"
    said = refused(capfd, "reconstruct", home / "scan1.nii.gz", "--model", classifier, "--method", "segmenter",
                   "--output", tmp_path / "out")  # fmt: skip
    assert "--method segmenter: the model is a classifier of slices" in said
