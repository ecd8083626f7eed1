"""`tonno features`: a scan and a classifier in; features as other programs read them, a report and a picture out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from tests.analytic import grid_around, make_blobs
from tests.commands.within import Command
from tests.mirrors import write_mirror
from tests.networks import random_network, spec_of, write_random_bundle
from tests.training.toy import toy_scan
from tonno_core.bundle.file import load_bundle, save_bundle
from tonno_core.bundle.ready import prepare_model
from tonno_core.commands import features as command
from tonno_core.demo.phantom import brain
from tonno_core.reconstruction.features import reconstruct_features
from tonno_core.signals import ending_signals
from tonno_core.volume.io import read_volume, write_volume

COARSE = ("--slices", 10, "--directions", 6, "--device", "cpu", "--precision", "float32")


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Take back the signal handler that the command installs."""
    before = {number: signal.getsignal(number) for number in ending_signals()}
    yield
    for number, old in before.items():
        signal.signal(number, old)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scan, a classifier and a segmenter."""
    folder = tmp_path_factory.mktemp("home")
    write_volume(toy_scan(0, 1), folder / "scan.nii.gz")
    network = random_network("test_resnet")  # timm's smallest, of 96 features
    save_bundle(folder / "model", spec_of("test_resnet", about={"finding": "none"}), network.state_dict())
    write_mirror(folder / "segmenter")
    return folder


class Features(Command):
    """Runs `tonno features`."""

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        return super().__call__("features", *arguments)


@pytest.fixture
def tonno(capfd: pytest.CaptureFixture[str]) -> Features:
    return Features(capfd)


def refused(tonno: Features, output: Path, *arguments: object) -> str:
    """The only line, and nothing written."""
    status, out, err = tonno(*arguments, "--output", output)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "Traceback" not in err
    assert not output.exists() and not list(output.parent.glob(".tonno*"))
    return err.removeprefix("tonno: ").rstrip("\n")


def test_features_are_written_as_other_programs_read_them(
    tonno: Features, home: Path, tmp_path: Path, rendered: None
) -> None:
    output = tmp_path / "out"
    status, out, _ = tonno(home / "scan.nii.gz", "--model", home / "model", "--output", output, *COARSE)
    assert status == 0
    assert "96 features at 10 x 10 x 10 nodes" in out and "6 directions" in out and "not for diagnosis" in out
    assert sorted(each.name for each in output.iterdir()) == ["features.json", "features.nii.gz", "features.png"]
    settings = load_bundle(home / "model").spec.choices.settings({"slices": 10, "directions": 6})
    ready = prepare_model(load_bundle(home / "model"), settings, "cpu", "float32")
    expected = reconstruct_features(read_volume(home / "scan.nii.gz"), ready, settings)
    image, read = nibabel.load(output / "features.nii.gz"), sitk.ReadImage(str(output / "features.nii.gz"))
    assert image.shape == (10, 10, 10, 1, 96) and read.GetNumberOfComponentsPerPixel() == 96
    np.testing.assert_allclose(image.affine, expected.ijk_to_ras, atol=1e-4)  # float32 in the file
    for index in (0, 7, 95):
        volume = expected.volume(index)
        np.testing.assert_array_equal(np.asarray(image.dataobj[..., 0, index]).T, volume)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read)[..., index], volume)
    report = json.loads((output / "features.json").read_text())
    assert report["written"] == "features" and report["features"] == 96
    assert report["model"]["about"] == {"finding": "none"}
    assert report["settings"]["directions"] == 6 and report["nodes"]["size_ijk"] == [10, 10, 10]
    np.testing.assert_allclose(report["nodes"]["ijk_to_ras"], expected.ijk_to_ras)
    assert report["smooth_mm"] == expected.smooth_mm > 0
    shares = report["components"]["shares"]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert str(tmp_path) not in (output / "features.json").read_text()
    picture = imread(output / "features.png")
    assert picture.shape[1] == 1320
    assert np.ptp(picture[..., :3], axis=2).max() > 0.3  # there are colors


def test_the_same_run_writes_the_same_file(tonno: Features, home: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        arguments = (home / "scan.nii.gz", "--model", home / "model", *COARSE, "--components", 4, "--quiet")
        assert tonno(*arguments, "--output", tmp_path / name) == (0, "", "")
    one, other = ((tmp_path / name / "features.nii.gz").read_bytes() for name in ("one", "other"))
    assert one == other


def test_principal_components_in_the_features_place(tonno: Features, home: Path, tmp_path: Path) -> None:
    scan = (home / "scan.nii.gz", "--model", home / "model")
    assert tonno(*scan, "--output", tmp_path / "all", *COARSE)[0] == 0
    status, out, _ = tonno(*scan, "--output", tmp_path / "some", *COARSE, "--components", 5)
    assert status == 0 and "5 principal components of 96 features" in out
    whole, some = (
        np.asarray(nibabel.load(tmp_path / name / "features.nii.gz").dataobj)[..., 0, :] for name in ("all", "some")
    )
    report = json.loads((tmp_path / "some" / "features.json").read_text())
    assert report["written"] == "principal components"
    weights = np.array(report["components"]["weights"])
    assert weights.shape == (5, 96) and some.shape[-1] == 5
    np.testing.assert_allclose(weights @ weights.T, np.eye(5), atol=1e-9)
    expected = np.tensordot(whole.astype(float), weights.T, axes=1)
    # float32: sums over features before or after the second derivative.
    np.testing.assert_allclose(some, expected, atol=3e-4 * np.abs(expected).max())


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_presets_choose_the_planes_and_nodes_stay_few(tonno: Features, home: Path, tmp_path: Path, preset: str) -> None:
    scan = (home / "scan.nii.gz", "--model", home / "model", "--preset", preset, *COARSE)
    assert tonno(*scan, "--components", 1, "--output", tmp_path / "out")[0] == 0
    image = nibabel.load(tmp_path / "out" / "features.nii.gz")
    assert image.shape[:3] == (10, 10, 10)
    if preset == "paper":  # the paper's cube: its corners are the centers of the scan's outer voxels
        corner = image.affine @ [0, 0, 0, 1]
        np.testing.assert_allclose(corner, toy_scan(0, 1).ijk_to_ras @ [0, 0, 0, 1], atol=1e-4)


def test_what_cannot_be_done_is_said_in_a_line(tonno: Features, home: Path, tmp_path: Path) -> None:
    scan, output = home / "scan.nii.gz", tmp_path / "out"
    model = ("--model", home / "model")
    assert refused(tonno, output, scan, "--model", "pixel-sum") == (
        "--model pixel-sum: has no feature vector, expected the folder of a classifier"
    )
    assert refused(tonno, output, scan, "--model", home / "segmenter").endswith(
        "is a segmenter, expected a classifier of slices"
    )
    assert refused(tonno, output, scan, *model, "--components", 97, *COARSE) == (
        "--components 97: test_resnet has 96 features; give no more"
    )
    (tmp_path / "scans.csv").write_text("volume\nscan.nii.gz\n")
    for several in (tmp_path / "scans.csv", home):
        assert "expected one scan: give each by itself" in refused(tonno, output, several, *model, *COARSE)
    assert "--smooth-mm" in refused(tonno, output, scan, *model, "--smooth-mm", -1)
    assert "no such file" in refused(tonno, output, home / "none.nii.gz", *model, *COARSE)
    assert "no such model folder" in refused(tonno, output, scan, "--model", home / "nothing")
    assert "--components" in refused(tonno, output, scan, *model, "--components", 0)
    sheared = read_volume(scan)
    matrix = sheared.ijk_to_ras.copy()
    matrix[0, 1] = 1.0
    write_volume(type(sheared)(sheared.array, matrix), tmp_path / "tilted.nrrd")
    arguments = (tmp_path / "tilted.nrrd", *model, *COARSE, "--frame", "normalized")
    assert "degrees away from perpendicular" in refused(tonno, output, *arguments)
    assert tonno(tmp_path / "tilted.nrrd", *model, *COARSE, "--components", 1, "--output", output)[0] == 0
    assert "exists already" in tonno(scan, *model, *COARSE, "--output", output)[2]


def test_an_interruption_leaves_nothing(
    tonno: Features, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os._exit", sys.exit)

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write_colors", interrupted)
    status, _, err = tonno(
        home / "scan.nii.gz", "--model", home / "model", *COARSE, "--output", tmp_path / "out", "--quiet"
    )
    assert status == 130 and "nothing half-written is left" in err
    assert list(tmp_path.iterdir()) == []


def test_a_finding_of_one_node_and_a_scan_thinner_than_a_node_have_a_picture(
    tonno: Features, home: Path, tmp_path: Path, rendered: None
) -> None:
    shape = (2, 40, 40)
    thin = make_blobs(0, 4, reach=20.0, sigmas=(6.0, 9.0)).on_grid(shape, grid_around((0, 0, 0), shape, (2, 2, 2)))
    write_volume(thin, tmp_path / "thin.nii.gz")
    status, _, err = tonno(tmp_path / "thin.nii.gz", "--model", home / "model", *COARSE, "--output", tmp_path / "out")
    assert (status, err.count("Traceback")) == (0, 0)
    assert (tmp_path / "out" / "features.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_a_brain_at_64_nodes_a_side_stays_within_4_gb(tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "model")
    write_volume(brain(), tmp_path / "brain.nii.gz")  # 197 x 233 x 189 voxels
    # The number of directions adds numbers per plane: 256 of them are 34 MB for 512 features.
    scan, model, output = (str(tmp_path / name) for name in ("brain.nii.gz", "model", "out"))
    words = [
        "features", scan, "--model", model, "--output", output,
        "--slices", "64", "--directions", "4", "--slice-size", "96", "--device", "cpu",
    ]  # fmt: skip
    program = (
        "import resource, subprocess, sys; done = subprocess.run([sys.executable, '-m', 'tonno_core', *sys.argv[1:]]);"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    status, kilobytes = map(int, done.stdout.split()[-2:])
    assert status == 0, done.stderr
    assert kilobytes < 4 * 1024**2 / 2  # half of the bar: the features of a larger network are four times as many
    assert nibabel.load(tmp_path / "out" / "features.nii.gz").shape == (64, 64, 64, 1, 512)
