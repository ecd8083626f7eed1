"""How long the first click takes: an engine that nobody has started yet, a volume, a model, and its first preview.

    python benchmarks/first_click.py [--device auto] [--preset balanced] [--repeats 5] [--early S] [--cold]

Starts ``python -m tonno_core.worker`` as the Slicer module does, asks it for its devices and for a reconstruction with
previews of a head like the demo's by the demo's model, and prints when each event came, from the start of the process:
median and range over the repeats, each a new process. One more run with ``python -X importtime`` gives the imports'
shares. With ``--early S`` the engine is started S seconds before the click, as the module does once a volume is chosen;
the times then count from the click. With ``--cold`` Triton compiles its kernels anew each time. The operating system's
cache of files is warm from the second run on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp

import click
import numpy as np
from tabulate import tabulate

from tonno_core.demo.phantom import make_phantom
from tonno_core.protocol import decode, encode

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tonno_core/models/brain-lesions"
# What is shown of the imports: these packages, whoever imports them first.
PACKAGES = (
    "torch", "torch._dynamo", "sympy", "triton", "torchvision", "timm", "huggingface_hub", "httpx", "scipy",
    "SimpleITK", "numpy", "tonno_core",
)  # fmt: skip
# Events, and the first progress of each step, in words.
EVENTS = {
    "ready": "process is ready",
    "description": "devices are described",
    "loading": "request is taken",
    "reconstructing": "imported, volume read, model ready",
    "planes": "volume prepared, first batch done",
    "preview": "first preview",
    "result": "result",
}


class Run:
    """One engine, from its start to its result."""

    def __init__(self, folder: Path, options: list[str], early: float, *, cold: bool, build: Path = ROOT) -> None:
        """Start it.

        Args:
            folder: Of its temporary files; its log goes there too.
            options: Of Python.
            early: Seconds before the click.
            cold: Keep nothing that Triton has compiled.
            build: Folder that holds the package.
        """
        self._log = (folder / "log.txt").open("w+b")
        command = [sys.executable, *options, "-m", "tonno_core.worker", "--parent", str(os.getpid())]
        if early:
            command.append("--ahead")
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command, cwd=build, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env={**os.environ, "PYTHONPATH": str(build), **({"TRITON_CACHE_DIR": mkdtemp(dir=folder)} if cold else {})},
        )  # fmt: skip
        time.sleep(early)
        self._started = time.perf_counter() if early else started

    def events(self, fields: dict[str, object], *, whole: bool) -> dict[str, tuple[float, float]]:
        """Send the requests and wait for the result.

        Args:
            fields: Of the ``reconstruct``.
            whole: Do not stop it after its first preview.

        Returns:
            By what happened, seconds from the start, or the click, and processor seconds of the engine until then.
        """
        self._send(encode("describe", 1) + encode("reconstruct", 2, **fields))
        times: dict[str, tuple[float, float]] = {}
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = decode(line)
            name = event["type"]
            if name == "error":
                raise SystemExit(str(event))
            if name == "progress":
                name = "planes" if event["step"] == "reconstructing" and event["done"] else event["step"]
            if name in EVENTS:
                times.setdefault(EVENTS[name], (time.perf_counter() - self._started, self._computed()))
            if name == "preview" and not whole:
                self._send(encode("stop", 3, target=2))
            if name == "result":
                break
        self._send(encode("shutdown", None))
        self._process.wait()
        return times

    def _send(self, requests: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(requests)
        self._process.stdin.flush()

    def _computed(self) -> float:
        """Return the seconds of processor time so far; nan where the system does not tell."""
        try:
            counted = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            return float("nan")
        return sum(int(ticks) for ticks in counted) / os.sysconf("SC_CLK_TCK")

    def log(self) -> list[str]:
        """Return what the engine wrote to stderr.

        Returns:
            Its lines.
        """
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        self._log.close()
        return lines


def shares(lines: list[str]) -> list[tuple[str, float]]:
    """Sum the time of ``-X importtime`` by package.

    Args:
        lines: Of its log.

    Returns:
        Packages and seconds, without what they import of others in the list.
    """
    seconds: dict[str, float] = defaultdict(float)
    for line in lines:
        if line.startswith("import time:") and line.count("|") == 2:
            own, _, name = line.removeprefix("import time:").split("|")
            name = name.strip()
            if own.strip().isdigit():
                of = [package for package in PACKAGES if name == package or name.startswith(f"{package}.")]
                seconds[max(of, key=len) if of else "others"] += float(own) * 1e-6
    return sorted(seconds.items(), key=lambda item: -item[1])


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--preset", default="balanced", show_default=True)
@click.option("--method", default="matched-cam", show_default=True, help="The heatmap; the panel's first choice.")
@click.option("--model", default=MODEL, show_default="the demo's", type=click.Path(path_type=Path, exists=True))
@click.option("--repeats", default=5, show_default=True)
@click.option("--early", default=0.0, show_default=True, help="Seconds between the engine's start and the click.")
@click.option("--cold", is_flag=True, help="Let Triton compile its kernels anew each time.")
@click.option(
    "--whole", is_flag=True, help="Wait for the whole result; else the run is stopped after its first preview."
)
@click.option("--voxels", default=2.0, show_default=True, help="Side of the head's voxels, in mm.")
def main(
    device: str,
    preset: str,
    method: str,
    model: Path,
    repeats: int,
    early: float,
    voxels: float,
    cold: bool,
    whole: bool,
) -> None:
    """Print the tables."""
    volume = make_phantom(seed=1, lesions=3, spacing_mm=voxels).image
    table: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "volume.npy", volume.array)
        fields: dict[str, object] = {
            "volume": {"array": str(folder / "volume.npy"), "ijk_to_ras": volume.ijk_to_ras.tolist()},
            "model": str(model), "options": {"methods": [method]}, "preset": preset, "device": device,
            "preview": True, "folder": str(folder),
        }  # fmt: skip
        for _ in range(repeats):
            run = Run(folder, [], early, cold=cold)
            for what, seconds in run.events(fields, whole=whole).items():
                table[what].append(seconds)
            run.log()
        run = Run(folder, ["-X", "importtime"], 0.0, cold=cold)
        run.events(fields, whole=False)
        imports = shares(run.log())
    since = "click" if early else "start"
    shape = " x ".join(str(count) for count in volume.array.shape)
    print(f"{shape} voxels, {preset}, {method}, device {device}, {os.cpu_count()} cores, seconds from the {since}")
    rows = []
    for what, pairs in table.items():
        seconds, computed = zip(*pairs, strict=True)
        rows.append([what, median(seconds), f"{min(seconds):.2f} to {max(seconds):.2f}", median(computed)])
    headers = ["until", "median", "range", "processor"]
    print(tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="github"))
    every = sum(seconds for _, seconds in imports)
    rows = [[package, seconds, f"{100 * seconds / every:.0f} %"] for package, seconds in imports]
    print(f"\nImports, each timed, which slows them: {every:.2f} s")
    print(tabulate(rows, headers=["package", "s", "share"], floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    main()
