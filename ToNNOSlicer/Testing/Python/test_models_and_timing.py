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
    assert said["license"] == "Apache-2.0"
    assert said["calibration"].startswith("on 12 volumes without the finding: matched-cam, tonno")
    assert said["network"] == "resnet10t, 96 x 96 pixels"
    record = json.loads((model.folder / "model.json").read_text(encoding="utf-8"))["thresholds"]["tonno"]
    assert model.threshold("tonno", "lesion") == record
    assert model.threshold("tonno", "another") is None


def test_what_is_no_model_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    with pytest.raises(models.ModelError, match="the folder is gone"):
        models.readModel(folder)
    folder.touch()
    with pytest.raises(models.ModelError, match=r"is a file, and a model is a folder with model\.json and model\.safe"):
        models.readModel(folder)
    folder.unlink()
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
    (folder / "model.json").write_text('{"schema": 2, "kind": "regressor"}')
    with pytest.raises(models.ModelError, match="a regressor, which has no findings to show; use it with tonno recon"):
        models.readModel(folder)
    (folder / "model.json").write_text('{"schema": 3, "kind": "classifier"}')
    with pytest.raises(models.ModelError, match="for volumes of several channels, as PET and CT, and an image"):
        models.readModel(folder)
    for classes in ('"lesion"', "[]", "{}"):  # a name alone would be a class for each of its letters
        (folder / "model.json").write_text(f'{{"schema": 1, "encoder": "net", "slice_size": 96, "classes": {classes}}}')
        with pytest.raises(models.ModelError, match="not a list of names"):
            models.readModel(folder)
    assert models.findModels(tmp_path) == models.findModels()  # passed over


def test_folders_that_cannot_be_read_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of a server that is away, or another user's folder: Windows and POSIX raise, and the panel must open."""

    def refuse(path: Path) -> None:
        if tmp_path in (path, *path.parents):
            raise PermissionError(13, "Permission denied", str(path))

    expected = models.findModels()
    inside, listed = _model(tmp_path / "a"), Path.iterdir
    for name in ("is_dir", "is_file", "stat", "iterdir"):
        real = getattr(Path, name)

        def one(path: Path, *more: object, real=real, **options: object):
            return refuse(path) or real(path, *more, **options)

        monkeypatch.setattr(Path, name, one)
    assert models.findModels(tmp_path) == expected
    with pytest.raises(models.ModelError, match="Permission denied"):
        models.readModel(inside)
    monkeypatch.setattr(Path, "iterdir", listed)
    assert models.findModels(tmp_path) == expected


def test_a_model_that_is_gone_since_is_told(tmp_path: Path) -> None:
    model = models.readModel(_model(tmp_path / "a"))
    model.folder.rename(tmp_path / "b")
    with pytest.raises(models.ModelError, match=r"a: the folder is gone"):
        models.readModel(model.folder)


def test_the_shipped_model_says_that_it_is_a_demonstration(tmp_path: Path) -> None:
    shipped = next(model for model in models.findModels() if model.name == "brain-lesions")
    assert models.notice(shipped) == "Demonstration model, trained on drawn lesions: do not read patients with it."
    about = {"use": "Demonstration of software", "data": "scans"}
    other = models.readModel(_model(tmp_path / "b", about=about))
    assert models.notice(other) == "Demonstration model: do not read patients with it."
    ours = models.readModel(_model(tmp_path / "c", about={"use": "research"}))
    assert models.notice(ours) == "" and models.notice(models.readModel(_model(tmp_path / "d"))) == ""


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("x/one/brain", "x/two/brain", "y/two/brain", "x/one/liver")]
    read = [models.readModel(_model(folder)) for folder in folders]
    assert models.labels(read) == ["brain (one)", f"brain ({Path('x/two')})", f"brain ({Path('y/two')})", "liver"]
    assert models.labels(read[::3]) == ["brain", "liver"]
    assert models.labels([read[0], read[0]])  # one folder twice: nothing to tell apart, and no end to look for
    assert models.labels([]) == []


def test_a_model_without_figures_is_described_all_the_same(tmp_path: Path) -> None:
    none = models.readModel(_model(tmp_path / "none"))
    assert dict(models.description(none))["calibration"] == "none: the threshold starts at Otsu's"
    record = {"threshold": 1.0}
    some = models.readModel(_model(tmp_path / "some", thresholds={"tonno": record, "tonno/b": record}))
    assert dict(models.description(some))["calibration"] == "on volumes without the finding: tonno"


def _model(folder: Path, **parts: object) -> Path:
    """A folder with a description of schema 1."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    spec = {"schema": 1, "encoder": "net", "slice_size": 96, "classes": ["a", "b"], **parts}
    (folder / "model.json").write_text(json.dumps(spec))
    return folder


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


def test_unreadable_times_cost_nothing_but_the_estimate(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    speeds = ('"fast"', "Infinity", "NaN", "1e999", "0", "-1", "true", "[1]")
    texts = [f'{{"a|cpu|96": {speed}}}' for speed in speeds]
    keys = ("a|cpu|x", "a|cpu|", "a|cpu|0", "a|cpu|x|96", "a|cpu|" + "9" * 5000)
    texts += [f'{{"{key}": 1}}' for key in keys]
    for text in ("no JSON", "[1, 2]", "[" * 100_000, *texts):
        file.write_text(text)
        assert RunTimes(file).expected("a", "cpu", 96, 10) is None


def test_number_of_slices_is_the_engines() -> None:
    """Fast: 96 directions of 48 + 2 offsets, as docs/method.md counts."""
    settings = combine(defaults={}, preset="fast", explicit={"methods": ("tonno",)})
    assert slicesOf(settings) == 96 * 50
    # The paper's 2000 directions for the values, 1000 for maps.
    settings = combine(defaults={}, preset="paper", explicit={"methods": ("matched-cam",)})
    assert slicesOf(settings) == 1000 * 102
