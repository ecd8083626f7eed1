"""The folder of a training run: what it is, how far it came, its curves, and its prepared volumes.

    run.json         settings and cases: what a run that goes on must agree with
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

import torch

from tonno_core.cohort.manifest import Manifest
from tonno_core.encoding.weights import read_weights
from tonno_core.errors import TonnoError, first_line
from tonno_core.training.settings import TrainingSettings

_WHAT, _CHECKPOINT = "run.json", "checkpoint.pt"
# A run may go on on another machine.
_MAY_CHANGE = ("device",)


class RunFolder:
    """A run's folder, opened for one set of settings and cases."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def cache(self) -> Path:
        """Of prepared volumes."""
        return self.path / "cache"

    @property
    def checkpoint(self) -> Path:
        """The last state of the run."""
        return self.path / _CHECKPOINT

    def check(self, settings: TrainingSettings, manifest: Manifest, *, resume: bool, overwrite: bool) -> None:
        """Raise TonnoError unless this run may begin or go on here; changes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise TonnoError(f"--run {self.path}: is a file, expected a folder of a training run")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not (self.path / _WHAT).is_file():
            raise TonnoError(f"--run {self.path}: is a folder of something else (no {_WHAT}); choose another name")
        if overwrite and not resume:
            return
        self._check_same(describe(settings, manifest))
        if self.checkpoint.exists() and not resume:
            raise TonnoError(
                f"--run {self.path}: holds the checkpoint of such a run; give --resume to go on, "
                "or --overwrite to begin again"
            )

    def open(self, settings: TrainingSettings, manifest: Manifest, *, resume: bool) -> None:
        """Make the folder ready, after `check`; what an earlier run left is removed unless it goes on."""
        what = describe(settings, manifest)
        try:
            if not resume and (self.path / _WHAT).exists() and not self._is_same(what):
                shutil.rmtree(self.path)
            if not resume:
                self.checkpoint.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / _WHAT, json.dumps(what, indent=2) + "\n")
        except OSError as error:
            raise TonnoError(f"--run {self.path}: cannot be written ({error.strerror or error})") from error

    def _is_same(self, what: dict[str, Any]) -> bool:
        try:
            self._check_same(what)
        except TonnoError:
            return False
        return True

    def _check_same(self, what: dict[str, Any]) -> None:
        try:
            found = json.loads((self.path / _WHAT).read_text(encoding="utf-8"))
            settings, cases = dict(found["settings"]), found["cases"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TonnoError(f"{self.path / _WHAT}: unreadable ({first_line(error)}); choose another --run") from error
        for name, value in what["settings"].items():
            if name not in _MAY_CHANGE and settings.get(name) != value:
                raise TonnoError(
                    f"--run {self.path}: is of another run, with {name.replace('_', '-')} {settings.get(name)}, "
                    f"now {value}; choose another --run, or give --overwrite to begin again"
                )
        if cases != what["cases"]:
            raise TonnoError(
                f"--run {self.path}: is of a run on other cases (the manifest's volumes, labels or splits differ); "
                "choose another --run, or give --overwrite to begin again"
            )

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all."""
        partial = self.path / f".{_CHECKPOINT}.{os.getpid()}.partial"
        try:
            torch.save(state, partial)
            partial.replace(self.checkpoint)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
            raise TonnoError(f"{self.checkpoint}: cannot be written ({first_line(error)})") from error
        finally:
            partial.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, plain tensors and numbers; None where there is none yet."""
        if not self.checkpoint.exists():
            return None
        read_weights(self.checkpoint)  # says what is wrong with a damaged file, or one that would run code
        state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        return state

    def measured(self, name: str, measure: Callable[[], float]) -> float:
        """What was measured on the cases, once per run: reading all scans may take an hour."""
        path = self.path / f"{name}.json"
        if path.is_file():
            return float(json.loads(path.read_text(encoding="utf-8")))
        value = measure()
        write_text(path, f"{json.dumps(value)}\n")
        return value

    def finish(self) -> None:
        """Remove the prepared volumes."""
        shutil.rmtree(self.cache, ignore_errors=True)


def describe(settings: TrainingSettings, manifest: Manifest) -> dict[str, Any]:
    """What a run is, without a patient's name: the settings, and a hash of the cases."""
    lines = [f"{case.volume} {case.labels} {case.split}" for case in manifest.cases]
    digest = hashlib.sha256("\n".join([*manifest.classes, *lines]).encode()).hexdigest()
    return {"settings": settings.record(), "cases": digest}


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
