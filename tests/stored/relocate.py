"""Folders of commit 350c810, as it would have written them here.

A cohort's or an evaluation's folder says of which files it is: by a hash of their absolute paths, which are others on
each machine. What follows is that commit's rule, kept apart from the code that it is held against.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .digest import json_hash, read_json


def cohort(folder: Path, volumes: Sequence[Path], *, version: str) -> str:
    """Make a cohort's folder one of volumes at these places, by this version; returns the hash that says so."""
    run = _settings(folder, [str(volume) for volume in volumes], version)
    for path in folder.glob("cases/*/report.json"):
        _write(path, {**read_json(path), "run": run})
    return run


def evaluation(folder: Path, rows: Sequence[Sequence[Any]], *, version: str) -> str:
    """The same of an evaluation. rows: volume, label, mask (or ""), patient of each case."""
    fingerprint = _settings(folder, [[str(cell) for cell in row] for row in rows], version)
    for path in folder.glob("cases/*.json"):
        _write(path, {**read_json(path), "fingerprint": fingerprint})
    return fingerprint


def _settings(folder: Path, listed: Any, version: str) -> str:
    path = folder / "settings.json"
    content = read_json(path)
    content["manifest"]["sha256"] = json_hash(listed)
    content["tonno"] = version  # another version begins anew; that is the rule too
    _write(path, content)
    return json_hash(content)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
