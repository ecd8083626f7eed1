"""A single volume, as `tonno reconstruct` does it."""

from __future__ import annotations

from pathlib import Path

from tonno_core.commands.reconstruct import Scan, reconstruct_into, single_run
from tonno_core.commands.request import Compute, Options


def reconstruct_files(volume: Path, output: Path, options: Options, compute: Compute) -> str:
    with single_run(output, options, compute) as (prepared, progress, group):
        return reconstruct_into(output, Scan(volume), prepared, progress=progress, group=group)
