"""The folder of a training run: its settings, its progress, its curves, and its prepared volumes.

run.json         settings and cases, with which a run that is resumed must agree
measured.json    the size of the training volumes' foreground
scans.json       hashes of the scans, by which one that was replaced under a checkpoint is noticed
checkpoint.pt    weights, optimizer and position; `tonno bundle --weights` reads it too
metrics.csv, curves.png, split.csv (the manifest with its split)
cache/           prepared volumes; removed when the run is complete
heatmaps/        of training volumes after the first of two rounds; likewise
calibration/     what the calibration measured of each volume; likewise
teacher/         heatmaps that a segmenter learns from; they stay, as another training may learn from them again
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tonno_core.cohort.manifest import Manifest
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError, first_line, reason_of
from tonno_core.output import Json, atomic_file, holds_files, remove_abandoned
from tonno_core.records import made_of, read_record
from tonno_core.training.settings import TrainingSettings
from tonno_core.training.tensor_file import load_tensors, save_tensors

_RUN, _MEASURED, _SCANS, _CHECKPOINT = "run.json", "measured.json", "scans.json", "checkpoint.pt"
_RESULTS = (_CHECKPOINT, _MEASURED, _SCANS, "metrics.csv", "curves.png", "split.csv")
# A run may be resumed on another machine.
_MAY_CHANGE = ("device", "compiled")
# What runs of earlier builds do not say of themselves.
_ALWAYS_WAS = {"bag": 0.0, "rounds": 1}


class Settings(Protocol):
    """Settings of a run."""

    def record(self) -> Json:
        """Return them as JSON holds them."""


@dataclass(frozen=True)
class _Measured:
    """What is measured once per run.

    Attributes:
        radius_mm: Of the training volumes' foreground.
    """

    radius_mm: float


@dataclass(frozen=True)
class _Scans:
    """What the checkpoint learned from.

    Attributes:
        hashes: Of the scans' bytes, in the manifest's order.
    """

    hashes: tuple[str, ...]


class RunFolder:
    """The folder of a run, which has one set of settings and cases.

    Args:
        path: The folder.
        settings: How to train.
        manifest: The cases.
    """

    def __init__(self, path: Path, settings: Settings, manifest: Manifest) -> None:
        self.path = path
        self._description = describe(settings, manifest)

    @property
    def cache(self) -> Path:
        """Return the folder of prepared volumes."""
        return self.path / "cache"

    @property
    def heatmaps(self) -> Path:
        """Return the folder of the first round's heatmaps."""
        return self.path / "heatmaps"

    @property
    def calibration(self) -> Path:
        """Return the folder of what the calibration measured."""
        return self.path / "calibration"

    @property
    def checkpoint(self) -> Path:
        """Return the file of the last state of the run."""
        return self.path / _CHECKPOINT

    @property
    def split(self) -> Path:
        """Return the file of the manifest with its split, the manifest's own or the one that the run made."""
        return self.path / "split.csv"

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Check that this run may begin or go on here; nothing is changed.

        Args:
            resume: The run goes on from its checkpoint, if there is one.
            overwrite: The run begins again.

        Raises:
            TonnoError: If the folder holds something else, or a run that this would replace.
        """
        if self.path.exists() and not self.path.is_dir():
            raise TonnoError(f"`run` {self.path}: is a file, expected a folder of a training run")
        if not self.path.is_dir() or not holds_files(self.path):
            return
        if not (self.path / _RUN).is_file():
            raise TonnoError(f"`run` {self.path}: is a folder of something else (no {_RUN}); choose another name")
        if overwrite:
            return
        try:
            description = read_record(self.path / _RUN)
        except (OSError, ValueError) as error:
            raise TonnoError(f"{self.path / _RUN}: unreadable ({first_line(error)}); choose another `run`") from error
        self._check_same(description, self.path / _RUN)
        if resume:
            self.load()
        elif self.checkpoint.exists():
            raise TonnoError(
                f"`run` {self.path}: holds the checkpoint of such a run; give `resume` to go on, "
                "or `overwrite` to begin again"
            )

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folder ready, after `check`. Prepared volumes stay: `VolumeCache` knows which are still good.

        Args:
            overwrite: Remove what an earlier run left.

        Raises:
            TonnoError: If the folder cannot be written.
        """
        try:
            for name in _RESULTS if overwrite else ():
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.heatmaps, self.calibration) if overwrite else ():
                if folder.is_dir():
                    shutil.rmtree(folder)
        except OSError as error:
            raise TonnoError(f"`run` {self.path}: cannot be written ({reason_of(error)})") from error
        _write_json(self.path / _RUN, self._description)
        remove_abandoned(self.path, below=True)

    def save(self, state: Json) -> None:
        """Write the checkpoint, whole or not at all.

        Args:
            state: Tensors and plain values by name.
        """
        save_tensors(self.checkpoint, {**state, "run": self._description})

    def load(self) -> Json | None:
        """Read the checkpoint.

        Returns:
            Tensors and plain values by name; None where there is no checkpoint yet.

        Raises:
            TonnoError: If it is damaged, or of another run.
        """
        if not self.checkpoint.exists():
            return None
        try:
            state = load_tensors(self.checkpoint)
        except TonnoError as error:
            raise TonnoError(f"{error}; give `overwrite` to begin again, or choose another `run`") from error
        self._check_same(state.get("run"), self.checkpoint)
        return state

    def misfit(self, error: Exception) -> TonnoError:
        """Make the error of a checkpoint that does not fit its run.

        Args:
            error: What going on from it raised.

        Returns:
            The error.
        """
        return TonnoError(
            f"{self.checkpoint}: does not fit this run ({first_line(error)}); "
            "give `overwrite` to begin again, or choose another `run`"
        )

    def measured(self, measure: Callable[[], float]) -> float:
        """Measure the cases, once per run: reading all scans may take an hour.

        Args:
            measure: Returns a radius in mm.

        Returns:
            The radius in mm, as it was measured first.

        Raises:
            TonnoError: If what was measured first cannot be read.
        """
        path = self.path / _MEASURED
        if path.is_file():
            try:
                radius = made_of(_Measured, read_record(path)).radius_mm
            except (OSError, ValueError):
                radius = 0.0
            if radius <= 0:
                raise TonnoError(f"{path}: damaged; delete it, and the volumes are measured again")
            return radius
        value = measure()
        _write_json(path, asdict(_Measured(value)))
        return value

    def check_scans(self, scans: Sequence[tuple[Path, str]], group: Processes) -> None:
        """Check that the scans are still those that the checkpoint learned from; all processes call this.

        Args:
            scans: In the manifest's order, with the hashes of their bytes.
            group: The processes that train.

        Raises:
            TonnoError: One was replaced, or what they were cannot be read.
        """
        path = self.path / _SCANS
        if self.checkpoint.exists() and path.is_file():  # an earlier build kept none
            try:
                before = made_of(_Scans, read_record(path)).hashes
            except (OSError, ValueError) as error:
                raise TonnoError(f"{path}: damaged ({first_line(error)}); give `overwrite` to begin again") from error
            others = [scan for (scan, now), then in zip(scans, before, strict=False) if now != then]
            if others:
                more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
                raise TonnoError(
                    f"{others[0]}{more}: is another scan than the one that the checkpoint in `run` {self.path} learned "
                    "from; put that one back, choose another `run`, or give `overwrite` to begin again"
                )
        group.wait()
        if group.first:
            _write_json(path, asdict(_Scans(tuple(now for _, now in scans))))

    def finish(self) -> None:
        """Remove the prepared volumes, their heatmaps, and what was measured of them."""
        for folder in (self.cache, self.heatmaps, self.calibration):
            shutil.rmtree(folder, ignore_errors=True)

    def _check_same(self, stored: object, path: Path) -> None:
        """Raise TonnoError that names a difference between the description in a file and this run."""
        advice = "choose another `run`, or give `overwrite` to begin again"
        if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
            raise TonnoError(f"{path}: is of no training run; {advice}")
        for name, value in self._description["settings"].items():
            before = stored["settings"].get(name, _ALWAYS_WAS.get(name))
            if name not in _MAY_CHANGE and before != value:
                raise TonnoError(
                    f"{path}: is of another run, with {name.replace('_', '-')} {before}, now {value}; {advice}"
                )
        if stored.get("cases") != self._description["cases"]:
            raise TonnoError(
                f"{path}: is of a run on other cases (the manifest's volumes, labels or splits differ); {advice}"
            )


def has_checkpoint(path: Path) -> bool:
    """Tell whether the run in a folder has something to go on from.

    Args:
        path: The folder.

    Returns:
        Whether it does.
    """
    return (path / _CHECKPOINT).is_file()


def recorded_setting(path: Path, name: str) -> int | None:
    """Read a setting of the run in a folder, a whole number.

    Args:
        path: The folder.
        name: Of the setting.

    Returns:
        Its value; None where there is no such run, or it cannot be read, which `RunFolder.check` says.
    """
    try:
        settings = made_of(dict[str, Any], read_record(path / _RUN).get("settings"), "settings")
        return made_of(int, settings.get(name), name)
    except (OSError, ValueError):
        return None


def describe(settings: Settings, manifest: Manifest) -> Json:
    """Describe a run without a patient's name: the settings, and a hash of the cases.

    Volumes count by their path relative to the manifest, so that a run may move with its data.

    Args:
        settings: How to train.
        manifest: The cases.

    Returns:
        JSON object.
    """
    folder = manifest.path.absolute().parent
    lines = [
        f"{os.path.relpath(case.volume, folder)} {case.number if manifest.target else case.labels} {case.split}"
        for case in manifest.cases
    ]
    digest = hashlib.sha256("\n".join([*manifest.classes, *lines]).encode()).hexdigest()
    mean = settings.convention.mean if isinstance(settings, TrainingSettings) else ()
    return {"settings": settings.record() | ({"mean": list(mean)} if mean else {}), "cases": digest}


def _write_json(path: Path, value: Json) -> None:
    with atomic_file(path, make_folders=True) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
