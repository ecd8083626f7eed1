"""All figures of docs/benchmarks.md that need a GPU, in one table, in at most six minutes: `make gpu-report`.

    python benchmarks/gpu_report.py [--device cuda] [--base COMMIT] [--output gpu-report] [--small]

Every part runs in a process of its own, first by an earlier build (the repository's own, at COMMIT), then by this one.
All numbers of a row are from these two. ``--small`` makes it small enough for a CPU, to try it out.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The build of before the work on the GPU's limit.
BASE = "2c5b006"
MINUTES = 6.0
# Voxels Z Y X of a brain at 1 mm, and of the largest CT.
BRAIN, BODY = (182, 218, 182), (600, 512, 512)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        brain: Voxels of the volume that is reconstructed, Z Y X.
        body: Voxels of the volume whose memory is measured.
        directions: L of the paper's preset.
        cam_directions: L of Matched CAM.
        plain_directions: L of the plain reference, which every direction costs the same.
        slice_size: Pixels along the side of a slice.
        steps: Training steps of each of two epochs.
        volumes: Heads that are calibrated and evaluated.
        planes: Of calibration and evaluation, M and L.
        stages: From which both choose.
        repeats: Of a whole reconstruction.
    """

    brain: tuple[int, int, int] = BRAIN
    body: tuple[int, int, int] = BODY
    directions: int = 2000
    cam_directions: int = 1000
    plain_directions: int = 200
    slice_size: int = 224
    steps: int = 150
    volumes: int = 4
    planes: tuple[int, int] = (32, 64)
    stages: tuple[int, ...] = (3, 4)
    repeats: int = 3


SMALL = Scale((60, 72, 60), (100, 90, 90), 24, 24, 8, 64, 8, 3, (12, 12), (4,), 2)


# --- what a process measures, in this build or the earlier one


def head(shape: tuple[int, int, int]) -> Any:
    """Make an ellipsoid with noise in air.

    Args:
        shape: Z Y X.

    Returns:
        A `Volume` with voxels of 1 mm.
    """
    import numpy as np

    from tonno_core.volume.volume import Volume

    axes = [np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in shape]
    square = sum((axis / 0.85) ** 2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True))
    rng = np.random.default_rng(0)
    array = np.where(square < 1.0, 100.0, 0.0).astype(np.float32)
    array += 10.0 * rng.standard_normal(shape, dtype=np.float32) * (array > 0)
    return Volume(array, np.diag([1.0, 1.0, 1.0, 1.0]))


def paper(scale: Scale, device: str, *, earlier: bool) -> dict[str, float]:
    """Measure the paper's preset: whole, by stage, against the plain reference, and the bare encoder in all its ways.

    Args:
        scale: How much.
        device: Where.
        earlier: Measure the whole alone.

    Returns:
        Seconds and slices per second.
    """
    from dataclasses import replace

    import torch

    from tonno_core.benchmark.comparison import plain_heatmap
    from tonno_core.benchmark.measure import bare_encoders, run_whole, timed
    from tonno_core.bundle.ready import prepare_model
    from tonno_core.commands.bench import _random_bundle
    from tonno_core.reconstruction.passes import CPU_BATCH, GPU_BATCH

    bundle = _random_bundle("resnet10t", scale.slice_size)
    asked = {"directions": scale.directions, "slice_size": scale.slice_size, "methods": ("tonno",)}
    settings = bundle.spec.choices.settings(asked, "paper")
    volume = head(scale.brain)
    found: dict[str, float] = {}
    for compiled in (False,) if earlier else (False, True):
        try:
            ready = prepare_model(bundle, settings, device, "auto", compiled=compiled)
        except Exception as error:  # no compiler
            print(f"not compiled: {error}", file=sys.stderr)
            continue
        name = "compiled" if compiled else "whole"
        found[f"{name}, first run"], _ = timed(lambda ready=ready: run_whole(volume, ready, settings))
        runs = [run_whole(volume, ready, settings) for _ in range(scale.repeats)]
        best = min(runs, key=lambda run: run.seconds["total"])
        found[name] = best.seconds["total"]
        found[f"{name}, slices/s"] = best.rate
        if not compiled:
            found |= {f"stage {stage}": seconds for stage, seconds in best.stages().items()}
    if earlier:
        return found
    few = replace(settings, directions=scale.plain_directions)
    seconds, _ = timed(plain_heatmap(volume, bundle, few, ready.device))
    found["plain reference"] = seconds * scale.directions / scale.plain_directions
    batch = max(4, round((GPU_BATCH if ready.device.type == "cuda" else CPU_BATCH) * (96 / scale.slice_size) ** 2))
    for name, rate in bare_encoders(bundle, scale.slice_size, ready.device, batch).items():
        found[f"bare {name}"] = rate()
    if torch.cuda.is_available():
        found["peak MB"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def matched(scale: Scale, device: str, *, earlier: bool) -> dict[str, float]:
    """Measure Matched CAM by the paper's preset.

    Args:
        scale: How much.
        device: Where.
        earlier: Of no effect.

    Returns:
        Seconds.
    """
    from tonno_core.benchmark.measure import run_whole
    from tonno_core.bundle.ready import prepare_model
    from tonno_core.commands.bench import _random_bundle

    bundle = _random_bundle("resnet10t", scale.slice_size)
    count, size = scale.cam_directions, scale.slice_size
    asked = {"directions": count, "cam_directions": count, "slice_size": size, "methods": ("matched-cam",), "stage": 3}
    settings = bundle.spec.choices.settings(asked, "paper")
    ready, volume = prepare_model(bundle, settings, device, "auto"), head(scale.brain)
    return {"seconds": min(run_whole(volume, ready, settings).seconds["total"] for _ in range(scale.repeats))}


def first_click(scale: Scale, device: str, *, earlier: bool) -> dict[str, float]:
    """Measure a fresh engine's way to its first preview, after one that fills Triton's cache.

    Args:
        scale: Of no effect.
        device: Where.
        earlier: Of no effect.

    Returns:
        Seconds from the process's start, by event.
    """
    import numpy as np

    import tonno_core
    from tonno_core.demo.phantom import make_phantom

    build = Path(tonno_core.__file__).parents[1]
    sys.path.insert(0, str(ROOT))
    from benchmarks.first_click import MODEL, Run

    volume = make_phantom(seed=1, lesions=3).image
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "volume.npy", volume.array)
        fields: dict[str, object] = {
            "volume": {"array": str(folder / "volume.npy"), "ijk_to_ras": volume.ijk_to_ras.tolist()},
            "model": str(MODEL), "options": {"methods": ["matched-cam"]}, "preset": "balanced", "device": device,
            "preview": True, "folder": str(folder),
        }  # fmt: skip
        for _ in range(2):
            times = Run(folder, [], 0.0, cold=False, build=build).events(fields, whole=False)
    return {what: seconds for what, (seconds, _) in times.items()}


def memory(scale: Scale, device: str, *, earlier: bool) -> dict[str, float]:
    """Measure the peak memory of the paper's preset of a large CT; directions cost none.

    Args:
        scale: How much.
        device: Where.
        earlier: Of no effect.

    Returns:
        MB of tensors on a GPU, or of the process.
    """
    from tonno_core.benchmark.machine import peak_mb, reset_peak
    from tonno_core.benchmark.measure import run_whole
    from tonno_core.bundle.ready import prepare_model
    from tonno_core.commands.bench import _random_bundle

    bundle = _random_bundle("resnet10t", scale.slice_size)
    asked = {"directions": 24, "slice_size": scale.slice_size, "methods": ("tonno",)}
    settings = bundle.spec.choices.settings(asked, "paper")
    ready, volume = prepare_model(bundle, settings, device, "auto"), head(scale.body)
    reset_peak(ready.device)
    run_whole(volume, ready, settings)
    peak = peak_mb(ready.device)
    return {} if peak is None else {"MB": peak}


def training(scale: Scale, device: str, *, earlier: bool) -> dict[str, float]:
    """Measure `tonno train` by its second epoch, and the loop beside bare steps on slices that are ready.

    Args:
        scale: How much.
        device: Where.
        earlier: Measure `tonno train` alone.

    Returns:
        Slices per second.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        manifest = _phantoms(place, scale)
        _tonno(
            "train", str(manifest), "--output", str(place / "model"), "--encoder", "tf_efficientnet_lite0", "--epochs",
            "2", "--steps", str(2 * scale.steps), "--no-calibrate", "--device", device,
        )  # fmt: skip
        with (place / "model-run" / "metrics.csv").open(newline="", encoding="utf-8") as file:
            found["tonno train"] = float(list(csv.DictReader(file))[-1]["slices_per_second"])
    if earlier:
        return found
    from benchmarks.training import measure
    from tonno_core.training.settings import complete_settings

    for name, more in {
        "": {},
        ", 64 slices a step": {"volumes_per_batch": 8},
        ", compiled": {"compiled": True},
    }.items():
        settings = complete_settings(encoder="tf_efficientnet_lite0", device=device, ema=0.995, **more)
        try:
            figures = measure(settings, steps=max(4, scale.steps // 3), repeats=1)
        except Exception as error:  # no compiler
            print(f"training{name}: {error}", file=sys.stderr)
            continue
        found |= {f"loop{name}": figures.loop, f"bare{name}": figures.bare}
    return found


def calibration(scale: Scale, device: str, *, earlier: bool) -> dict[str, float]:
    """Measure a calibration and `tonno evaluate` on heads like the demo's, by the demo's model.

    The presets' thresholds, which a calibration adds, are of planes that take longer by themselves; they are left out.

    Args:
        scale: How much.
        device: Where.
        earlier: Of no effect.

    Returns:
        Seconds a volume, after two volumes that warm up.
    """
    from tonno_core.bundle.file import load_bundle
    from tonno_core.commands.demo import MODEL
    from tonno_core.settings import METHODS
    from tonno_core.training.calibration import Search, calibrate
    from tonno_core.training.look import Look

    slices, directions = scale.planes
    bundle = load_bundle(MODEL)
    asked = {"methods": METHODS, "slices": slices, "directions": directions}
    settings, search = bundle.spec.choices.settings(asked), Search(stages=scale.stages)
    with tempfile.TemporaryDirectory() as folder:
        manifest = _phantoms(Path(folder), scale)
        lines = manifest.read_text(encoding="utf-8").splitlines()
        seconds: dict[str, list[float]] = {"calibration": [], "evaluation": []}
        for count in (2, scale.volumes):
            few = manifest.with_name(f"few-{count}.csv")
            few.write_text("\n".join(lines[: 1 + count]) + "\n", encoding="utf-8")
            cases = [
                (manifest.parent / line.split(",")[0], number % 2) for number, line in enumerate(lines[1 : 1 + count])
            ]
            start = time.perf_counter()
            calibrate(bundle, cases, settings, search, Look(device, progress=False))
            seconds["calibration"].append(time.perf_counter() - start)
            words = ["evaluate", str(few), "--model", str(MODEL), "--split", "all", "--device", device]
            words += ["--output", str(manifest.with_name(f"evaluation-{count}"))]
            words += ["--slices", str(slices), "--directions", str(directions)]
            seconds["evaluation"].append(_tonno(*words, *(f"--stage={stage}" for stage in scale.stages)))
    return {kind: some[-1] / scale.volumes for kind, some in seconds.items()}


def _phantoms(place: Path, scale: Scale) -> Path:
    """Write heads with and without lesions, all in split ``val`` but two of each, and return their manifest."""
    _tonno("phantoms", str(place / "heads"), "--count", str(scale.volumes + 4))
    manifest = place / "heads" / "manifest.csv"
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["split"] = "val" if number < scale.volumes else "train"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def _tonno(*words: str) -> float:
    """Run the command line in this process; return its seconds."""
    from tonno_core.cli import main

    start = time.perf_counter()
    try:
        main(list(words))
    except SystemExit as end:
        if end.code:
            raise
    return time.perf_counter() - start


PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "paper": paper,
    "matched": matched,
    "training": training,
    "calibration": calibration,
    "first click": first_click,
    "memory": memory,
}


# --- the table


def ratio(a: float | None, b: float | None) -> str:
    """Format a ratio.

    Args:
        a: A number, None where it was not measured.
        b: Another.

    Returns:
        Text, "-" where one is missing.
    """
    return "-" if a is None or not b else f"{a / b:.2f}"


def lines_of(now: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> list[list[str]]:
    """Put what was measured into lines of a table.

    Args:
        now: By part and name, of this build.
        before: Of the earlier one.

    Returns:
        What, the earlier build's, this build's, the ratio or rate, and the bar.
    """
    run, old = now.get("paper", {}), before.get("paper", {})
    bare = {name.removeprefix("bare "): value for name, value in run.items() if name.startswith("bare ")}
    best = max(bare, key=lambda name: bare[name], default="")
    eager = max((value for name, value in bare.items() if "compiled" not in name), default=None)

    def line(what: str, unit: str, a: float | None, b: float | None, share: str, bar: str) -> list[str]:
        return [
            what,
            *(
                "-" if value is None else f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
                for value in (a, b)
            ),
            share,
            bar,
        ]

    lines = [
        line("preset paper, ToNNO, whole", "s", old.get("whole"), run.get("whole"),
             ratio(old.get("whole"), run.get("whole")), "<= 3.0 s"),
        line("the same, compiled", "s", None, run.get("compiled"),
             ratio(old.get("whole"), run.get("compiled")), "<= 1.9 s"),
        line("whole / best bare encoder that is not compiled", "slices/s", old.get("whole, slices/s"),
             run.get("whole, slices/s"), ratio(run.get("whole, slices/s"), eager), ">= 0.85"),
        line(f"compiled whole / best bare encoder ({best})", "slices/s", None, run.get("compiled, slices/s"),
             ratio(run.get("compiled, slices/s"), bare.get(best)), ">= 0.85"),
        line("plain reference / whole", "s", run.get("plain reference"), run.get("whole"),
             ratio(run.get("plain reference"), run.get("whole")), ">= 6"),
        line("first run of a process", "s", old.get("whole, first run"), run.get("whole, first run"),
             ratio(old.get("whole, first run"), run.get("whole, first run")), ""),
    ]  # fmt: skip
    lines += [line(f"of it: {name.removeprefix('stage ')}", "s", old.get(name), seconds, "", "")
              for name, seconds in run.items() if name.startswith("stage ")]  # fmt: skip
    lines += [line(f"bare encoder, {name}", "slices/s", None, rate, "", "") for name, rate in bare.items()]
    cam, cam_before = now.get("matched", {}).get("seconds"), before.get("matched", {}).get("seconds")
    lines.append(line("Matched CAM", "s", cam_before, cam, ratio(cam_before, cam), ">= 2.5"))
    step, rate_before = now.get("training", {}), before.get("training", {}).get("tonno train")
    rate = step.get("tonno train")
    lines.append(line("tonno train", "slices/s", rate_before, rate, ratio(rate, rate_before), ">= 10"))
    for name in [name for name in step if name.startswith("loop")]:
        alone = step[name.replace("loop", "bare")]
        what = f"training loop / bare steps on slices that are ready{name.removeprefix('loop')}"
        lines.append(line(what, "slices/s", alone, step[name], ratio(step[name], alone), ">= 0.6"))
    for kind in ("calibration", "evaluation"):
        a, b = before.get("calibration", {}).get(kind), now.get("calibration", {}).get(kind)
        lines.append(line(f"{kind}, a volume", "s", a, b, ratio(a, b), ">= 8"))
    peak, peak_before = now.get("memory", {}).get("MB"), before.get("memory", {}).get("MB")
    for name, seconds in now.get("first click", {}).items():
        earlier = before.get("first click", {}).get(name)
        lines.append(line(f"first click, until: {name}", "s", earlier, seconds, ratio(earlier, seconds),
                          "<= 3 s" if name == "first preview" else ""))  # fmt: skip
    lines.append(line("memory, 512 x 512 x 600", "MB", peak_before, peak, ratio(peak_before, peak), "<= 4 GB"))
    return lines


def export(commit: str, folder: Path) -> Path | None:
    """Put an earlier build of the repository into a folder.

    Args:
        commit: Its name for git.
        folder: Where.

    Returns:
        The folder; None where there is no git, or no such commit.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit, "tonno_core"], stdout=subprocess.PIPE, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def measure(part: str, build: Path, options: argparse.Namespace, left: float, *, earlier: bool) -> dict[str, float]:
    """Measure a part by a build in a process of its own.

    Args:
        part: Name from `PARTS`.
        build: Folder that holds the package.
        options: Of the command line.
        left: Seconds until it is given up.
        earlier: Whether it is the earlier build.

    Returns:
        Numbers by name; empty where it failed, whose reason is printed.
    """
    words = [sys.executable, __file__, "--part", part, "--device", options.device]
    words += ["--small"] * options.small + ["--earlier"] * earlier
    environment = {**os.environ, "PYTHONPATH": str(build)}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8", timeout=left)
    except subprocess.TimeoutExpired:
        print(f"{part}: given up, the time is over", file=sys.stderr)
        return {}
    if done.returncode:
        print(f"{part} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return {}
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(options: argparse.Namespace) -> str:
    """Measure all parts.

    Args:
        options: Of the command line.

    Returns:
        A table in Markdown, with the device's name.
    """
    import torch
    from tabulate import tabulate

    from tonno_core.benchmark.machine import describe

    end = time.monotonic() + options.minutes * 60
    now: dict[str, dict[str, float]] = {}
    before: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = export(options.base, Path(folder))
        for part in options.parts:
            for results, build in ((before, base), (now, ROOT)):
                left = end - time.monotonic()
                if build is not None and left > 5:
                    start = time.monotonic()
                    results[part] = measure(part, build, options, left, earlier=results is before)
                    name = "earlier" if results is before else "this"
                    print(f"{part}, {name} build: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    table = tabulate(
        lines_of(now, before), ["what", f"build {options.base}", "this build", "ratio", "bar"], "github",
        disable_numparse=True,
    )  # fmt: skip
    machine = describe(torch.device(options.device))
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    text = f"{machine['device']}, {machine['cores']} cores; {versions}\n\n{table}\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.md").write_text(text, encoding="utf-8")
    (options.output / "report.json").write_text(
        json.dumps({"machine": machine, "now": now, "before": before}, indent=2) + "\n", encoding="utf-8"
    )
    return text


def main() -> None:
    """Print the table, or measure a single part in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--base", default=BASE, help="commit of the earlier build")
    parser.add_argument("--output", type=Path, default=Path("gpu-report"))
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--earlier", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(
            json.dumps(
                PARTS[options.part](SMALL if options.small else Scale(), options.device, earlier=options.earlier)
            )
        )
        return
    print(report(options))


if __name__ == "__main__":
    main()
