"""Many reconstructions in one worker, disturbed at random: what it holds at the end is what it held: ``make soak``."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from tests.networks import random_network, spec_of
from tests.training.toy import toy_scan
from tests.worker.talk import ENVIRONMENT, EngineClient, Event, answer, fields, make_client, processes_of
from tonno_core.bundle.file import save_bundle
from tonno_core.volume.volume import Volume

# As the worker starts; asked by a signal, it counts what it holds once nothing is running.
_COUNTED = """
import ctypes, gc, linecache, os, runpy, signal, sys
def count(number, frame):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    graphs = sum(name.startswith("<eval_with_key>") for name in linecache.cache)
    with open({path!r} + ".part", "w") as file:
        file.write(f"{{len(gc.get_objects()) - 3 * graphs}} {{graphs}}")
    os.replace({path!r} + ".part", {path!r})
signal.signal(signal.SIGUSR2, count)
sys.argv = ["worker", *sys.argv[1:]]
runpy.run_module("tonno_core.worker", run_name="__main__", alter_sys=True)
"""
_SHORT = {"slices": 8, "directions": 6, "methods": ["tonno", "averaged-cam"]}
_SUM = {"slices": 8, "directions": 6, "methods": ["tonno"]}
_LONG = {"slices": 16, "directions": 3000, "methods": ["tonno"]}
# A voxel array of 48^3 float32 is 0.44 MB: a run that leaked one would add 80 MB in 180 runs. The allocator's pieces
# vary by a few MB.
_RSS_MB = 12.0
# The first answer comes when torch is there, which a busy machine takes a minute for.
_PATIENCE_S = 300.0
# A run that leaked one object would add 180. Interned names and caches of libraries grow by some dozens.
_OBJECTS_PER_RUN = 0.5


@dataclass(frozen=True)
class Figures:
    """What is held by the worker, and what lies in the folders of its client.

    Attributes:
        rss_mb: Resident memory.
        objects: Of Python, that its collector knows, without those of ``graphs``.
        graphs: Whose generated source torch.fx keeps for tracebacks, for ever: 8 of each model that is loaded here.
        handles: Open files.
        threads: Of the worker.
        processes: Of the client.
        files: Temporary files and folders, those of shared memory included.
    """

    rss_mb: float
    objects: int
    graphs: int
    handles: int
    threads: int
    processes: int
    files: int


class Soak:
    """A worker, and what is asked of it.

    Args:
        folder: For models and temporary files.
        seed: Of what is asked, and when it is disturbed.
        side: Of the volume, in voxels.
    """

    def __init__(self, folder: Path, *, seed: int = 0, side: int = 48) -> None:
        self._random = np.random.default_rng(seed)
        self._temporary, self._count = folder / "temporary", folder / "count"
        self._temporary.mkdir()
        self._model, self._broken = folder / "model", folder / "broken"
        for name, number in (("model", 0), ("other", 1)):
            save_bundle(folder / name, spec_of("test_resnet"), random_network("test_resnet", seed=number).state_dict())
        shutil.copytree(self._model, self._broken)
        (self._broken / "model.safetensors").write_bytes(b"no weights")
        self._others = [folder / "other", self._model]
        scan = toy_scan(1, 1)
        times = max(1, side // 16)
        self._volume = Volume(np.tile(scan.array, (times,) * 3), scan.ijk_to_ras)
        command = [sys.executable, "-c", _COUNTED.format(path=str(self._count))]
        environment = {**ENVIRONMENT, "TMPDIR": str(self._temporary)}
        self.client: EngineClient = make_client(command=command, environment=environment, temporaryPath=self._temporary)
        self.ended: Counter[str] = Counter()

    def figures(self) -> Figures:
        """Count, when the worker has nothing to do; after a run of one kind, as the last model and run are kept."""
        assert self._whole() == "result"
        pid = self.client.pid
        assert pid is not None
        self._count.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR2)
        until = time.monotonic() + 60
        while not self._count.exists() and time.monotonic() < until:
            time.sleep(0.02)
        objects, graphs = map(int, self._count.read_text().split())
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return Figures(
            rss_mb=round(int(status["VmRSS"].split()[0]) / 1024, 1),
            objects=objects,
            graphs=graphs,
            handles=len(list(Path(f"/proc/{pid}/fd").iterdir())),
            threads=int(status["Threads"]),
            processes=len(processes_of(self._temporary)),
            files=len(list(self._temporary.rglob("*"))) + len(list(Path("/dev/shm").iterdir())),
        )

    def run(self, count: int) -> None:
        """Ask for reconstructions, each disturbed in one way or in none; every way in turn, in an order of its own."""
        ways: list[Callable[[], str]] = []
        for _ in range(count):
            if not ways:
                ways = [self._whole, self._whole_of_sum, self._refined, self._cancelled, self._stopped, self._resumed,
                        self._bad_file, self._missing_file, self._changed_file, self._bad_model, self._missing_model,
                        self._changed_model, self._bad_option]  # fmt: skip
                self._random.shuffle(ways)  # type: ignore[arg-type]
            way = ways.pop()
            self.ended[f"{way.__name__.strip('_').replace('_', ' ')}: {way()}"] += 1

    def close(self) -> int:
        """End the worker; how many temporary files are left then."""
        self.client.close()
        return len(list(self._temporary.rglob("*")))

    # --- the ways

    def _ask(self, model: str | Path = "pixel-sum", **changes: Any) -> tuple[int, dict[str, Any]]:
        asked = fields(self.client, self._volume, model, **{"options": _SUM, "preview": True, **changes})
        return self.client.submit("reconstruct", **asked), asked

    def _end(self, asked: tuple[int, dict[str, Any]]) -> str:
        number, sent = asked
        return self._said(answer(self.client, number, patience_s=_PATIENCE_S), sent)

    def _said(self, final: Event, sent: dict[str, Any]) -> str:
        self.client.release(sent["folder"])
        kind = str(final["type"])
        return f"{kind} {final['kind']}" if kind == "error" else kind

    def _sleep(self) -> None:
        time.sleep(self._random.uniform(0.0, 0.3))

    def _whole(self) -> str:
        return self._end(self._ask(self._model, options=_SHORT))

    def _whole_of_sum(self) -> str:
        return self._end(self._ask())

    def _refined(self) -> str:
        number, sent = self._ask(self._model, options=_SHORT)
        answer(self.client, number)
        again = {"folder": sent["folder"], "options": {"smooth_mm": float(self._random.uniform(1, 9))}}
        return self._said(answer(self.client, self.client.submit("refine", **again)), sent)

    def _cancelled(self) -> str:
        number, sent = self._ask(options=_LONG)
        self._sleep()
        self.client.cancel(number)
        return self._end((number, sent))

    def _stopped(self) -> str:
        number, sent = self._ask(options=_LONG)
        self._sleep()
        self.client.stop(number)
        return self._end((number, sent))

    def _resumed(self) -> str:
        number, sent = self._ask(options={**_LONG, "directions": 200})
        self.client.stop(number)
        if answer(self.client, number)["type"] == "result":
            number = self.client.submit("resume", folder=sent["folder"], options={})
            return self._end((number, sent))
        return self._end(self._ask())

    def _bad_file(self) -> str:
        asked = fields(self.client, self._volume, self._model, options=_SHORT)
        Path(asked["volume"]["array"]).write_bytes(b"\x93NUMPY of something else")
        return self._end((self.client.submit("reconstruct", **asked), asked))

    def _missing_file(self) -> str:
        asked = fields(self.client, self._volume, self._model, options=_SHORT)
        Path(asked["volume"]["array"]).unlink()
        return self._end((self.client.submit("reconstruct", **asked), asked))

    def _changed_file(self) -> str:
        """Cut off at any moment: before it is read, or later."""
        asked = fields(self.client, self._volume, self._model, options=_SHORT)
        number = self.client.submit("reconstruct", **asked)
        time.sleep(self._random.uniform(0.0, 0.05))
        os.truncate(asked["volume"]["array"], 1000)
        return self._end((number, asked)).partition(" ")[0]

    def _bad_model(self) -> str:
        return self._end(self._ask(self._broken, options=_SHORT))

    def _missing_model(self) -> str:
        return self._end(self._ask(self._model.with_name("no such model"), options=_SHORT))

    def _changed_model(self) -> str:
        self._others.reverse()
        return self._end(self._ask(self._others[0], options=_SHORT))

    def _bad_option(self) -> str:
        return self._end(self._ask(options={**_SUM, "slices": 1}))


def grown(before: Figures, after: Figures, runs: int) -> list[str]:
    """Name the figures that grew by more than they may."""
    allowed = {"rss_mb": _RSS_MB, "objects": _OBJECTS_PER_RUN * runs, "graphs": math.inf}
    return [name for name, value in asdict(after).items() if value - asdict(before)[name] > allowed.get(name, 0)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder).resolve(), seed=asked.seed)
        soak.run(26)  # every way twice: libraries load, caches fill
        before = soak.figures()
        soak.ended.clear()
        soak.run(asked.runs)
        after = soak.figures()
        left = soak.close()
    wrong = grown(before, after, asked.runs)
    rows = [[name, first, last, "GREW" if name in wrong else ""]
            for (name, first), last in zip(asdict(before).items(), asdict(after).values(), strict=True)]  # fmt: skip
    print(tabulate(sorted(soak.ended.items()), headers=["way: end", "times"]))
    print()
    print(tabulate(rows, headers=["", "after 26 runs", f"after {asked.runs} more", ""]))
    print(f"\n{left} temporary files when the worker has ended")
    return int(bool(wrong or left))


if __name__ == "__main__":
    sys.exit(main())
