"""The folder of a training run: what it is, how far it came, its curves, and its prepared volumes.

run.json         settings and cases: what a run that goes on must agree with
measured.json    the size of the training volumes' foreground
checkpoint.pt    weights, optimizer and position; `tonno bundle --weights` reads it too
metrics.csv, curves.png, split.csv (where the manifest gave no split)
cache/           prepared volumes; removed when the run is complete
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tonno_core.cohort.manifest import Manifest
from tonno_core.errors import TonnoError, first_line
from tonno_core.output import atomic_file
from tonno_core.training.settings import TrainingSettings
from tonno_core.training.tensor_file import load_tensors, save_tensors

_WHAT, _MEASURED, _CHECKPOINT = "run.json", "measured.json", "checkpoint.pt"
_OF_EARLIER = (_CHECKPOINT, _MEASURED, "metrics.csv", "curves.png", "split.csv")
# A run may go on on another machine.
_MAY_CHANGE = ("device",)


class RunFolder:
    """A folder for one run: one set of settings and cases."""

    def __init__(self, path: Path, settings: TrainingSettings, manifest: Manifest) -> None:
        self.path = path
        self._what = describe(settings, manifest)

    @property
    def cache(self) -> Path:
        """Of prepared volumes."""
        return self.path / "cache"

    @property
    def checkpoint(self) -> Path:
        """The last state of the run."""
        return self.path / _CHECKPOINT

    @property
    def split(self) -> Path:
        """The manifest with its split, where the run made that."""
        return self.path / "split.csv"

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Raise TonnoError unless this run may begin or go on here; changes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise TonnoError(f"`run` {self.path}: is a file, expected a folder of a training run")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not (self.path / _WHAT).is_file():
            raise TonnoError(f"`run` {self.path}: is a folder of something else (no {_WHAT}); choose another name")
        if overwrite:
            return
        try:
            found = json.loads((self.path / _WHAT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TonnoError(f"{self.path / _WHAT}: unreadable ({first_line(error)}); choose another `run`") from error
        self._check_same(found, self.path / _WHAT)
        if resume:
            self.load()
        elif self.checkpoint.exists():
            raise TonnoError(
                f"`run` {self.path}: holds the checkpoint of such a run; give `resume` to go on, "
                "or `overwrite` to begin again"
            )

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folder ready, after `check`; ``overwrite`` removes what an earlier run left.

        Prepared volumes stay: `VolumeCache` knows which of them are still good.
        """
        try:
            for name in _OF_EARLIER if overwrite else ():
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise TonnoError(f"`run` {self.path}: cannot be written ({error.strerror or error})") from error
        _write_json(self.path / _WHAT, self._what)

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all."""
        save_tensors(self.checkpoint, {**state, "run": self._what})

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, plain tensors and numbers; None where there is none yet. Raises TonnoError for another's."""
        if not self.checkpoint.exists():
            return None
        try:
            state = load_tensors(self.checkpoint)
        except TonnoError as error:
            raise TonnoError(f"{error}; give `overwrite` to begin again, or choose another `run`") from error
        self._check_same(state.get("run"), self.checkpoint)
        return state

    def measured(self, measure: Callable[[], float]) -> float:
        """What was measured on the cases, once per run: reading all scans may take an hour."""
        path = self.path / _MEASURED
        if path.is_file():
            return float(json.loads(path.read_text(encoding="utf-8"))["radius_mm"])
        value = measure()
        _write_json(path, {"radius_mm": value})
        return value

    def finish(self) -> None:
        """Remove the prepared volumes."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def _check_same(self, found: object, path: Path) -> None:
        """Raise TonnoError that names what a file of the folder says otherwise than this run."""
        advice = "choose another `run`, or give `overwrite` to begin again"
        if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
            raise TonnoError(f"{path}: is of no training run; {advice}")
        for name, value in self._what["settings"].items():
            there = found["settings"].get(name)
            if name not in _MAY_CHANGE and there != value:
                raise TonnoError(
                    f"{path}: is of another run, with {name.replace('_', '-')} {there}, now {value}; {advice}"
                )
        if found.get("cases") != self._what["cases"]:
            raise TonnoError(
                f"{path}: is of a run on other cases (the manifest's volumes, labels or splits differ); {advice}"
            )


def describe(settings: TrainingSettings, manifest: Manifest) -> dict[str, Any]:
    """What a run is, without a patient's name: the settings, and a hash of the cases.

    Volumes count by their place relative to the manifest, so that a run may move with its data.
    """
    folder = manifest.path.absolute().parent
    lines = [f"{os.path.relpath(case.volume, folder)} {case.labels} {case.split}" for case in manifest.cases]
    digest = hashlib.sha256("\n".join([*manifest.classes, *lines]).encode()).hexdigest()
    return {"settings": settings.record(), "cases": digest}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with atomic_file(path, make_folders=True) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
