"""What ScoreCAM costs: said before the first slice, counted in the result."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.analytic import grid_around, make_blobs
from tests.runs import executed
from tests.training.toy import write_toy_set
from tonno_core import ReconstructionSettings, TonnoWarning, reconstruct
from tonno_core.bundle import calibration
from tonno_core.bundle.file import BundleSpec, load_bundle, save_bundle
from tonno_core.cli import main
from tonno_core.commands.calibrate import recalibrate
from tonno_core.encoding.classifier import create_model
from tonno_core.reporting import Reporter
from tonno_core.settings import model_defaults
from tonno_core.training.calibration import Search
from tonno_core.training.look import Look
from tonno_core.volume.io import write_volume
from tonno_core.volume.volume import Volume

SETTINGS: dict[str, Any] = {
    "methods": ("tonno", "averaged-cam", "slicewise-cam"), "stages": (1,), "slices": 8, "directions": 5,
    "cam_directions": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorecam") / "model"
    spec = BundleSpec(
        encoder="resnet10t", channels=1, classes=("lesion",), norm="batch", slice_size=32, pixel_mm=None,
        intensity="none", frame="physical", defaults=model_defaults(),
    )  # fmt: skip
    network = create_model("resnet10t", channels=1, classes=1, norm="batch", slice_size=32)
    save_bundle(folder, spec, network.state_dict())
    return folder


def blob() -> Volume:
    shape = (10, 12, 11)
    return make_blobs(0, 2, reach=2.0, sigmas=(2.0, 3.0)).on_grid(shape, grid_around((0, 0, 0), shape, (2, 2, 2)))


def test_the_cost_is_said_before_the_first_slice_and_counted_after_the_last(model: Path) -> None:
    bundle = load_bundle(model)
    said: list[str] = []
    reporter = Reporter(progress=lambda done, total: said.append("slices"), say=said.append)
    result = executed(blob(), bundle, ReconstructionSettings(cam="scorecam", **SETTINGS), reporter=reporter)
    text, *others = said
    assert set(others) == {"slices"}
    passes, each, slices = (int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", text))
    # Two directions of 8 + 2 offsets, and those along S: more than 22 mm in steps of 2 mm.
    assert each == 65
    assert slices > 2 * 10 + 11
    assert passes == 65 * slices
    assert 0 < result.passes <= passes + 2 * 65  # and a blank slice for each of the two passes
    assert result.passes % 65 == 0
    assert f"{result.passes:,} passes of the network for scorecam" in result.looked_at
    for cam in ("layercam", "gradcam++"):
        said.clear()
        other = executed(blob(), bundle, ReconstructionSettings(cam=cam, **SETTINGS), reporter=reporter)
        assert set(said) == {"slices"}
        assert other.passes == 0
        assert "passes" not in other.looked_at


def test_pixel_sum_has_no_channels_to_mask() -> None:
    said: list[str] = []
    settings = ReconstructionSettings(cam="scorecam", **SETTINGS)
    result = executed(blob(), "pixel-sum", settings, reporter=Reporter(say=said.append))
    assert (said, result.passes) == ([], 0)


def test_the_command_and_python_say_it_too(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(blob(), tmp_path / "scan.nii.gz")
    words = "--cam scorecam --stage 1 --slices 6 --directions 3 --cam-directions 2 --method averaged-cam --method tonno"
    arguments = [str(tmp_path / "scan.nii.gz"), "--model", str(model), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["reconstruct", *arguments, *words.split(), "--device", "cpu", "--precision", "float32"])
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert "scorecam: up to 1,040 passes through the network, 65 for each of 16 slices; layercam takes one" in said.err
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert 0 < report["network_passes"] <= 1040 + 65
    assert (report["settings"]["cam"], report["settings"]["cam_directions"]) == ("scorecam", 2)
    assert f"{report['network_passes']:,} passes of the network for scorecam" in said.out
    settings = ReconstructionSettings(("averaged-cam",), "scorecam", (1,), slices=6, directions=2)
    with pytest.warns(TonnoWarning, match="scorecam: up to 1,040 passes"):
        reconstruct(blob(), str(model), settings, device="cpu", precision="float32", progress=False)


@pytest.mark.parametrize("cam", ["gradcam++", "scorecam"])
def test_a_calibration_of_another_kind_makes_it_the_models_own(
    cam: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "CALIBRATED_PRESETS", ())
    manifest = write_toy_set(tmp_path / "toy", train=0, val=2)
    options = {"methods": ("averaged-cam",), "cam": cam, "slices": 6, "directions": 2, "smooth_mm": 0.0}
    recalibrate(model, manifest, tmp_path / "new", options, Search(stages=(1,)), Look("cpu", "float32", progress=False))
    choices = load_bundle(tmp_path / "new").spec.choices
    settings = choices.settings()
    assert (settings.cam, settings.directions_for("averaged-cam")) == (cam, 2)
    known = choices.threshold(choices.variant("averaged-cam"), settings)
    assert known is not None
    assert known.source == "calibrated"
    other = choices.settings({"cam": "layercam"})
    assert choices.threshold(choices.variant("averaged-cam"), other) is None
