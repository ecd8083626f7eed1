"""Several processes reconstruct one volume as one does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.networks import write_random_bundle
from tests.processes import two_processes
from tests.training.toy import toy_scan
from tonno_core.commands.reconstruct import Scan, reconstruct_into
from tonno_core.commands.request import Compute, Options, prepare, read_options
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.reconstruction.shared import share_of
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.io import read_volume, write_volume

METHODS = ("tonno", "matched-cam", "slicewise-cam")
# Odd, so that the shares differ, and CAM methods of a number of their own.
OPTIONS = {"methods": METHODS, "slices": 14, "directions": 9, "cam_directions": 7}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, a model of it whose defaults are the options, and the result of one process."""
    folder = tmp_path_factory.mktemp("home")
    write_volume(toy_scan(0, 1), folder / "scan.nii.gz")
    write_random_bundle(folder / "model", defaults=dict(OPTIONS))
    prepared = prepare(read_options(Options(str(folder / "model"))), Compute("cpu", "float32"))
    reconstruct_into(folder / "alone", Scan(folder / "scan.nii.gz"), prepared, progress=lambda *_: None)
    return folder


def command(home: Path, output: Path, *more: str) -> list[str]:
    paths = [str(home / "scan.nii.gz"), "--model", str(home / "model"), "--output", str(output)]
    return ["reconstruct", *paths, "--device", "cpu", "--precision", "float32", *more]


def report(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


def test_two_processes_give_what_one_gives(home: Path, tmp_path: Path) -> None:
    done = two_processes(*command(home, tmp_path / "two"), TQDM_MININTERVAL="0.1")  # a bar, as on a terminal
    assert done.returncode == 0, done.stderr
    assert "child ended with 0" in done.stdout
    assert done.stdout.count("written to") == 1  # by the first process alone
    assert "reconstructing: 100%" in done.stderr
    # One bar, of the first process's planes: the other's are fewer. Its end may be drawn twice.
    assert len(set(re.findall(r"/(\d+) \[", done.stderr))) == 1
    for method in METHODS:
        two, one = (
            read_volume(folder / f"heatmap-{method}.nii.gz").array for folder in (tmp_path / "two", home / "alone")
        )
        # The bar of the project; float32 sums in another order differ by 1e-6.
        assert np.abs(two - one).max() <= 1e-5 * np.abs(one).max(), method
    two, one = report(tmp_path / "two"), report(home / "alone")
    assert (two.pop("processes"), one.pop("processes")) == (2, 1)
    # The logits are put together in order: the score, and the self-check's correlation with the heatmap.
    assert two["score"] == pytest.approx(one["score"], rel=1e-5)
    assert two["explained_by_tonno"] == pytest.approx(one["explained_by_tonno"], rel=1e-3)
    assert two["profiles"] == one["profiles"]
    assert two["slices"] == one["slices"]


def test_where_one_process_fails_all_end_with_a_line(home: Path, tmp_path: Path) -> None:
    done = two_processes(*command(home, tmp_path / "two"), FAILS="1")
    assert done.returncode == 2
    assert "child ended with 2" in done.stdout
    said = sorted(line for line in done.stderr.splitlines() if line.startswith("tonno: "))
    assert said[0] == f"tonno: {home / 'scan.nii.gz'}: cannot be read here"
    assert said[1].startswith("tonno: another process of this run ended, its own message says why (")
    assert len(said) == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "two").exists()


def plan_of(count: int, *, needed: bool = False) -> SlicePlan:
    limits = np.stack([np.arange(count), np.arange(count) + 3], axis=1) if needed else None
    return SlicePlan(physical_frame([0.0, 0.0, 0.0], 50.0), hemisphere(count), 16, 8, limits)


@pytest.mark.parametrize("needed", [False, True])
def test_the_shares_are_all_directions_once(needed: bool) -> None:
    plan = plan_of(8, needed=needed)
    shares = [share_of(plan, Processes(rank, 3, torch.device("cpu"))) for rank in range(3)]
    assert [len(one.directions) for one in shares] == [3, 3, 2]
    for rank, one in enumerate(shares):
        np.testing.assert_array_equal(one.directions, plan.directions[rank::3])
        np.testing.assert_array_equal(one.counts, plan.counts[rank::3])


def test_more_processes_than_directions_are_refused() -> None:
    with pytest.raises(
        TonnoError, match=r"^`directions` is 2, expected at least one for each of the 3 processes; start"
    ):
        share_of(plan_of(2), Processes(0, 3, torch.device("cpu")))
