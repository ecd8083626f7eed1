"""The command `tonno`: what it writes, and the one line that it says where it cannot."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from tests.commands.within import Command, fail, names
from tests.networks import random_network, spec_of, write_random_bundle
from tests.training.toy import toy_scan, write_toy_set
from tonno_core import cli
from tonno_core.bundle import calibration
from tonno_core.bundle.file import load_bundle, save_bundle
from tonno_core.commands import reconstruct as workflow
from tonno_core.encoding.classifier import Classifier
from tonno_core.settings import METHODS, PRESETS, Variant
from tonno_core.volume.io import read_volume, write_volume

COARSE = ("--slices", "10", "--directions", "6", "--device", "cpu", "--precision", "float32")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scan, a bundle of two classes and a ViT whose last stage has no gradient."""
    folder = tmp_path_factory.mktemp("home")
    write_volume(toy_scan(0, 1), folder / "scan.nii.gz")
    write_random_bundle(folder / "model", classes=("healthy", "ill"), about={"finding": "none"})
    vit = random_network("vit_tiny_patch16_224", size=32)
    save_bundle(folder / "vit", spec_of("vit_tiny_patch16_224"), vit.state_dict())
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, kept_signals: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run there."""
    monkeypatch.chdir(home)


@pytest.fixture
def tonno(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(os, "_exit", sys.exit)  # how an interrupted command leaves
    return Command(capfd)


# -------------------- results


def test_pixel_sum_writes_a_heatmap_a_segmentation_a_report_and_an_overview(
    tonno: Command, tmp_path: Path, rendered: None
) -> None:
    options = ("--slices", 24, "--directions", 100, "--slice-size", 24)
    status, out, _ = tonno("reconstruct", "scan.nii.gz", "--model", "pixel-sum", "--output", tmp_path / "out", *options)
    assert status == 0
    assert out.startswith("method")
    assert f"written to {tmp_path / 'out'}. For research only; not a medical device, not for diagnosis." in out
    assert names(tmp_path) == {
        "out", "out/heatmap-tonno.nii.gz", "out/segmentation-tonno.nii.gz", "out/report.json", "out/overview.png",
    }  # fmt: skip
    scan, heatmap = toy_scan(0, 1), read_volume(tmp_path / "out" / "heatmap-tonno.nii.gz")
    assert heatmap.array.shape == scan.array.shape
    assert np.allclose(heatmap.ijk_to_ras, scan.ijk_to_ras)
    # What PixelSum's heatmap is: the scan; its rims are sharp and 24 offsets are 2.7 mm apart: measured 0.966.
    assert np.corrcoef(heatmap.array.ravel(), scan.array.ravel())[0, 1] > 0.95
    segmentation = read_volume(tmp_path / "out" / "segmentation-tonno.nii.gz")
    assert set(np.unique(segmentation.array)) == {0.0, 1.0}
    assert pixel_type(tmp_path / "out" / "heatmap-tonno.nii.gz") == "32-bit float"
    assert pixel_type(tmp_path / "out" / "segmentation-tonno.nii.gz") == "8-bit unsigned integer"
    assert (tmp_path / "out" / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "overview.png").stat().st_size > 10_000


def test_a_scan_of_two_orientations_is_said_once_and_its_results_fit_it_in_every_viewer(
    tonno: Command, tmp_path: Path
) -> None:
    volume = toy_scan(0, 1)
    image = nibabel.Nifti1Image(volume.array.T, None)
    image.header.set_zooms(volume.spacing_mm)
    image.set_qform(volume.ijk_to_ras, 1)
    image.set_sform(np.diag([-1.0, 1, 1, 1]) @ volume.ijk_to_ras, 2)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    options = ("--slices", 8, "--directions", 16, "--slice-size", 16)
    status, out, err = tonno(
        "reconstruct", tmp_path / "scan.nii.gz", "--model", "pixel-sum", "--output", tmp_path / "out", *options
    )
    assert status == 0
    assert (out + err).count("qform and sform place a corner") == 1
    warnings = json.loads((tmp_path / "out" / "report.json").read_text())["warnings"]
    assert sum("qform and sform" in text for text in warnings) == 1
    theirs = nibabel.load(tmp_path / "scan.nii.gz")
    for name in ("heatmap-tonno.nii.gz", "segmentation-tonno.nii.gz"):
        ours = nibabel.load(tmp_path / "out" / name)
        assert np.array_equal(ours.affine, theirs.affine)
        assert np.array_equal(ours.get_qform(), theirs.get_qform())
        assert (
            sitk.ReadImage(str(tmp_path / "out" / name)).GetOrigin()
            == sitk.ReadImage(str(tmp_path / "scan.nii.gz")).GetOrigin()
        )


def pixel_type(path: Path) -> str:
    return str(sitk.ReadImage(str(path)).GetPixelIDTypeAsString())


def test_several_methods_at_once_are_what_each_is_alone(tonno: Command, tmp_path: Path) -> None:
    methods = ("tonno", "matched-cam", "slicewise-cam", "center")
    base = ("reconstruct", "scan.nii.gz", "--model", "model", "--format", "nrrd", *COARSE)
    several = [part for method in methods for part in ("--method", method)]
    assert tonno(*base, *several, "--output", tmp_path / "all")[0] == 0
    assert names(tmp_path / "all") == {
        *(f"{kind}-{method}.nrrd" for kind in ("heatmap", "segmentation") for method in methods),
        "report.json", "overview.png",
    }  # fmt: skip
    for method in methods:
        assert tonno(*base, "--method", method, "--output", tmp_path / method)[0] == 0
        together, alone = (read_volume(tmp_path / run / f"heatmap-{method}.nrrd").array for run in ("all", method))
        # float32; with maps wanted too, the same logits come from another pass through the network.
        assert np.allclose(together, alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max()), method
        assert pixel_type(tmp_path / "all" / f"segmentation-{method}.nrrd") == "8-bit unsigned integer"


def test_every_method_runs(tonno: Command, tmp_path: Path) -> None:
    several = [part for method in METHODS for part in ("--method", method)]
    status, out, _ = tonno(
        "reconstruct", "scan.nii.gz", "--model", "model", "--class", "ill", *several, *COARSE, "--cam", "gradcam",
        "--filter", "hann", "--frame", "normalized", "--grid", "volume", "--smooth-mm", 4, "--output", tmp_path / "out",
    )  # fmt: skip
    assert status == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["class"] == "ill"
    assert list(report["methods"]) == list(METHODS)
    assert all(method in out for method in METHODS)


def test_the_report_tells_the_run_and_neither_path_nor_patient(tonno: Command, tmp_path: Path) -> None:
    shutil.copy("scan.nii.gz", tmp_path / "doe_jane_1970.nii.gz")
    out = tmp_path / "somewhere"
    threshold = ("--threshold", "0.125", "--min-volume-mm3", "64")
    scan = tmp_path / "doe_jane_1970.nii.gz"
    assert tonno("reconstruct", scan, "--model", "model", *COARSE, *threshold, "--output", out)[0] == 0
    text = (out / "report.json").read_text()
    report = json.loads(text)
    assert not any(word in text for word in ("doe", "jane", str(tmp_path), "somewhere", "scan"))
    assert report["model"]["encoder"] == "resnet10t"
    assert report["model"]["sha256"] == load_bundle("model").spec.sha256
    assert report["model"]["about"] == {"finding": "none"}
    assert (report["device"], report["precision"], report["class"]) == (
        "cpu",
        "float32",
        "ill",
    )  # not the first, which stands for no finding
    assert report["layout"] == "channels last"
    assert report["settings"]["slices"] == 10
    assert report["settings"]["directions"] == 6
    assert report["methods"]["matched-cam"]["settings"]["stage"] == 3  # the last but one, as none was given
    assert report["volume"]["size_ijk"] == [16, 16, 16]
    assert np.allclose(report["volume"]["ijk_to_ras"], toy_scan(0, 1).ijk_to_ras)
    # Three axes and six directions, ten offsets and one more at each end.
    assert report["slices"]["total"] == (3 + 6) * 12
    assert [profile["axis"] for profile in report["profiles"]] == ["R", "A", "S"]
    assert len(report["profiles"][0]["logits"]) == 10
    found = report["methods"]["matched-cam"]
    assert (found["threshold"], found["threshold_source"]) == (0.125, "given")
    mask = read_volume(out / "heatmap-matched-cam.nii.gz").array >= 0.125
    assert found["volume_mm3"] == pytest.approx(sum(one["volume_mm3"] for one in found["components"]))
    assert found["volume_mm3"] <= mask.sum() * 64.0
    assert report["seconds"]["total"] > 0


def test_the_models_own_threshold_is_used_and_otsus_where_it_has_none(tonno: Command, tmp_path: Path) -> None:
    record = {"threshold": 0.25, "settings": {"slices": 10, "directions": 7}}
    write_random_bundle(tmp_path / "model", thresholds={"tonno": record})
    methods = ("--method", "tonno", "--method", "averaged-cam", *COARSE)
    out = tmp_path / "out"
    assert tonno("reconstruct", "scan.nii.gz", "--model", tmp_path / "model", *methods, "--output", out)[0] == 0
    found = json.loads((out / "report.json").read_text())["methods"]
    assert found["tonno"]["threshold"] == 0.25
    assert found["tonno"]["threshold_source"] == "the model's own, calibrated at other directions"
    assert found["averaged-cam"]["threshold_source"] == "otsu, as the model brings none for this method"


def test_each_variant_has_its_own_threshold(tonno: Command, tmp_path: Path) -> None:
    chosen = {"stage": 2, "smooth_mm": 4.0, "slices": 10, "directions": 6}
    tried = {"class": "finding", **Variant("averaged-cam", (1,), smooth_mm=4.0).record(), "threshold": 0.125}
    thresholds = {"averaged-cam": {"threshold": 0.25, "settings": chosen}}
    write_random_bundle(tmp_path / "model", thresholds=thresholds, calibration=[tried])
    base = ("reconstruct", "scan.nii.gz", "--model", tmp_path / "model", "--method", "averaged-cam", *COARSE)
    expected = {
        (): (2, 0.25, "the model's own"),
        ("--stage", 1): (1, 0.125, "the model's own"),
        ("--stage", 3): (3, 0.25, "the model's own, calibrated at other stage"),
    }
    for index, (options, (stage, threshold, source)) in enumerate(expected.items()):
        out = tmp_path / str(index)
        assert tonno(*base, *options, "--output", out)[0] == 0
        found = json.loads((out / "report.json").read_text())["methods"]["averaged-cam"]
        assert found["settings"] == {"stage": stage, "smooth_mm": 4.0}
        assert (found["threshold"], found["threshold_source"]) == (threshold, source)


def test_the_encoder_is_compiled_where_that_is_asked_for(
    tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    asked: list[int] = []
    monkeypatch.setattr(Classifier, "compiling_pays", lambda _, slices: asked.append(slices) or False)
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    words = ["reconstruct", "scan.nii.gz", "--model", "model", "--slices", "6", "--directions", "2", "--device", "cpu"]
    words += ["--method", "tonno"]
    # Only then is it asked whether it pays, for 2 directions of 6 slices and the 2 beyond them.
    cases: tuple[tuple[list[str], int], ...] = (([], 0), (["--compile"], 1), (["--compile", "auto"], 0))
    for number, (option, times) in enumerate(cases):
        compiled.clear()
        status, _, err = tonno(words[0], *option, *words[1:], "--output", str(tmp_path / str(number)))
        assert status == 0, err
        assert (len(compiled), asked) == (times, [16] if "auto" in option else [])


def test_nan_voxels_are_refused_or_replaced(tonno: Command, tmp_path: Path) -> None:
    scan, path = toy_scan(0, 1), tmp_path / "nan.nrrd"
    scan.array[3, 4, 5], scan.array[0, 0, 0] = np.nan, np.inf
    sitk.WriteImage(sitk.GetImageFromArray(scan.array), str(path))
    base = ("reconstruct", path, "--model", "pixel-sum", *COARSE, "--output", tmp_path / "out")
    line = tonno.refused(*base)
    assert line.startswith(f"{path}: 2 of 4096 voxels are NaN or infinite")
    assert "--replace-nonfinite" in line
    assert tonno(*base, "--replace-nonfinite")[0] == 0
    assert np.isfinite(read_volume(tmp_path / "out" / "heatmap-tonno.nii.gz").array).all()


def test_overwriting_replaces_results_and_nothing_else(tonno: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "report.json").write_text("old")
    base = ("reconstruct", "scan.nii.gz", "--model", "pixel-sum", *COARSE, "--output", out)
    assert "--output" in tonno.refused(*base)
    assert (out / "report.json").read_text() == "old"
    assert tonno(*base, "--overwrite")[0] == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert json.loads((out / "report.json").read_text())["model"] == "pixel-sum"
    assert names(out) == {
        "heatmap-tonno.nii.gz", "segmentation-tonno.nii.gz", "report.json", "overview.png", "notes.txt",
    }  # fmt: skip


def test_a_bundle_from_a_weights_file_explains_ones_own_classifier(tonno: Command, tmp_path: Path) -> None:
    torch.save(random_network("resnet10t", classes=2).state_dict(), tmp_path / "mine.pth")
    status, out, err = tonno(
        "bundle", "--encoder", "resnet10t", "--weights", tmp_path / "mine.pth", "--slice-size", 32, "--classes", "a, b",
        "--intensity", "zscore", "--about", "modality=MR", "--about", "licence = CC0=ok", "--output", tmp_path / "b",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert out.startswith(f"resnet10t with classes a, b written to {tmp_path / 'b'}. Assumed of its training:\n")
    assert load_bundle(tmp_path / "b").spec.about == {"modality": "MR", "licence": "CC0=ok"}
    run = ("reconstruct", "scan.nii.gz", "--model", tmp_path / "b", "--class", "b", *COARSE, "--output", tmp_path / "o")
    assert tonno(*run)[0] == 0
    assert "overview.png" in names(tmp_path / "o")


@pytest.mark.filterwarnings("ignore")  # of torch.export, about itself
def test_a_bundle_from_an_exported_program_is_reconstructed(tonno: Command, tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    network.append(torch.nn.Linear(4, 2))
    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(network, (torch.zeros(2, 1, 32, 32),), dynamic_shapes=batch)
    torch.export.save(exported, tmp_path / "mine.pt2")
    base = ("bundle", "--encoder", tmp_path / "mine.pt2", "--classes", "normal,lesion", "--output", tmp_path / "b")
    assert "--layers: missing; mine.pt2 has no stages of its own" in tonno.refused(*base)
    status, out, err = tonno(*base, "--layers", "1", "--activation", "softmax")
    assert (status, err) == (0, "")
    assert out.startswith(f"mine.pt2 with classes normal, lesion written to {tmp_path / 'b'}. Assumed of its training:")
    assert "layers 1" in out
    assert tonno("reconstruct", "scan.nii.gz", "--model", tmp_path / "b", *COARSE, "--output", tmp_path / "o")[0] == 0
    assert "overview.png" in names(tmp_path / "o")


def test_training_from_the_command_line(tonno: Command, tmp_path: Path) -> None:
    options = ("--encoder", "test_resnet", "--slice-size", 32, "--steps", 2, "--epochs", 1, "--device", "cpu")
    manifest = write_toy_set(tmp_path / "set", train=2, val=0)
    run = ("train", manifest, "--output", tmp_path / "model", "--run", tmp_path / "run", *options, "--class", "lesion")
    status, out, _ = tonno(*run)
    assert status == 0
    assert f"curves and metrics in {tmp_path / 'run'}\nwritten to {tmp_path / 'model'}" in out
    assert load_bundle(tmp_path / "model").spec.classes == ("lesion",)
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "exists already" in tonno.refused(*run)
    assert "expected one of them" in tonno.refused(*run, "--resume", "--overwrite")
    assert tonno(*run, "--resume")[0] == tonno(*run, "--overwrite")[0] == 0


def test_training_calibrates_for_the_planes_asked_for_and_calibrate_for_others(
    tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "CALIBRATED_PRESETS", ("fast",))
    monkeypatch.setitem(PRESETS, "fast", {"slices": 6, "directions": 4})
    manifest = write_toy_set(tmp_path / "set", train=2, val=2)
    options = ("--encoder", "test_resnet", "--slice-size", 32, "--steps", 2, "--epochs", 1, "--device", "cpu")
    first, second = tmp_path / "model", tmp_path / "second"
    status, out, _ = tonno("train", manifest, "--output", first, *options, "--slices", 8, "--directions", 3)
    assert status == 0
    status, out, _ = tonno("calibrate", first, manifest, "--output", second, *COARSE, "--stage", 1, "--method", "tonno")
    assert status == 0
    line = r"tonno: threshold \S+, peak AUC [^;]+; \d+ \+ \d+ volumes\); filter \S+, smooth_mm \S+\n"
    others = r"  6 slices in each of 4 directions: threshold \S+\n"
    few = r"nothing was chosen, .* has 1 volume with and 1 without the finding, .*\n"
    other_methods = r"no thresholds for method averaged-cam, .* \(not asked for\): .*\n"
    assert re.search(line + others + few + other_methods + "(warning: .*\n)?written to ", out)
    planes = [load_bundle(path).spec.defaults for path in (first, second)]
    assert [(one["slices"], one["directions"]) for one in planes] == [(8, 3), (10, 6)]
    assert tuple(load_bundle(first).spec.thresholds) == METHODS
    assert tuple(load_bundle(second).spec.thresholds) == ("tonno",)
    # A run with the planes of the preset has the threshold that was measured for them.
    found = load_bundle(second).spec.thresholds["tonno"]["other_planes"]
    assert [one["settings"]["slices"] for one in found] == [6]
    words = ("--model", second, "--preset", "fast", "--device", "cpu", "--output", tmp_path / "out")
    assert tonno("reconstruct", "scan.nii.gz", "--method", "tonno", *words)[0] == 0
    report = json.loads((tmp_path / "out/report.json").read_text())["methods"]["tonno"]
    assert (report["threshold"], report["threshold_source"]) == (found[0]["threshold"], "the model's own")
    # The same can be added to a model that was calibrated without.
    path = second / "model.json"
    data = json.loads(path.read_text())
    del data["thresholds"]["tonno"]["other_planes"], data["training"]["images"]
    path.write_text(json.dumps(data))
    complete = ("calibrate", second, manifest, "--output", tmp_path / "third", "--complete", "--device", "cpu")
    assert tonno(*complete)[0] == 0
    again = load_bundle(tmp_path / "third").spec
    assert again.thresholds["tonno"]["other_planes"][0]["threshold"] == pytest.approx(found[0]["threshold"], rel=1e-3)
    assert again.training["images"]["volumes"] == 2
    kept = "--complete keeps the model's choices and planes; leave out"
    assert tonno.refused(*complete, "--slices", 9, "--method", "tonno") == f"{kept} --method, --slices"
    assert tonno.refused(*complete, "--quantile", 0.9) == f"{kept} --quantile"
    assert "exists already" in tonno.refused("calibrate", first, manifest, "--output", second, *COARSE)
    assert "--slices is 1, expected" in tonno.refused("calibrate", first, manifest, "--output", "o", "--slices", 1)
    assert "no such manifest" in tonno.refused("calibrate", first, tmp_path / "no.csv", "--output", "o")
    assert "no such model folder" in tonno.refused("calibrate", tmp_path / "no", manifest, "--output", "o")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 2", "--epochs is 20, expected at most one for each of the 2 --steps; give both"),
        ("--ema 1", "--ema is 1.0, expected a number from 0 to below 1"),
        ("--stage-decay 0", "--stage-decay is 0.0, expected a number above 0, at most 1"),
        ("--freeze -1", "--freeze is -1, expected a whole number from 0"),
        ("--volumes-per-batch 3", "--volumes-per-batch is 3, expected an even number"),
        ("--weights absent.pth", "absent.pth: no such file"),
        ("--norm layer", "Invalid value for '--norm'"),
        ("--run set/0.nii.gz", "--run set/0.nii.gz: is a file, expected a folder of a training run"),
        ("--run .", "--run .: is a folder of something else (no run.json); choose another name"),
        ("--run new/run", "--run new/run: lies in --output new, which holds the model alone"),
    ],
)
def test_bad_options_of_training(
    options: str, message: str, tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_toy_set(tmp_path / "set", train=2, val=0)
    base = ("train", "set/manifest.csv", "--output", "new", "--encoder", "test_resnet", "--slice-size", 32)
    assert message in tonno.refused(*base, *options.split())


# -------------------- help


def test_without_arguments_there_is_help(tonno: Command) -> None:
    status, out, err = tonno()
    assert (status, err) == (0, "")
    assert out == tonno("--help")[1]
    assert all(f"\n  {command} " in out for command in ("reconstruct", "train", "calibrate", "evaluate", "demo"))


def test_the_contracts_options_are_there(tonno: Command) -> None:
    text = tonno("reconstruct", "--help")[1]
    contract = """--model --output --method --cam --stage --sigma-scale --smooth-mm --slices --directions --lattice
        --filter --frame --radius-mm --grid --slice-size --preset --class --threshold --min-volume-mm3 --device
        --precision --format --overwrite --replace-nonfinite"""
    assert set(contract.split()) <= set(text.split())
    text = tonno("bundle", "--help")[1]
    contract = "--encoder --weights --slice-size --channels --classes --norm --intensity --seed --output"
    assert set(contract.split()) <= set(text.split())


# -------------------- what bad input gets


def write_image(array: Any, path: Path, *, vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def truncated(path: Path) -> Path:
    write_volume(toy_scan(0, 1), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def singular(path: Path) -> Path:
    header = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nTransformMatrix = 1 0 0 1 0 0 0 0 1\n"
    header += "Offset = 0 0 0\nElementSpacing = 1 1 1\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + np.arange(8, dtype="<f4").tobytes())
    return path


def of_bytes(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def no_dicom(path: Path) -> Path:
    path.mkdir()
    (path / "a.txt").write_text("x")
    return path


RAMP = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
BAD_VOLUMES: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "missing": ("a.nii.gz", lambda path: path, "no such file or folder"),
    "truncated": ("a.nii.gz", truncated, "truncated"),
    "truncated nrrd": ("a.nrrd", truncated, "a.nrrd: "),
    "empty file": ("a.nii.gz", of_bytes(b""), "the file is empty"),
    "text": ("a.txt", of_bytes(b"hello"), "unknown format; expected a file .nii"),
    "text named as an image": ("a.nii.gz", of_bytes(b"hello"), "a.nii.gz: "),
    "gzip of text": ("a.nii.gz", of_bytes(gzip.compress(b"hello" * 100)), "a.nii.gz: "),
    "2D": ("a.nii.gz", lambda path: write_image(RAMP[0], path), "a 2D image of 6 x 5 voxels; expected 3D"),
    "4D": ("a.nii.gz", lambda path: write_image(np.stack([RAMP, RAMP]), path), "has 2 channels"),
    "single slice": ("a.nii.gz", lambda path: write_image(RAMP[:1], path), "a single slice"),
    "vector": ("a.nrrd", lambda path: write_image(RAMP, path, vector=True), "6 values per voxel"),
    "constant": ("a.nrrd", lambda path: write_image(RAMP * 0 + 7, path), "every voxel is 7; expected an image with"),
    "huge voxel": ("a.nrrd", lambda path: write_image(RAMP * 1e28, path), "expected magnitudes up to 1e+15"),
    "no contrast": ("a.nrrd", lambda path: write_image(RAMP * 1e-22, path), "and differences from 1e-15"),
    "only NaN": ("a.nrrd", lambda path: write_image(RAMP * np.nan, path), "no finite voxel"),
    "singular affine": ("a.mha", singular, "its affine is singular"),
    "folder without DICOM": ("series", no_dicom, "no DICOM image in this folder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_VOLUMES)
def test_bad_volumes(kind: str, tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, write, message = BAD_VOLUMES[kind]
    write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    line = tonno.refused("reconstruct", tmp_path / name, "--model", "pixel-sum", "--output", "deep/out", *COARSE)
    assert line.startswith(f"{tmp_path / name}: ")
    assert message in line


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes that are no text are Linux's")
def test_a_name_that_is_not_utf8_is_refused(tonno: Command, tmp_path: Path) -> None:
    good = Path("scan.nii.gz").absolute()
    bad = tmp_path / os.fsdecode(b"scan-\xe9.nii.gz")
    bad.write_bytes(good.read_bytes())
    folder = tmp_path / os.fsdecode(b"out-\xe9")
    shown = f"{tmp_path}/scan-\\udce9.nii.gz: this name is not UTF-8; rename it"
    assert tonno.refused("reconstruct", bad, "--model", "pixel-sum", "--output", tmp_path / "out", *COARSE) == shown
    line = tonno.refused("reconstruct", good, "--model", "pixel-sum", "--output", folder, *COARSE)
    assert line == f"{tmp_path}/out-\\udce9: this name is not UTF-8; rename it"
    assert not folder.exists()


def test_a_model_that_sees_nothing_of_a_scan_says_so(tonno: Command, tmp_path: Path) -> None:
    # As a CT's window on an MRI.
    model = write_random_bundle(tmp_path / "model", intensity="window:1e6:1e7")
    status, said, _ = tonno("reconstruct", "scan.nii.gz", "--model", model, "--output", tmp_path / "out", *COARSE)
    assert status == 0
    assert "warning: every slice was blank: the model's intensities (window:1e6:1e7) leave nothing" in said
    warnings = json.loads((tmp_path / "out/report.json").read_text())["warnings"]
    assert warnings[0].startswith("every slice was blank")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method magic", "--method is magic, expected one of tonno, averaged-cam"),
        ("--class nothing", "--class 'nothing' is unknown to this model, expected one of healthy, ill"),
        ("--stage 5", "--stage 5 does not exist in this encoder, expected 1 to 4"),
        ("--stage 0", "--stage is 0, expected a whole number from 1"),
        (
            "--stage x",
            "--stage is x, expected a whole number from 1 to 1000, or some to add up",
        ),
        (
            "--stage 3+2 --method averaged-cam",
            "--stage 2+3: how much each of these counts in averaged-cam is not",
        ),
        ("--stage 3+5 --method averaged-cam", "--stage 3+5 does not exist in this encoder, expected 1 to 4"),
        ("--slices 1", "--slices is 1, expected a whole number from 2"),
        ("--slices 100000", "--slices is 100000, expected a whole number from 2 to 1024"),
        ("--directions 0", "--directions is 0, expected a whole number from 1"),
        ("--cam eigencam", "Invalid value for '--cam': 'eigencam' is not one of 'layercam', 'gradcam', 'gradcam++'"),
        ("--filter ramp", "Invalid value for '--filter'"),
        ("--lattice cube", "Invalid value for '--lattice'"),
        ("--frame voxel", "Invalid value for '--frame'"),
        ("--grid fine", "Invalid value for '--grid'"),
        ("--preset fats", "Invalid value for '--preset'"),
        ("--format tiff", "Invalid value for '--format'"),
        ("--sigma-scale -1", "--sigma-scale is -1.0, expected a number from 0"),
        ("--smooth-mm nan", "--smooth-mm is nan, expected a number"),
        ("--radius-mm 0", "--radius-mm is 0.0, expected a number from 0.01"),
        ("--radius-mm 50 --frame normalized", "--radius-mm has no meaning with --frame normalized"),
        ("--slice-size 7", "--slice-size is 7, expected a whole number from 8"),
        ("--threshold high", "--threshold 'high': expected auto, otsu or a number"),
        ("--threshold nan", "--threshold nan: expected auto, otsu or a finite number"),
        ("--min-volume-mm3 -1", "Invalid value for '--min-volume-mm3': -1.0 is not in the range"),
        ("--device tpu", "--device 'tpu' is unknown, expected one of auto, cpu, cuda, mps"),
        ("--precision int8", "--precision 'int8' is unknown, expected one of auto, float32"),
        ("--model absent", "absent: no such model folder, expected one with model.json and model.safetensors"),
        ("--model scan.nii.gz", "scan.nii.gz: is a file, expected a model's folder, with model.json and"),
        ("--output model", "--output model: exists already; choose another name or give --overwrite"),
        ("--output scan.nii.gz", "--output scan.nii.gz: is a file, expected the name of a folder"),
        ("--output scan.nii.gz/out --overwrite", "scan.nii.gz is a file, expected a folder"),
        (f"--output {'x' * 300}", "File name too long"),
        ("--magic", "No such option"),
    ],
)
def test_bad_options(options: str, message: str, tonno: Command) -> None:
    words = options.split()
    base = ["reconstruct", "scan.nii.gz", *COARSE]
    base += ["--model", "model"] if "--model" not in words else []
    base += ["--output", "out"] if "--output" not in words else []
    assert message in tonno.refused(*base, *words)


def test_missing_arguments_and_commands(tonno: Command) -> None:
    assert tonno.refused("reconstruct") == "Missing argument 'VOLUME'."
    assert tonno.refused("reconstruct", "scan.nii.gz", "--model", "model") == "Missing option '--output'."
    assert tonno.refused("recnstruct").startswith("No such command 'recnstruct'.")
    bundle = ("bundle", "--encoder", "resnet10t", "--weights", "none", "--slice-size", 32, "--output", "o")
    assert "--about 'modality': expected KEY=VALUE" in tonno.refused(*bundle, "--about", "modality")


@pytest.mark.parametrize("seed", ["-1", "1.5", "99999999999999999999"])
def test_bad_seeds(seed: str, tonno: Command) -> None:
    bundle = ("bundle", "--encoder", "resnet10t", "--weights", "none", "--slice-size", 32, "--output", "o")
    for command in (bundle, ("train", "list.csv", "--output", "o"), ("demo", "--output", "o"), ("phantoms", "o")):
        assert "Invalid value for '--seed'" in tonno.refused(*command, "--seed", seed)


def test_phantoms_replace_others_where_they_are_told_to(tonno: Command) -> None:
    few = ("phantoms", "heads", "--count", 4, "--spacing-mm", 8)
    assert tonno(*few)[0] == 0
    before = {path: path.read_bytes() for path in Path("heads").rglob("*.*")}
    assert tonno.refused(*few) == "--output heads: exists already; choose another name or give --overwrite"
    assert tonno(*few, "--seed", 2, "--test", 0, "--overwrite")[0] == 0
    after = {path: path.read_bytes() for path in Path("heads").rglob("*.*")}
    assert after.keys() == before.keys()
    assert [path for path in after if after[path] == before[path]] == [Path("heads/manifest.csv")]
    assert tonno.refused(*few, "--test", 1, "--overwrite") == "--test is 1, expected at most 0 of 4 heads"


def test_fewer_phantoms_than_before_leave_the_others_and_say_so(tonno: Command) -> None:
    def asked(count: int) -> tuple[object, ...]:
        return "phantoms", "heads", "--count", count, "--spacing-mm", 8, "--overwrite"

    assert tonno(*asked(6))[1] == "6 heads and manifest.csv written to heads\n"
    before = {path: path.read_bytes() for path in Path("heads").rglob("phantom-000[45]*")}
    assert len(before) == 3
    assert tonno(*asked(4))[1] == (
        "4 heads and manifest.csv written to heads\n"
        "heads also holds 3 files that manifest.csv does not list, as phantom-0005.nii.gz; "
        "delete what is of an earlier set\n"
    )
    assert before == {path: path.read_bytes() for path in before}
    assert tonno(*asked(6))[1] == "6 heads and manifest.csv written to heads\n"


def test_cuda_that_is_absent(tonno: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    base = ("reconstruct", "scan.nii.gz", "--model", "model", "--output", "out", "--device", "cuda")
    line = tonno.refused(*base)
    assert "--device cuda was asked for, but this torch" in line
    assert "use --device cpu" in line


def test_a_stage_without_gradient(tonno: Command) -> None:
    base = ("reconstruct", "scan.nii.gz", "--model", "vit", "--output", "out", *COARSE)
    status, _, err = tonno(*base, "--stage", 12)
    assert status == 2
    # The profiles along the axes are done by then: the bar, then the line.
    assert err.splitlines()[-1].startswith("tonno: --stage 12: the logit of class 'finding' does not depend")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256 is"),
        ({"schema": 9}, "schema 9 was made by a newer version of tonno, this version reads schema 1 to 3"),
        ({"channels": None}, "key 'channels' is None, expected a whole number from 1"),
        ({"channels": 3}, "tensor conv1.0.weight has shape (24, 1, 3, 3), this encoder expects (24, 3, 3, 3)"),
        ({"encoder": "convnext_atto"}, "weights are of another model"),
        ({"defaults": {"slices": "many"}}, "key 'defaults': slices is many"),
    ],
)
def test_bad_bundles(change: dict[str, Any], message: str, tonno: Command, tmp_path: Path) -> None:
    bundle = shutil.copytree("model", tmp_path / "model")
    spec = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps({**spec, **change}))
    line = tonno.refused("reconstruct", "scan.nii.gz", "--model", bundle, "--output", "out", *COARSE)
    assert line.startswith(f"{bundle}/model.")
    assert message in line


def test_a_model_whose_answers_are_no_numbers(tonno: Command, tmp_path: Path) -> None:
    model = random_network("resnet10t")
    nn.init.constant_(model.fc.bias, float("nan"))  # type: ignore[arg-type, union-attr]
    save_bundle(tmp_path / "model", spec_of(), model.state_dict())
    line = tonno.refused("reconstruct", "scan.nii.gz", "--model", tmp_path / "model", "--output", "out", *COARSE)
    assert "logits are not finite numbers" in line


def test_a_malicious_weights_file_is_refused_and_does_not_run(tonno: Command, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"mkdir {tmp_path / 'it-ran'}",)

    torch.save({"conv1.0.weight": Malicious()}, tmp_path / "w.pth")
    base = ("bundle", "--encoder", "resnet10t", "--slice-size", 32, "--output", "out")
    line = tonno.refused(*base, "--weights", tmp_path / "w.pth")
    assert line.startswith(f"{tmp_path / 'w.pth'}: refused, not a file of plain tensors")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--encoder resnet10x", "encoder 'resnet10x' is not a timm model; did you mean resnet10t"),
        ("--weights absent.pth", "absent.pth: no such file"),
        ("--slice-size 4", "Invalid value for '--slice-size'"),
        ("--channels 0", "Invalid value for '--channels'"),
        ("--norm layer", "Invalid value for '--norm'"),
        ("--classes a,a", "--classes 'a,a': expected different names"),
        ("--intensity log", "--intensity 'log': expected none, zscore or window:LO:HI"),
        ("--output model", "exists already"),
        ("--output . --overwrite", "--output .: is a folder of something else"),
    ],
)
def test_bad_options_of_bundle(options: str, message: str, tonno: Command) -> None:
    given = {"--encoder": "resnet10t", "--weights": "none", "--slice-size": "32", "--output": "out"}
    words = options.split()
    base = [word for name, value in given.items() if name not in words for word in (name, value)]
    assert message in tonno.refused("bundle", *base, *words)


def test_bad_manifests(tonno: Command, tmp_path: Path) -> None:
    assert "list.csv: no such manifest" in tonno.refused("train", tmp_path / "list.csv", "--output", "out")
    (tmp_path / "list.csv").write_text("volume,label\nabsent.nii.gz,1\n")
    line = tonno.refused("train", tmp_path / "list.csv", "--output", "out", "--encoder", "test_resnet")
    assert f"{tmp_path / 'list.csv'}, line 2: volume 'absent.nii.gz' does not exist" in line


def test_check_looks_at_a_manifest_before_training(tonno: Command, tmp_path: Path) -> None:
    manifest = write_toy_set(tmp_path, train=2, val=2)
    status, out, err = tonno("check", manifest, "--class", "lesion")
    assert status == 0
    assert re.search(r"train +lesion +2 +1 +1 +2 +1\n", out)
    assert f"{manifest}, line 2: warning: mask: cannot be read; it is truncated" in out
    assert out.endswith("usable: 0 errors, 5 warnings\n")
    assert "checking: 100%" in err
    (tmp_path / "1.nii.gz").write_bytes(b"not an image")
    status, out, _ = tonno("check", manifest)
    assert status == 2
    assert f"{manifest}, line 3: error: volume: cannot be read" in out
    assert out.endswith("not usable for training: 1 error, 5 warnings\n")
    (tmp_path / "1.nii.gz").unlink()
    status, out, _ = tonno("check", manifest)
    assert status == 2
    assert f"{manifest}, line 3: error: volume '1.nii.gz' does not exist" in out


# -------------------- what goes wrong on the way


def test_an_error_after_the_bar_stands_on_a_line_of_its_own(
    tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "write_report", fail(OSError(28, "No space left on device")))
    monkeypatch.setenv("TQDM_MININTERVAL", "0.1")  # a bar, as on a terminal
    out = tmp_path / "x" / "out"
    options = ("--slices", 32, "--directions", 400)  # long enough for the bar to appear
    status, _, err = tonno("reconstruct", "scan.nii.gz", "--model", "pixel-sum", "--output", out, *options)
    assert status == 2
    bar, line, end = err.split("\n")
    assert "reconstructing: 100%" in bar
    assert line == f"tonno: --output {out}: cannot be written (No space left on device)"
    assert end == ""
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
        ImportError("_fblas.so: failed to map segment from shared object"),
    ],
    ids=["python", "torch on the CPU", "CUDA", "thread", "oneDNN", "import"],
)
def test_no_memory_left(error: Exception, tonno: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "execute", fail(error))
    line = tonno.refused("reconstruct", "scan.nii.gz", "--model", "pixel-sum", "--output", "out")
    assert line.startswith("out of memory; close other programs")


def test_what_a_failed_frame_held_is_free_before_the_lack_of_memory_is_said(
    tonno: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[np.ndarray]] = []

    def execute(*arguments: object, **options: object) -> None:
        large = np.ones(9)
        held.append(weakref.ref(large))
        try:
            raise ValueError(large.shape)
        except ValueError:
            raise MemoryError  # noqa: B904 - whose context holds the frame as well

    def say(command: object, group: object, text: str) -> str:
        assert held[0]() is None
        return text

    monkeypatch.setattr(workflow, "execute", execute)
    monkeypatch.setattr(cli, "as_options_of", say)
    line = tonno.refused("reconstruct", "scan.nii.gz", "--model", "pixel-sum", "--output", "out")
    assert line.startswith("out of memory")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "execute", fail(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        cli.main(["reconstruct", "scan.nii.gz", "--model", "pixel-sum", "--output", "out"])
    assert not Path("out").exists()


def test_an_interruption_while_writing_leaves_nothing(
    tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "write_overview", fail(KeyboardInterrupt()))
    out = tmp_path / "out"
    status, _, err = tonno("reconstruct", "scan.nii.gz", "--model", "pixel-sum", "--output", out, *COARSE)
    assert status == 130
    assert err.splitlines()[-1] == "tonno: interrupted, nothing half-written is left"
    assert names(tmp_path) == set()


# -------------------- as a process of its own


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


def test_one_line_and_status_2_from_the_shell(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tonno_core", "reconstruct", "absent.nii.gz", "--model", "pixel-sum", "--output", "o"],
        capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tonno: absent.nii.gz: no such file or folder; check the path\n"
    assert names(tmp_path) == set()


def test_a_full_disk(home: Path, tmp_path: Path) -> None:
    def limit() -> None:  # no file may grow beyond 4 kB, as if the disk ended there
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    command = [sys.executable, "-m", "tonno_core", "reconstruct", home / "scan.nii.gz", "--model", "pixel-sum"]
    # What `make coverage` keeps would not fit either.
    variables = {name: value for name, value in environment().items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [*command, "--output", tmp_path / "x" / "out", *COARSE],
        capture_output=True, encoding="utf-8", cwd=home, env=variables, preexec_fn=limit, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    file = tmp_path / "x" / "out" / "heatmap-tonno.nii.gz"
    assert done.stderr.splitlines()[-1].startswith(f"tonno: {file}: cannot be written: File too large")
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "model"),
    [(signal.SIGINT, "model"), (signal.SIGTERM, "pixel-sum"), (signal.SIGHUP, "pixel-sum")],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_signals_end_a_run_within_a_second_and_leave_nothing(
    number: signal.Signals, model: str, home: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tonno_core", "reconstruct", home / "scan.nii.gz", "--model", home / model]
    command[-1] = model if model == "pixel-sum" else home / model
    options = ["--output", tmp_path / "x" / "out", "--slices", "64", "--directions", "5000", "--device", "cpu"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=home,
        env=environment() | {"TQDM_MININTERVAL": "0.1"},  # a bar, as on a terminal
        # A shell's background job, as these tests may be, ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = b""
        while b"slice/s" not in said:  # until the bar shows progress
            chunk = os.read(process.stderr.fileno(), 1000)
            assert chunk, said.decode()
            said += chunk
        process.send_signal(number)
        started = time.monotonic()
        rest = process.stderr.read()
        assert process.wait(timeout=30) == 130
        # About half a second; a busy machine is allowed more than the second that is promised on an idle one.
        assert time.monotonic() - started < 5.0
    assert rest.decode().splitlines()[-1] == "tonno: interrupted, nothing half-written is left"
    assert b"Traceback" not in rest
    assert names(tmp_path) == set()


def test_the_class_of_a_softmax_head_is_named_and_what_is_assumed_is_said(tonno: Command, tmp_path: Path) -> None:
    head = ("bundle", "--encoder", "resnet10t", "--weights", "none", "--slice-size", 32, "--activation", "softmax")
    status, out, _ = tonno(
        *head, "--classes", "normal,lesion", "--intensity", "window:0:200", "--mean", "timm", "--pixel-mm", 2,
        "--output", tmp_path / "two",
    )  # fmt: skip
    assert status == 0
    for said in ("32 x 32, of 2 mm", "0 to 200 become 0 to 1", "less 0.449 and divided by 0.226", "(softmax)"):
        assert said in out
    status, out, _ = tonno(
        "reconstruct", "scan.nii.gz", "--model", tmp_path / "two", *COARSE, "--output", tmp_path / "o"
    )
    assert status == 0
    assert out.splitlines()[2].split()[1] == "lesion"
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert report["class"] == "lesion"
    assert report["model"]["activation"] == "softmax"
    assert report["model"]["mean"] == [0.449]
    assert tonno(*head, "--classes", "cyst,tumour", "--output", tmp_path / "asks")[0] == 0
    asked = tonno.refused(
        "reconstruct", "scan.nii.gz", "--model", tmp_path / "asks", *COARSE, "--output", tmp_path / "p"
    )
    assert asked == "the model has 2 classes (cyst, tumour); give --class to say which to look for"
