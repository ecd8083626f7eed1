"""Make the stored files again, by the code that they are of.

    git worktree add ../before 350c810
    python tests/stored/make.py ../before [PART ...]

Each part runs in a process that imports the checkout's tonno_core and ToNNOSlicer. A quarter of an hour on one core,
nearly all of it the demo. Files of other parts stay as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

COMMIT = "350c810"
HERE = Path(__file__).resolve().parent
PARTS = {
    **dict.fromkeys(("data", "options", "models", "runs"), "of_engine"),
    **dict.fromkeys(("cohort", "evaluation", "training"), "of_folders"),
    **dict.fromkeys(("manifests", "worker", "demo"), "of_engine"),
    "scene": "of_module",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS), default=list(PARTS))
    given = parser.parse_args()
    checkout = given.checkout.resolve()
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    if not head.stdout.startswith(COMMIT):
        sys.exit(f"{checkout}: is at {head.stdout.strip()[:7]}, expected {COMMIT}")
    host = checkout / "ToNNOSlicer"
    paths = [checkout, host, host / "Testing" / "Python", HERE.parent]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "TONNO_PROBE": "off",
        "QT_QPA_PLATFORM": "offscreen",
    }  # fmt: skip
    for part in given.parts:
        print(f"--- {part}", flush=True)
        command = [sys.executable, "-m", f"stored.{PARTS[part]}", part, str(checkout)]
        subprocess.run(command, env=environment, cwd=checkout, check=True)


if __name__ == "__main__":
    main()
