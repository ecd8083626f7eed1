"""`tonno reconstruct --roi`: what it costs and what it gives, with and without `--zoom`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.analytic import Blobs, correlation, slope
from tests.networks import write_random_bundle
from tonno_core import cli
from tonno_core.bundle.decide import decide
from tonno_core.bundle.ready import prepare_model
from tonno_core.reconstruction.planes import zoomed_ball
from tonno_core.settings import ReconstructionSettings
from tonno_core.slicing.roi import read_region
from tonno_core.volume.io import read_volume, write_volume
from tonno_core.volume.volume import Volume

RADIUS = 60.0
# Cube inscribed in a ball of half the radius, away from the centre.
HALF = RADIUS / 2 / np.sqrt(3)
CENTRE = np.array([15.0, -12.0, 10.0])
CORNERS = ":".join(",".join(str(x) for x in CENTRE + sign * HALF) for sign in (-1, 1))
GRID = np.diag([2.5, 2.5, 2.5, 1.0])
GRID[:3, 3] = -60.0

Run = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command on a volume; the folder of the results, and the report."""

    def go(volume: Volume, name: str, *more: object, status: int = 0) -> tuple[Path, dict[str, Any]]:
        write_volume(volume, tmp_path / "scan.nii.gz")
        words = ["reconstruct", tmp_path / "scan.nii.gz", "--output", tmp_path / name, "--device", "cpu", *more]
        if "--model" not in words:
            words += ["--model", "pixel-sum"]
        with pytest.raises(SystemExit) as done:
            cli.main([str(word) for word in words])
        said = capfd.readouterr()
        assert done.value.code == status, said.err
        if status:
            return tmp_path, {"error": said.err.splitlines()[-1]}
        return tmp_path / name, {"said": said.out, **json.loads((tmp_path / name / "report.json").read_text())}

    return go


def blobs(*parts: tuple[list[float], float, float]) -> Volume:
    """Gaussians by centre (mm), standard deviation and height, on a grid of 48^3 voxels of 2.5 mm."""
    centres, sigmas, heights = (np.array(values) for values in zip(*parts, strict=True))
    return Blobs(centres, sigmas, heights).on_grid((48, 48, 48), GRID)


BODY = ([0.0, 0.0, 0.0], 22.0, 0.5)
PAIR = (([8.0, -12.0, 10.0], 4.5, 1.0), ([22.0, -12.0, 10.0], 4.5, 1.0))


def test_a_region_of_half_the_radius_costs_six_tenths_and_is_the_same_there(run: Run) -> None:
    volume = blobs(BODY, *PAIR)
    planes = ("--slices", 64, "--directions", 32, "--slice-size", 24, "--radius-mm", RADIUS)
    whole, all_of_it = run(volume, "whole", *planes)
    part, its_own = run(volume, "part", *planes, "--roi", CORNERS)
    # The bar. Measured 0.57, of which the three whole directions along R, A and S are 0.04.
    assert its_own["slices"]["total"] <= 0.6 * all_of_it["slices"]["total"]
    one, other = (read_volume(folder / "heatmap-tonno.nii.gz").array for folder in (whole, part))
    k, j, i = np.indices(one.shape)
    ras = np.stack([i, j, k], axis=-1) * 2.5 - 60.0
    inside = (np.abs(ras - CENTRE) <= HALF).all(axis=-1)
    assert inside.sum() > 1000
    assert np.abs(one - other)[inside].max() <= 1e-3 * np.abs(one).max()
    assert (other[~inside] == 0).all()
    np.testing.assert_allclose(its_own["region"]["box_to_ras"], np.diag([HALF] * 3 + [1]) + _shift(CENTRE), atol=1e-9)
    assert its_own["region"]["zoom"] is False
    assert all_of_it["region"] is None


def _shift(centre: np.ndarray) -> np.ndarray:
    matrix = np.zeros((4, 4))
    matrix[:3, 3] = centre
    return matrix


def test_zoom_resolves_what_the_offsets_of_the_whole_cannot(run: Run) -> None:
    volume = blobs(*PAIR)  # nothing beyond the ball, so that its image is exact
    planes = ("--slices", 28, "--directions", 90, "--slice-size", 28, "--roi", CORNERS)
    found = {}
    for name, more in (("plain", ("--radius-mm", RADIUS)), ("zoom", ("--zoom",))):
        folder, report = run(volume, name, *planes, *more)
        heatmap = read_volume(folder / "heatmap-tonno.nii.gz").array
        inside = heatmap != 0
        found[name] = correlation(heatmap[inside], volume.array[inside]), slope(heatmap[inside], volume.array[inside])
    assert report["region"]["zoom"] is True
    # Offsets of 2.8 mm in place of 4.4 mm on blobs of 4.5 mm: measured 0.991 and 0.82,
    # without zoom 0.957 and 0.61.
    assert found["zoom"][0] > 0.99, found
    assert abs(found["zoom"][1] - 1.0) < 0.5 * abs(found["plain"][1] - 1.0), found


def test_zoom_leaves_room_for_what_smoothing_reaches() -> None:
    volume, settings = blobs(BODY), ReconstructionSettings(methods=("tonno",), slices=41)
    region, model = read_region(CORNERS), prepare_model("pixel-sum", settings, "cpu")
    plain, smoothed = (
        zoomed_ball(volume, decide(replace(settings, smooth_mm=width), model, region=region, zoom=True))[1]
        for width in (0.0, 3.0)
    )
    # All but (1 + sqrt 3) steps of 1 / 20 hold the region's corner, farther by that of a cube of 4 sigmas and a voxel.
    left = 1 - (1 + np.sqrt(3)) / 20
    assert plain == pytest.approx(np.sqrt(3) * HALF / left)
    assert smoothed == pytest.approx(np.sqrt(3) * (HALF + 4 * 3.0 + 2.5) / left)


def test_zoom_says_which_slice_size_keeps_the_trained_scale(run: Run, tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "model", pixel_mm=4.0, thresholds={"tonno": {"threshold": 0.25, "settings": {}}})
    words = ("--model", tmp_path / "model", "--method", "tonno", "--slices", 24, "--directions", 4, "--roi", CORNERS)
    _, report = run(blobs(BODY, *PAIR), "zoom", *words, "--zoom")
    source = report["methods"]["tonno"]["threshold_source"]
    assert source == "the model's own, calibrated at other scale"
    radius = np.linalg.norm(np.array(report["frame_to_ras"])[:3, 0])
    assert report["warnings"][0].startswith(
        f"slices have pixels of {2 * radius / 31:.2f} mm, the model was trained at 4.0"
    )
    size = int(report["warnings"][0].split("--slice-size ")[1].split()[0])
    assert 2 * radius / (size - 1) == pytest.approx(4.0, rel=0.1)
    assert run(blobs(BODY, *PAIR), "same", *words, "--zoom", "--slice-size", size)[1]["warnings"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--zoom"], "--zoom needs a region to zoom into; give --roi"),
        (["--zoom", "--roi", CORNERS, "--radius-mm", "50"], "--zoom and --radius-mm both determine the ball"),
        (["--zoom", "--roi", CORNERS, "--frame", "normalized"], "--zoom has no meaning with --frame normalized"),
        (["--zoom", "--roi", CORNERS, "--slices", "6"], "--slices is 6, too few for --zoom by this filter"),
        (["--roi", "1,2,3"], "--roi '1,2,3': expected two opposite corners"),
        (["--roi", "500,500,500:600,600,600"], "the region holds no voxel of what is looked at"),
    ],
)
def test_regions_that_cannot_be(words: list[str], message: str, run: Run) -> None:
    assert run(blobs(BODY), "out", "--directions", 4, *words, status=2)[1]["error"].startswith(f"tonno: {message}")
