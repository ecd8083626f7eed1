"""A few faults of one command, drawn by a seed; `make faults` does all of them to all commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.toy import environment

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("cc") or shutil.which("gcc")),
    reason="makes calls of Linux fail, by a library that is compiled for it",
)


def test_a_disturbed_command_is_given_again_and_ends_as_an_undisturbed_one() -> None:
    asked = ["--only", "prepare autopet", "--kills", "6", "--failures", "2", "--jobs", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.run", *asked], env=environment(PYTHONWARNINGS="ignore"),
        cwd=Path(__file__).parents[2], capture_output=True, encoding="utf-8", timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines()[2:]]
    tried = {" ".join(row[2:-3]): int(row[-3]) for row in rows}
    assert tried.pop("small disk", 3) == 3  # where root may mount one
    assert tried == {"SIGKILL": 6, "ENOSPC": 2, "EROFS": 2, "EIO once": 2, "RLIMIT_AS": 4, "clock": 3, "none": 1}
