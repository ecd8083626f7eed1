"""`tonno reconstruct --stop-when stable`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.analytic import grid_around, make_blobs
from tests.commands.single import reconstruct_files
from tests.networks import write_random_bundle
from tonno_core import cli
from tonno_core.commands.request import Compute, Options, _one_pass, prepare, read_options
from tonno_core.errors import TonnoError
from tonno_core.reconstruction import passes
from tonno_core.segmentation.metrics import dice
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.io import read_volume, write_volume

CPU = Compute("cpu")
PLANES = {"slices": 16, "directions": 300, "slice_size": 12}


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three smooth blobs. Slices this small would be taken hundreds of directions at once."""
    monkeypatch.setattr(passes, "CPU_BATCH", 2)
    # On the slowest machine; previews that decide are made all the same.
    monkeypatch.setattr(passes, "_PREVIEW_TIME", 0.0)
    grid = grid_around([0, 0, 0], (24, 26, 28), (4.0, 4.0, 4.0))
    blobs = make_blobs(1, 3, reach=12.0, sigmas=(12.0, 16.0))
    write_volume(blobs.on_grid((24, 26, 28), grid), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_it_ends_when_the_segmentation_stays_and_says_after_how_many(scan: Path, tmp_path: Path) -> None:
    said = reconstruct_files(scan, tmp_path / "stop", Options("pixel-sum", PLANES, stop_when="stable"), CPU)
    reconstruct_files(scan, tmp_path / "all", Options("pixel-sum", PLANES), CPU)
    report = json.loads((tmp_path / "stop/report.json").read_text())
    found = report["stop_when"]
    assert (found["asked"], found["stable"]) == ("stable", True)
    assert 32 <= found["directions"] < 300
    last = found["checks"][-1]
    # A batch may have been taken in between the comparison and the end of the run.
    assert last["directions"] <= found["directions"]
    assert 2 * last["half"] <= last["directions"]
    assert last["dice"]["tonno"] >= 0.98
    assert all(check["dice"]["tonno"] < 0.98 for check in found["checks"][:-1] if check["directions"] >= 32)
    assert f"stable after {found['directions']} directions: Dice {last['dice']['tonno']:.3f} of the" in said
    # All planes: those of the directions, and three times along R, A and S.
    assert report["slices"]["total"] == 18 * (found["directions"] + 3)
    # What it is for: the segmentation is hardly another than that of all directions.
    one, other = (read_volume(tmp_path / name / "segmentation-tonno.nii.gz").array for name in ("stop", "all"))
    assert dice(one, other) > 0.97
    assert "stop_when" not in json.loads((tmp_path / "all/report.json").read_text())


def test_the_threshold_that_will_be_used_decides(scan: Path, tmp_path: Path) -> None:
    # Above all of the heatmap: nothing is segmented, which is as stable as can be.
    options = Options("pixel-sum", PLANES, threshold="1e9", stop_when="stable")
    reconstruct_files(scan, tmp_path / "none", options, CPU)
    found = json.loads((tmp_path / "none/report.json").read_text())["stop_when"]
    assert found["stable"]
    first = next(check for check in found["checks"] if check["directions"] >= 32)
    assert found["checks"][-1] == first


def test_a_threshold_for_all_directions_says_so_after_an_early_end(scan: Path, tmp_path: Path) -> None:
    record = {"threshold": 1e9, "settings": {"slices": 16, "directions": 300}}
    model = write_random_bundle(tmp_path / "model", thresholds={"tonno": record})
    options = Options(str(model), {**PLANES, "slice_size": 32, "methods": ("tonno",)}, stop_when="stable")
    reconstruct_files(scan, tmp_path / "stop", options, CPU)
    report = json.loads((tmp_path / "stop/report.json").read_text())
    assert report["stop_when"]["stable"]
    assert report["methods"]["tonno"]["threshold_source"] == "the model's own, calibrated at other directions"


def test_what_does_not_become_stable_runs_to_its_end(scan: Path, tmp_path: Path) -> None:
    # A network of random weights, six directions.
    model = write_random_bundle(tmp_path / "model")
    said = reconstruct_files(scan, tmp_path / "out", Options(str(model), stop_when="stable"), CPU)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["stop_when"]["stable"], report["stop_when"]["directions"]) == (False, 6)
    assert "not stable (Dice 0.98 of successive halves) before all 6 directions" in said
    assert report["explained_by_tonno"] is None  # no ToNNO here; and nothing was cut short


def test_methods_of_different_numbers_of_directions_share_one_pass() -> None:
    settings = ReconstructionSettings(methods=("tonno", "matched-cam"), directions=200, cam_directions=100)
    assert {_one_pass(settings).directions_for(method) for method in settings.methods} == {200}
    cam_alone = ReconstructionSettings(methods=("matched-cam",), directions=200, cam_directions=100)
    assert _one_pass(cam_alone).directions_for("matched-cam") == 100
    request = read_options(Options("pixel-sum", {"directions": 64}, preset="paper", stop_when="stable"))
    assert request.settings.directions_for("matched-cam") == 64


def test_several_processes_are_refused(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TonnoError, match=r"^`stop_when` looks into the run, which several processes share;"):
        reconstruct_files(scan, tmp_path / "out", Options("pixel-sum", PLANES, stop_when="stable"), CPU)


def test_the_option_is_there(scan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "pixel-sum", "--output", str(tmp_path / "out"), "--stop-when", "soon"]
    with pytest.raises(SystemExit) as done:
        cli.main(["reconstruct", str(scan), *words])
    assert done.value.code == 2
    assert "'soon' is not 'stable'" in capfd.readouterr().err


def test_previews_of_a_zoomed_run_are_judged_as_its_result_is(tmp_path: Path) -> None:
    """By the model's threshold as it is: what planes in a region do to its scale is not known."""
    calibrated = {"slices": 16, "directions": 300, "slice_size": None}
    others = [{"threshold": 0.5, "settings": {**calibrated, "slices": 8}}]
    record = {"threshold": 2.0, "settings": calibrated, "other_planes": others}
    model = write_random_bundle(tmp_path / "model", thresholds={"tonno": record})
    asked = {"methods": ("tonno",), "slices": 12, "directions": 300, "slice_size": 32}
    for zoom, expected in ((True, "unscaled"), (False, "scaled")):
        options = Options(str(model), asked, region="-10,-10,-10:10,10,10", zoom=zoom, stop_when="stable")
        run = prepare(read_options(options), CPU).run
        ends = [run.threshold(run.targets[0], "tonno", directions) for directions in (None, 300, 64)]
        assert [known.source if known else None for known in ends] == [expected] * 3
