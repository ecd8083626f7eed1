"""What the parts of `make.py` share. Here the names of commit 350c810 are right, and no others."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

HERE = Path(__file__).resolve().parent
DATA, MODELS = HERE / "data", HERE / "models"
DEVICE = ["--device", "cpu", "--precision", "float32"]
PLANES = ["--slices", "12", "--directions", "8"]


def tonno(*words: object, status: int = 0) -> None:
    """Run the command in this process."""
    from tonno_core.cli import main

    try:
        main([str(word) for word in words])
    except SystemExit as end:
        assert end.code == status, (words, end.code)


def write_json(name: str, content: Any) -> None:
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(compact(content) + "\n", encoding="utf-8")
    print(name, path.stat().st_size)


def compact(value: Any, indent: str = "") -> str:
    """JSON in which what fits into a line is in one, as people would write it."""
    line = json.dumps(value)
    if len(line) + len(indent) <= 118 or not isinstance(value, (dict, list)):
        return line
    deeper = indent + " "
    if isinstance(value, dict):
        entries = [f"{deeper}{json.dumps(name)}: {compact(entry, deeper)}" for name, entry in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + compact(entry, deeper) for entry in value) + f"\n{indent}]"


def emptied(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder with the data, from which the commands run."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(DATA, Path(folder, "data"))
        shutil.copytree(MODELS, Path(folder, "models")) if MODELS.is_dir() else None
        os.chdir(folder)
        yield Path(folder)
        os.chdir(before)


def voxels(path: Path) -> np.ndarray:
    """Z Y X, of any image."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def shipped() -> Path:
    import tonno_core

    return Path(tonno_core.__file__).parent / "models" / "brain-lesions"


def leave_by_interruption(command: Callable[[], None]) -> None:
    """Run a command that is interrupted; it leaves its process by os._exit."""
    leave, os._exit = os._exit, sys.exit  # type: ignore[assignment]
    try:
        command()
    except (SystemExit, AssertionError) as end:
        assert "130" in str(end), end
    finally:
        os._exit = leave


def copy_without_pictures(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.png", "cache"))
