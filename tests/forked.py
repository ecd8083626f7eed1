"""The command `tonno` for tests of several processes: without curves and calibration, which take the longest.

Started by torchrun, or with ``FORKED`` processes that it splits into itself, which spares them their imports; with
``TRAINS`` also that of torch's compiler, for which DistributedDataParallel takes two seconds. In process number
``FAILS`` no volume can be read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tonno_core.cli import main
from tonno_core.commands import reconstruct as workflow
from tonno_core.commands import train as command
from tonno_core.errors import TonnoError
from tonno_core.training import history
from tonno_core.volume.volume import Volume


def unreadable(path: Path, **options: object) -> Volume:
    raise TonnoError(f"{path}: cannot be read here")


if __name__ == "__main__":
    history._draw = lambda path, epochs: Path(path).touch()
    command.calibrate_bundle = lambda bundle, *rest: bundle.spec  # type: ignore[assignment]
    world, rank, children = int(os.environ.get("FORKED", "1")), 0, []
    if world > 1:
        if "TRAINS" in os.environ:
            import torch._dynamo  # noqa: F401
        for other in range(1, world):
            child = os.fork()
            if child == 0:
                rank, children = other, []
                break
            children.append(child)
        os.environ.update(WORLD_SIZE=str(world), RANK=str(rank))
    if os.environ.get("FAILS") == str(rank):
        workflow.read_volume = unreadable
    try:
        main(sys.argv[1:])
    finally:
        for child in children:
            _, status = os.waitpid(child, 0)
            print(f"child ended with {os.waitstatus_to_exitcode(status)}")
