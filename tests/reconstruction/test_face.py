"""`tonno.reconstruct` as a person in a notebook calls it: paths, arrays, thresholds, the picture, the warnings."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import tonno_core as tonno
from tests.networks import write_random_bundle
from tests.training.toy import toy_scan
from tonno_core import cli
from tonno_core.errors import TonnoError, TonnoWarning
from tonno_core.volume.appearance import appearance, record_of_images
from tonno_core.volume.exchange import to_xyz

SETTINGS = tonno.ReconstructionSettings(methods=("tonno", "matched-cam"), slices=12, directions=16)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tonno.write_volume(toy_scan(0, 1), folder / "scan.nii.gz")
    write_random_bundle(
        folder / "model", pixel_mm=2.0, defaults={"methods": ["matched-cam"], "slices": 12, "directions": 16}
    )
    return folder


def test_paths_arrays_and_volumes_are_the_same(home: Path) -> None:
    volume, model = tonno.read_volume(home / "scan.nii.gz"), tonno.load_bundle(home / "model")
    expected = tonno.reconstruct(volume, model, SETTINGS, device="cpu").heatmaps
    for scan in (home / "scan.nii.gz", str(home / "scan.nii.gz"), to_xyz(volume)):
        for classifier in (home / "model", str(home / "model"), model):
            found = tonno.reconstruct(scan, classifier, SETTINGS, device="cpu").heatmaps
            for method, heatmap in expected.items():
                np.testing.assert_array_equal(found[method].array, heatmap.array)
                np.testing.assert_array_equal(found[method].ijk_to_ras, volume.ijk_to_ras)


def test_what_is_no_scan_is_refused(home: Path) -> None:
    with pytest.raises(TonnoError, match=r"`volume`: is a ndarray, expected a Volume, a path, or \(array, affine\)"):
        tonno.reconstruct(np.zeros((3, 4, 5)), home / "model", SETTINGS, device="cpu")  # type: ignore[arg-type]


def test_the_segmentation_is_what_the_command_writes(home: Path, tmp_path: Path) -> None:
    arguments = ["reconstruct", str(home / "scan.nii.gz"), "--model", str(home / "model"), "--output"]
    with pytest.raises(SystemExit):
        cli.main([*arguments, str(tmp_path / "out"), "--device", "cpu"])
    result = tonno.reconstruct(home / "scan.nii.gz", home / "model", device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TonnoWarning)
        made = result.segment()
    written = tonno.read_volume(tmp_path / "out" / "segmentation-matched-cam.nii.gz")
    np.testing.assert_array_equal(made.mask, written.array)
    assert made.source == "otsu, as the model brings none for this method"
    higher = result.segment("matched-cam", threshold=made.threshold + 1e-3, min_volume_mm3=30.0)
    assert higher.source == "given"
    assert higher.mask.sum() <= made.mask.sum()
    with pytest.raises(TonnoError, match="'center': no such heatmap, expected one of matched-cam"):
        result.segment("center")


def test_a_models_threshold(home: Path) -> None:
    shipped = tonno.load_bundle(Path(tonno.__file__).parent / "models" / "brain-lesions")
    record = shipped.spec.thresholds["matched-cam"]
    assert shipped.threshold("matched-cam") == record["threshold"]
    assert shipped.threshold("matched-cam", shipped.spec.classes[0]) == record["threshold"]
    with pytest.raises(TonnoError, match="`class_name` 'x' is unknown to this model, expected one of lesion"):
        shipped.threshold("matched-cam", "x")
    with pytest.raises(TonnoError, match="brings no threshold for tonno; calibrate it"):
        tonno.load_bundle(home / "model").threshold("tonno")
    with pytest.raises(TonnoError, match="`methods` segmenter: the model is a classifier of slices"):
        shipped.threshold("segmenter")
    with pytest.raises(TonnoError, match="`methods` is matched, expected one of tonno, "):
        shipped.threshold("matched")


def test_what_the_command_line_warns_of_is_a_warning(home: Path) -> None:
    settings = tonno.ReconstructionSettings(slices=12, directions=8, radius_mm=400.0)
    with pytest.warns(TonnoWarning, match="slices have pixels of .* mm, the model was trained at"):
        result = tonno.reconstruct(home / "scan.nii.gz", home / "model", settings, device="cpu")
    with pytest.warns(TonnoWarning, match="the threshold -1 is not above 0"):
        result.segment(threshold=-1.0)


def test_an_image_unlike_those_of_the_training_is_warned_of(home: Path, tmp_path: Path) -> None:
    """Also by the command line, in its output and its report; an image like them is not."""
    volume = tonno.read_volume(home / "scan.nii.gz")
    seen = appearance(volume.array, volume.ijk_to_ras, "zscore")
    assert seen is not None
    images = record_of_images([seen], "zscore", 2.0)
    write_random_bundle(tmp_path / "model", pixel_mm=2.0, training={"images": images})
    thick = tonno.Volume(volume.array[::3], volume.ijk_to_ras @ np.diag([1.0, 1.0, 3.0, 1.0]))
    settings = tonno.ReconstructionSettings(slices=12, directions=8)
    expected = r"Voxels of 12\.0 mm; the model was trained on 4\.0 mm"
    with pytest.warns(TonnoWarning, match=expected):
        tonno.reconstruct(thick, tmp_path / "model", settings, device="cpu")
    tonno.reconstruct(volume, tmp_path / "model", settings, device="cpu")
    tonno.write_volume(thick, tmp_path / "thick.nii.gz")
    with pytest.raises(SystemExit):
        cli.main(
            ["reconstruct", str(tmp_path / "thick.nii.gz"), "--model", str(tmp_path / "model"), "--device", "cpu",
             "--slices", "12", "--directions", "8", "--output", str(tmp_path / "out")]
        )  # fmt: skip
    assert re.search(expected, json.loads((tmp_path / "out/report.json").read_text())["warnings"][0])


def test_the_picture(home: Path, tmp_path: Path) -> None:
    result = tonno.reconstruct(home / "scan.nii.gz", "pixel-sum", SETTINGS, device="cpu")
    picture = result.show("tonno", threshold=0.5)
    assert picture.width == 1760
    picture.save(tmp_path / "overview.png")
    assert np.asarray(picture.convert("L")).std() > 10  # something is drawn


def test_reprs_are_short(home: Path) -> None:
    volume, model = tonno.read_volume(home / "scan.nii.gz"), tonno.load_bundle(home / "model")
    result = tonno.reconstruct(volume, model, SETTINGS, device="cpu")
    for value, start in (
        (volume, "Volume("),
        (model, "Bundle("),
        (result, "Reconstruction(tonno, matched-cam of class"),
    ):
        assert repr(value).startswith(start)
        assert len(repr(value)) < 200 + len(str(home))


def test_progress(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    tonno.reconstruct(home / "scan.nii.gz", home / "model", SETTINGS, device="cpu", progress=lambda *n: told.append(n))
    assert told[-1][0] == told[-1][1] > 0
    tonno.reconstruct(home / "scan.nii.gz", home / "model", SETTINGS, device="cpu")
    assert capsys.readouterr().err == ""  # neither a terminal nor a notebook
    for room in ("reconstruction.run", "progress"):
        monkeypatch.setattr(f"tonno_core.{room}.is_watched", lambda: True)
    longer = dataclasses.replace(SETTINGS, directions=400)  # a bar shows itself after a tenth of a second
    tonno.reconstruct(home / "scan.nii.gz", home / "model", longer, device="cpu")
    assert "reconstructing" in capsys.readouterr().err
    tonno.reconstruct(home / "scan.nii.gz", home / "model", SETTINGS, device="cpu", progress=False)
    assert capsys.readouterr().err == ""
