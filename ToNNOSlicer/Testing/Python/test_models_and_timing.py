"""Models without loading them, and the time that a run will take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ToNNOSlicerLib import models
from ToNNOSlicerLib.timing import RunTimes, slicesOf

from tonno_core.settings import combine


def test_shipped_model_is_found_and_described() -> None:
    model = next(one for one in models.findModels() if one.name == "brain-lesions")
    said = dict(models.description(model))
    assert said["finding"] == "bright round lesions, like enhancing metastases"
    assert said["licence"] == "Apache-2.0"
    assert said["calibration"].startswith("on 12 volumes without the finding")
    assert said["network"] == "resnet10t, 96 x 96 pixels"
    record = json.loads((model.folder / "model.json").read_text(encoding="utf-8"))["thresholds"]["tonno"]
    assert model.threshold("tonno", "lesion") == record
    assert model.threshold("tonno", "another") is None


def test_what_is_no_model_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    with pytest.raises(models.ModelError, match=r"model\.json is missing"):
        models.readModel(folder)
    (folder / "model.json").write_text("{}")
    with pytest.raises(models.ModelError, match=r"model\.safetensors is missing"):
        models.readModel(folder)
    (folder / "model.safetensors").touch()
    with pytest.raises(models.ModelError, match="KeyError"):
        models.readModel(folder)
    (folder / "model.json").write_text('{"schema": 7}')
    with pytest.raises(models.ModelError, match="schema 7 is unknown"):
        models.readModel(folder)
    assert models.findModels(tmp_path) == models.findModels()  # passed over


@pytest.mark.parametrize(
    ("text", "dicom", "differs"),
    [
        ("T1-weighted MRI of the brain", "CT", True),
        ("T1-weighted MRI of the brain", "MR", False),
        ("chest CT", "MR", True),
        ("PET and CT", "CT", False),
        ("T1-weighted MRI of the brain", None, False),  # not from DICOM
        ("T1-weighted MRI of the brain", "OT", False),  # DICOM says nothing
        ("anything", "CT", False),
    ],
)
def test_another_modality_is_named(text: str, dicom: str | None, differs: bool) -> None:
    model = models.Model(Path("m"), "m", "net", ("a",), 96, about={"modality": text})
    assert (models.otherModality(model, dicom) is not None) == differs


def test_expected_time_comes_from_the_runs_before(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "speed.json"
    times = RunTimes(file)
    assert times.expected("resnet50", "cuda:0", 224, 1000) is None
    times.record("resnet50", "cuda:0", 224, 2000, 4.0)  # 500 slices a second
    assert times.expected("resnet50", "cuda:1", 224, 1000) == 2.0
    # Half the side, a quarter of the pixels, a quarter of the time.
    assert times.expected("resnet50", "cuda:0", 112, 1000) == 0.5
    assert times.expected("resnet50", "cpu", 224, 1000) is None
    times.record("resnet50", "cuda:0", 224, 1000, 1.0)  # the mean of 500 and 1000
    assert RunTimes(file).expected("resnet50", "cuda", 224, 750) == 1.0
    assert times.isMeasured("resnet50", "cuda") and not times.isMeasured("resnet50", "cpu")


def test_unreadable_times_cost_nothing_but_the_estimate(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    for text in ("no JSON", "[1, 2]", '{"a|cpu|96": "fast"}'):
        file.write_text(text)
        assert RunTimes(file).expected("a", "cpu", 96, 10) is None


def test_number_of_slices_is_the_engines() -> None:
    """Fast: 96 directions of 48 + 2 offsets, as docs/method.md counts."""
    settings = combine(defaults={}, preset="fast", explicit={"methods": ("tonno",)})
    assert slicesOf(settings) == 96 * 50
    # The paper's 2000 directions for the values, 1000 for maps.
    settings = combine(defaults={}, preset="paper", explicit={"methods": ("matched-cam",)})
    assert slicesOf(settings) == 1000 * 102
