"""Several processes train as one does."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.processes import WORKER, free_port, two_processes
from tests.training.toy import environment, train_toy, write_toy_set
from tonno_core import cli
from tonno_core.bundle.file import load_bundle
from tonno_core.errors import TonnoError
from tonno_core.training.settings import check_shares

TRAIN = {"norm": "group", "steps": 16, "epochs": 8, "learning_rate": 1e-4}
OPTIONS = [
    "--encoder", "test_resnet", "--slice-size", "32", "--volumes-per-batch", "4", "--slices-per-volume", "4",
    "--device", "cpu", "--precision", "float32",
    *(part for name, value in TRAIN.items() for part in (f"--{name.replace('_', '-')}", str(value))),
]  # fmt: skip


def losses(run: Path) -> list[list[float]]:
    """Per epoch: training loss, validation loss, AUCs."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [[float(row[name]) for name in ("loss", "validation_loss", "slice_auc", "volume_auc")] for row in rows]


def test_two_processes_interrupted_and_resumed_are_one_run(tmp_path: Path) -> None:
    manifest = write_toy_set(tmp_path / "toy")
    run = tmp_path / "model-run"
    tonno = ["train", str(manifest), "--output", str(tmp_path / "model"), *OPTIONS]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    with subprocess.Popen(
        [*torchrun, WORKER, *tonno], env=environment(PYTHONWARNINGS="ignore"), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, encoding="utf-8",
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (run / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)  # to torchrun, which passes it on
        said = process.communicate(timeout=60)[0]
    assert "holds it, the same command with --resume goes on" in said
    step = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert f"interrupted after step {step} of 16" in said
    assert not (tmp_path / "model").exists()

    done = two_processes(*tonno, "--resume", TRAINS="1")
    assert done.returncode == 0, done.stderr
    assert "child ended with 0" in done.stdout
    assert done.stdout.count("written to") == 1  # by the first process alone
    bundle = load_bundle(tmp_path / "model")
    assert bundle.spec.training["processes"] == 2

    alone = train_toy(manifest, tmp_path / "alone", **TRAIN)
    # Sums of float32 in another order; metrics.csv holds 6 digits of the loss and 4 of the rest.
    for measured, expected in zip(losses(run), losses(tmp_path / "alone"), strict=True):
        assert measured[0] == pytest.approx(expected[0], abs=1e-5)
        assert measured[1:] == pytest.approx(expected[1:], abs=1.1e-4)
    for name, tensor in alone.weights.items():
        # Adam turns the rounding of a gradient near zero into a step of the learning rate at most.
        assert torch.allclose(bundle.weights[name], tensor, rtol=0, atol=16 * 1e-4), name


def test_two_processes_make_two_rounds_of_bags_as_one_does(tmp_path: Path) -> None:
    # Intensities as they are: normalized by their spread, scans with a lesion would differ everywhere.
    more = {"bag": 0.5, "rounds": 2, "intensity": "none", "steps": 6, "epochs": 2}
    manifest = write_toy_set(tmp_path / "toy", train=6)  # heatmaps of six volumes
    options = [part for name, value in more.items() for part in (f"--{name}", str(value))]
    tonno = ["train", str(manifest), "--output", str(tmp_path / "model"), *OPTIONS, *options, "--no-calibrate"]
    done = two_processes(*tonno, TRAINS="1")
    assert done.returncode == 0, done.stderr
    alone = train_toy(manifest, tmp_path / "alone", **TRAIN | more)
    for measured, expected in zip(losses(tmp_path / "model-run"), losses(tmp_path / "alone"), strict=True):
        assert measured[0] == pytest.approx(expected[0], abs=1e-5)
    bundle = load_bundle(tmp_path / "model")
    for name, tensor in alone.weights.items():
        assert torch.allclose(bundle.weights[name], tensor, rtol=0, atol=6 * 1e-4), name  # as above


def test_an_unreadable_volume_ends_all_processes_and_is_named(tmp_path: Path) -> None:
    manifest = write_toy_set(tmp_path / "toy", train=2, val=0)
    (tmp_path / "toy" / "1.nii.gz").write_bytes(b"hello")
    done = two_processes("train", str(manifest), "--output", str(tmp_path / "model"), *OPTIONS)
    assert done.returncode == 2
    assert "child ended with 2" in done.stdout
    # The second process reads the second volume; the first waits for it.
    assert f"tonno: {tmp_path / 'toy' / '1.nii.gz'}: " in done.stderr
    assert "tonno: another process of this run ended, its own message says why (" in done.stderr
    assert "Traceback" not in done.stderr


# -------------------- what cannot be shared


def test_a_batch_that_cannot_be_shared_alike_is_refused() -> None:
    check_shares(1, 4, "batch")
    check_shares(2, 4, "frozen-batch")
    with pytest.raises(TonnoError, match=r"^`volumes_per_batch` is 4, expected a multiple of the 3 processes$"):
        check_shares(3, 4, "group")
    with pytest.raises(TonnoError, match=r"^`norm` batch takes its statistics from a whole batch, which several"):
        check_shares(2, 4, "batch")


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--norm", "batch"], "--norm batch takes its"), (["--volumes-per-batch", "6"], "a multiple of the 4 processes")],
)
def test_what_cannot_be_shared_is_said_in_one_line_before_processes_meet(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("WORLD_SIZE", "4")
    manifest = write_toy_set(tmp_path / "toy", train=2, val=0)
    with pytest.raises(SystemExit) as done:
        cli.main(["train", str(manifest), "--output", str(tmp_path / "model"), *OPTIONS, *options])
    signal.signal(signal.SIGTERM, before)
    err = capfd.readouterr().err
    assert done.value.code == 2
    assert err.startswith("tonno: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(os.listdir(tmp_path)) == ["toy"]  # noqa: PTH208
