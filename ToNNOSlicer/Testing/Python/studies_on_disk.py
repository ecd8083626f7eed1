"""Studies on disk that the tests of the worklist share, and how to wait for it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ToNNOSlicerLib.worklist import ENDED, IDLE, Case, State, Worklist, arguments
from ToNNOSlicerLib.worklist_child import find

from tonno_core.volume.io import write_volume
from tonno_core.volume.volume import Volume

ROOT = Path(__file__).parents[3]
COMMAND = (sys.executable, "-m")
CHANGES = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
QUICK = {"slices": 12, "directions": 6, "slice_size": 12}
SHAPE = (14, 16, 18)


def scan(seed: int, shape=SHAPE, ijkToRAS=None) -> Volume:
    """A dark ball in noise, with a bright spot whose place is the seed's."""
    random = np.random.default_rng(seed)
    k, j, i = np.indices(shape)
    middle = np.array(shape) / 2
    ball = ((k - middle[0]) ** 2 + (j - middle[1]) ** 2 + (i - middle[2]) ** 2) < (min(shape) / 2 - 1) ** 2
    image = 50.0 * ball + random.uniform(0, 5, shape)
    k, j, i = (random.integers(n // 2 - 3, n // 2 + 2) for n in shape)
    image[k : k + 3, j : j + 3, i : i + 3] += 200
    matrix = np.diag([2.0, 2.0, 2.5, 1.0]) if ijkToRAS is None else ijkToRAS
    return Volume(image.astype(np.float32), matrix)


def write(path: Path, seed: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(scan(seed, **options), path)
    return path


def worklist(source: Path, output: Path, options=QUICK, command=COMMAND, **more) -> Worklist:
    return Worklist(source, output, command, CHANGES, "pixel-sum", arguments(device="cpu", options=options), **more)


def until(listed: Worklist, condition: Callable[[State], bool], seconds: float = 300.0) -> State:
    """Ask as the timer would, until something holds."""
    end = time.monotonic() + seconds
    while not condition(state := listed.poll()):
        assert not ended(state), state
        assert time.monotonic() < end, (state, *listed.output.glob("**/*log*.txt"))
        time.sleep(0.02)
    return state


def ended(state: State) -> bool:
    return state.step in (IDLE, ENDED)


def states(state: State) -> list[str]:
    return [case.state for case in state.cases]


def known(listed: Worklist) -> tuple[Case, ...]:
    """The cases as a start would find them, without running anything."""
    return tuple(Case(**case) for case in find(listed.source, listed.output, listed._key)["cases"])


def hasEnded(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends within a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
