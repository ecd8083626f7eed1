"""How a calibration looks at volumes: where it computes, how far it is, and what it has measured before.

What was measured of a volume is a file of its own, with all that it depends on: so a calibration that was interrupted
goes on where it stopped, and ends with the same result.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import tonno_core
from tonno_core.bundle.decide import Run
from tonno_core.bundle.ready import ReadyModel
from tonno_core.cohort.ahead import read_ahead
from tonno_core.cohort.cases import fingerprint
from tonno_core.cohort.source import source_of
from tonno_core.output import Json, write_text
from tonno_core.progress import progress_bar, say_once
from tonno_core.reconstruction.foreground import Foreground
from tonno_core.reconstruction.run import ReadyScan, get_ready
from tonno_core.records import read_record
from tonno_core.reporting import Reporter
from tonno_core.settings import CAM_METHODS, SLICEWISE_METHODS, ReconstructionSettings
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume

# A file, and its label 0 or 1 of a class.
Case = tuple[Path, int]
# Volumes, slices, heatmaps and passes through the network, of which each kind has a cost of its own.
Amounts = npt.NDArray[np.float64]
NOTHING: Amounts = np.zeros(4)
# What may be held of volumes in all.
HELD_BYTES = 1 << 30
_READ, _SLICES, _HEATMAPS, _PASSES = range(4)
# Of the time that passes took, at least this share is their slices': a few passes say little.
_LEAST_SHARE = 0.2
# Of a model's description, what no heatmap of its calibration depends on.
_BESIDE = ("defaults", "thresholds", "training", "about", "calibration", "schema", "stages")


def amounts(settings: ReconstructionSettings, methods: Sequence[str], heatmaps: int) -> Amounts:
    """Estimate what looking at one volume takes.

    Args:
        settings: Whose planes are looked at.
        methods: Of the heatmaps.
        heatmaps: How many are made.

    Returns:
        Volumes, slices, heatmaps, passes.
    """
    tomographic = {settings.directions_for(name) for name in methods if name == "tonno" or name in CAM_METHODS}
    slicewise = sum(name in SLICEWISE_METHODS for name in set(methods))
    axes = 3 + 3 * (slicewise > 0)
    return np.array([1.0, settings.slices * (axes + sum(tomographic)), heatmaps, len(tomographic) + slicewise])


class Pace:
    """Shows one bar for a whole calibration, and tells after the first volume how long it will take.

    Until then half of that volume's time is taken to be its slices', and half its heatmaps'. Afterwards each kind costs
    what it did on average in the volumes after the first, which warms everything up. A pass through the network costs
    something whatever its slices, which with few planes is most of it.

    Args:
        classes: How many are calibrated, each of which `expect` is called for.
        presets: What is done besides for the planes of presets, from `amounts`.
        show: Show the bar, and tell.
    """

    def __init__(self, classes: int = 1, presets: Amounts | None = None, *, show: bool = False) -> None:
        self._classes, self._begun = classes, 0
        self._presets = NOTHING if presets is None else presets
        self._choices, self._done, self._measured, self._seconds = (NOTHING.copy() for _ in range(4))
        self._passes: list[tuple[float, float]] = []  # slices and seconds
        self._each: Amounts | None = None
        self._before = NOTHING  # what was done at the volume's begin
        self._of_first = NOTHING  # what each kind cost in the first volume
        self._last = time.perf_counter()
        self._show, self._percent = show, 0.0
        text = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self._bar = progress_bar(total=100.0, desc="calibrating", bar_format=text, disable=not show)

    def __enter__(self) -> Pace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._move_to(100.0)
        self._bar.close()

    def expect(self, choice: Amounts) -> None:
        """Take in what the choice for one more class takes; the classes that follow are expected to take as much.

        Args:
            choice: From `amounts`.
        """
        self._begun += 1
        self._choices = self._choices + choice

    @property
    def left(self) -> float:
        """Seconds that are left, as the volumes so far took; not a number before the first was measured."""
        return math.nan if self._each is None else max(0.0, float((self._expected - self._done) @ self._each))

    @property
    def _expected(self) -> Amounts:
        return self._choices * (self._classes / max(1, self._begun)) + self._presets

    def passed(self, volume: Amounts) -> None:
        """Count a volume that was measured before.

        Args:
            volume: What it took.
        """
        self._done = self._done + volume
        self._move()

    def begin(self) -> None:
        """Start the clock for a volume."""
        self._before, self._last = self._done.copy(), time.perf_counter()

    def advance(self, kind: int, amount: float, volume: Amounts) -> None:
        """Count a part of a volume, and the time since the part before.

        Args:
            kind: Index into `Amounts`.
            amount: How much of it.
            volume: What all of the volume takes.
        """
        now = time.perf_counter()
        self._seconds[kind] += now - self._last
        if kind == _SLICES and amount > 0:
            self._passes.append((amount, now - self._last))
        self._last = now
        self._measured[kind] += amount
        self._done[kind] += amount
        self._move(volume)

    def end(self, volume: Amounts) -> None:
        """Take the costs of a volume that is done; after the first, tell how long the whole will take.

        Args:
            volume: What it was expected to take; what was held of it is not left.
        """
        first = self._each is None
        self._measured[_PASSES] += volume[_PASSES]
        self._done = self._before + volume
        each = np.where(self._measured > 0, self._costs(), self._of_first)
        self._each = each
        if first:
            self._of_first = each
            self._measured, self._seconds = NOTHING.copy(), NOTHING.copy()
            self._passes.clear()
        self._move()
        if first and self._show:
            tqdm.write(f"calibrating: {duration(self.left)} left, as the first volume took", file=sys.stderr)

    def _costs(self) -> Amounts:
        """Return what each kind cost on average; what a pass costs beside its slices by a line through all passes."""
        measured = np.maximum(self._measured, 1e-9)
        costs: Amounts = self._seconds / measured
        slices, seconds = np.array(self._passes or [(0.0, 0.0)]).T
        if slices.max() > 1.5 * slices.min():  # passes of like size do not tell
            apart = slices - slices.mean()
            slope = float(apart @ seconds) / float(apart @ apart)
            each = float(np.clip(slope, _LEAST_SHARE * costs[_SLICES], costs[_SLICES]))
            costs[_PASSES] = (costs[_SLICES] - each) * measured[_SLICES] / measured[_PASSES]
            costs[_SLICES] = each
        return costs

    def _move(self, volume: Amounts | None = None) -> None:
        """Move the bar, never back."""
        each = self._each
        if each is None:
            if volume is None:
                return
            each = np.array([0.0, 0.5, 0.5, 0.0]) / np.maximum(volume, 1e-9)
        else:
            self._bar.set_postfix_str(f"{duration(self.left)} left", refresh=False)
        self._move_to(min(100.0 * float(self._done @ each) / max(float(self._expected @ each), 1e-9), 99.0))

    def _move_to(self, percent: float) -> None:
        step = max(0.0, percent - self._percent)
        self._percent += step
        self._bar.update(step)


def duration(seconds: float) -> str:
    """Say how long something takes.

    Args:
        seconds: The time.

    Returns:
        As "about 2 h 5 min"; seconds below two minutes.
    """
    if seconds < 120.0:
        return f"about {seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60.0), 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"


@dataclass(frozen=True)
class Watched:
    """A volume that is looked at: tells `Pace` how far it is.

    Attributes:
        pace: Is told.
        volume: What all of it takes.
    """

    pace: Pace = field(default_factory=Pace)
    volume: Amounts = field(default_factory=lambda: np.ones(4))

    def read(self) -> None:
        """Tell that the volume was read."""
        self.pace.advance(_READ, self.volume[_READ], self.volume)

    def reporter(self, slices: float) -> Reporter:
        """Return a reporter for a reconstruction of the volume.

        Args:
            slices: How many of the volume's it is expected to take.

        Returns:
            To be passed to `execute`.
        """
        before = 0.0

        def advanced(done: int, total: int) -> None:
            nonlocal before
            now = slices * done / max(1, total)
            self.pace.advance(_SLICES, now - before, self.volume)
            before = now

        return Reporter(progress=advanced, say=say_once)

    def heatmaps(self, count: int = 1) -> None:
        """Tell that more heatmaps were made, or with 0 that they are done at last.

        Args:
            count: How many.
        """
        self.pace.advance(_HEATMAPS, count, self.volume)


class Held:
    """Holds what was projected of volumes, so that it need not be projected again, as far as memory allows."""

    def __init__(self) -> None:
        self._held: dict[str, Foreground] = {}

    def keep(self, path: Path, model: ReadyModel, run: Run, foreground: Foreground) -> None:
        """Keep a volume, where there is room for it.

        Args:
            path: Its file.
            model: That looked at it.
            run: With the planes and the class.
            foreground: Of its heatmaps.
        """
        if foreground.nbytes + sum(each.nbytes for each in list(self._held.values())) <= HELD_BYTES:
            self._held[_key(path, model, run)] = foreground

    def take(self, path: Path, model: ReadyModel, run: Run) -> Foreground | None:
        """Return what is held of a volume, and hold it no more.

        Args:
            path: Its file.
            model: That looked at it.
            run: With the planes and the class.

        Returns:
            None where nothing is.
        """
        return self._held.pop(_key(path, model, run), None)


def _key(path: Path, model: ReadyModel, run: Run) -> str:
    return json.dumps([str(path), facts_of(model), run.asked.record(), run.targets[0].name])


@dataclass(frozen=True)
class Job:
    """A volume that is to be measured.

    Attributes:
        path: Its file.
        facts: All that the result depends on beside the volume, from `facts_of`.
        takes: What it takes.
        read: Reads it, in another thread.
        measure: Called with what was read; returns what JSON can hold.
    """

    path: Path
    facts: Json
    takes: Amounts
    read: Callable[[], Any]
    measure: Callable[[Any, Watched], Any]


@dataclass(frozen=True)
class Look:
    """How volumes are looked at.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        progress: Show a bar.
        kept: Folder for what was measured; None to keep nothing.
        pace: Is told how far the calibration is.
        held: What was projected and will be asked about again.
    """

    device: str = "auto"
    precision: str = "auto"
    progress: bool = True
    kept: Path | None = None
    pace: Pace = field(default_factory=Pace)
    held: Held = field(default_factory=Held)

    def volumes(self, cases: Sequence[Case], description: str, intensity: str) -> Iterator[tuple[Volume, int]]:
        """Read volumes one after the other.

        Args:
            cases: Files with labels.
            description: Of the bar.
            intensity: Of the model, by which they have its channels.

        Yields:
            Each volume with its label.
        """
        reading = read_ahead(cases, lambda case: read_volume(case[0], intensity=intensity))
        bar = progress_bar(reading, total=len(cases), desc=description, unit="volume", disable=not self.progress)
        for (_, label), get in bar:
            yield get(), label

    def read(self, path: Path, run: Run) -> ReadyScan:
        """Read a volume, and find what is found before any plane is looked at.

        Args:
            path: Its file.
            run: Which it is made ready for.

        Returns:
            The scan.
        """
        return get_ready(read_volume(path, intensity=run.intensity), run)

    def measure(self, jobs: Sequence[Job]) -> Iterator[Any]:
        """Measure volumes, or read what was measured of them before; the next one is read meanwhile.

        Args:
            jobs: The volumes.

        Yields:
            What each job's ``measure`` returned, as JSON holds it.
        """
        before = [self._known(job) for job in jobs]
        waiting = [job for job, (_, known) in zip(jobs, before, strict=True) if known is None]
        reading = read_ahead(waiting, lambda job: job.read())
        for job, (place, known) in zip(jobs, before, strict=True):
            if known is not None:
                self.pace.passed(job.takes)
                yield known
                continue
            self.pace.begin()
            watched = Watched(self.pace, job.takes)
            _, get = next(reading)
            scan = get()
            watched.read()
            measured = json.loads(json.dumps(job.measure(scan, watched)))
            del scan, get
            if place is not None:
                place.parent.mkdir(exist_ok=True)
                kept = {"facts": self._facts(job), "measured": measured, "sha256": fingerprint(measured)}
                write_text(place, json.dumps(kept))
            self.pace.end(job.takes)
            yield measured

    def _facts(self, job: Job) -> Json:
        return {"volume": source_of(job.path), **job.facts}

    def _known(self, job: Job) -> tuple[Path | None, Any | None]:
        """Return where a job's result is kept, and the result if it is there."""
        if self.kept is None:
            return None, None
        text = json.dumps(self._facts(job), sort_keys=True)
        place = self.kept / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        return place, _read(place, json.loads(text))


def facts_of(model: ReadyModel, *runs: Run) -> Json:
    """Describe all that heatmaps depend on beside the volume.

    Args:
        model: On its device.
        runs: What is made.

    Returns:
        As JSON holds it.
    """
    spec = {} if model.spec is None else {k: v for k, v in vars(model.spec).items() if k not in _BESIDE}
    return {
        "tonno": tonno_core.__version__,
        "model": spec,
        "device": model.device.type,
        "precision": str(model.precision),
        "runs": [
            {
                "settings": run.asked.record(),
                "variants": {name: variant.record() for name, variant in run.targets[0].variants.items()},
            }
            for run in runs
        ],
    }


def _read(place: Path, facts: Json) -> Any | None:
    """Read what was measured; None where there is nothing, it is of something else, or it is not what was written."""
    try:
        kept = read_record(place)
    except (OSError, ValueError):
        return None
    measured = kept.get("measured")
    return measured if kept.get("facts") == facts and kept.get("sha256") == fingerprint(measured) else None
