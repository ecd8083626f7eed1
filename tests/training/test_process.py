"""`tonno train` as a process of its own: interrupted, out of disk."""

from __future__ import annotations

import csv
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

from tests.training.toy import environment, write_toy_set
from tonno_core import cli
from tonno_core.bundle import calibration
from tonno_core.bundle.file import load_bundle
from tonno_core.settings import PRESETS
from tonno_core.training import look

OPTIONS = [
    "--encoder", "test_resnet", "--slice-size", "32", "--volumes-per-batch", "4", "--slices-per-volume", "4",
    "--device", "cpu", "--precision", "float32",
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("kept_signals")


def tonno(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Status and stderr of the command within this process."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as done:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(done.value.code, int)
    return done.value.code, capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "ema"),
    [(signal.SIGINT, "0"), (signal.SIGTERM, "0.9"), (signal.SIGUSR1, "0")],
    ids=["Ctrl-C", "SIGTERM", "SIGUSR1"],
)
def test_a_signal_leaves_a_checkpoint_that_goes_on_and_that_a_bundle_is_made_of(
    number: signal.Signals, ema: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest, run = write_toy_set(tmp_path / "toy", train=2, val=0), tmp_path / "model-run"
    # Steps enough for a second after the first epoch; each takes 10 ms or more.
    options = ["train", manifest, "--output", tmp_path / "model", *OPTIONS, "--steps", "80", "--epochs", "2"]
    options += ["--ema", ema]
    with subprocess.Popen(
        [sys.executable, "-m", "tonno_core", *options], env=environment(), stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        deadline = time.monotonic() + 60
        while not (run / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130, said
    step = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert said.splitlines()[-1] == (
        f"tonno: interrupted after step {step} of 80; {run / 'checkpoint.pt'} holds it, "
        "the same command with --resume goes on"
    )
    assert "Traceback" not in said
    assert 40 <= step < 80
    assert not [path for path in run.rglob("*") if "partial" in path.name]

    made = ["bundle", "--encoder", "test_resnet", "--slice-size", 32, "--weights", run / "checkpoint.pt"]
    assert tonno(capfd, *made, "--output", tmp_path / "early") == (0, "")
    load_bundle(tmp_path / "early").classifier()

    assert tonno(capfd, *options, "--resume")[0] == 0
    assert load_bundle(tmp_path / "model").spec.training["settings"]["steps"] == 80
    with (run / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["40", "80"]
    imread(run / "curves.png")


def test_a_calibration_that_is_stopped_goes_on_to_the_same_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "CALIBRATED_PRESETS", ("fast",))
    monkeypatch.setitem(PRESETS, "fast", {"slices": 5, "directions": 3})
    manifest, run = write_toy_set(tmp_path / "toy", val=3), tmp_path / "model-run"
    options = ["train", manifest, "--output", tmp_path / "model", *OPTIONS, "--steps", 3, "--epochs", 1]
    options += ["--slices", 6, "--directions", 4, "--calibrate-stages", 2, "--calibrate-stages", 3]
    begun: list[object] = []
    stops: dict[int, signal.Signals] = {}

    class Watched(look.Watched):
        """Begins to measure a volume, which was perhaps held."""

        def __init__(self, *of: Any) -> None:
            super().__init__(*of)
            begun.append(self)
            if len(begun) in stops:
                signal.raise_signal(stops.pop(len(begun)))

    monkeypatch.setattr(look, "Watched", Watched)
    status, said = tonno(capfd, *options, "--output", tmp_path / "whole")
    assert status == 0
    # Two negative volumes weigh the stages, all three choose, and are looked at again for the preset.
    assert len(begun) == 8
    assert "calibrating on 3 volumes of split val; how long it takes shows after the first" in said
    assert re.search(r"calibrating: about \d+ s left, as the first volume took", said)
    assert not (tmp_path / "whole-run/calibration").exists()
    begun.clear()
    stops.update({2: signal.SIGTERM, 5: signal.SIGINT, 9: signal.SIGUSR1})
    for more, kept in (((), 1), (("--resume",), 3), (("--resume",), 6)):
        status, said = tonno(capfd, *options, *more)
        assert (status, said.splitlines()[-1]) == (
            130,
            f"tonno: interrupted while calibrating; the model is written to {tmp_path / 'model'}, without thresholds; "
            "the same command with --resume goes on with its calibration where it stopped",
        )
        assert load_bundle(tmp_path / "model").spec.thresholds == {}
        assert len(list((run / "calibration").iterdir())) == kept  # files, and nothing half-written
    damaged = min((run / "calibration").iterdir())
    damaged.write_text(damaged.read_text()[:-20])
    assert tonno(capfd, *options, "--resume")[0] == 0
    assert len(begun) == 8 + 3 + 1  # those that were stopped, and the damaged one, once more
    one, other = (load_bundle(tmp_path / name).spec for name in ("model", "whole"))
    assert one.thresholds
    assert (one.thresholds, one.calibration) == (other.thresholds, other.calibration)  # to the last bit
    assert sorted(path.name for path in run.iterdir()) == sorted(
        path.name for path in (tmp_path / "whole-run").iterdir()
    )


def test_a_lost_connection_leaves_a_checkpoint(tmp_path: Path) -> None:
    manifest, run = write_toy_set(tmp_path / "toy", train=2, val=0), tmp_path / "model-run"
    options = ["train", str(manifest), "--output", str(tmp_path / "model"), *OPTIONS, "--steps", "800"]
    options += ["--epochs", "20"]
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
         "runpy.run_module('tonno_core', run_name='__main__')", *options],
        env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    deadline = time.monotonic() + 60
    while not (run / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        with suppress(BlockingIOError):
            os.read(ours, 1000)
    os.close(ours)  # the kernel sends SIGHUP, and all that is written to the terminal fails from now on
    assert process.wait(timeout=30) == 130
    assert 40 <= torch.load(run / "checkpoint.pt", weights_only=True)["step"] < 800
    assert not [path for path in run.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize(("limit", "file"), [(4096, "cache/00000.pt"), (300_000, "checkpoint.pt")])
def test_a_full_disk_is_one_line(limit: int, file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest, run = write_toy_set(tmp_path / "toy", train=2, val=0), tmp_path / "model-run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # as if the disk ended there
    try:
        status, err = tonno(capfd, "train", manifest, "--output", tmp_path / "model", *OPTIONS, "--steps", 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    assert err.splitlines()[-1].startswith(f"tonno: {run / file}: cannot be written (")
    assert "Traceback" not in err
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if "partial" in name]
    assert not (tmp_path / "model").exists()
