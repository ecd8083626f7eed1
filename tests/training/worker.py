"""The command `tonno` for tests of several processes: without curves and calibration, which take the longest."""

from __future__ import annotations

import sys
from pathlib import Path

from tonno_core.cli import main
from tonno_core.training import command, history

if __name__ == "__main__":
    history._draw = lambda path, epochs: Path(path).touch()
    command.calibrate_bundle = lambda bundle, manifest, **options: bundle.spec  # type: ignore[assignment]
    main(sys.argv[1:])
