"""The command as several processes, as a launcher starts them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.training.toy import environment

WORKER = str(Path(__file__).parent / "forked.py")


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def two_processes(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command as two processes; torch's own warnings are none of ours."""
    env = environment(FORKED="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port(), PYTHONWARNINGS="ignore", **more)
    return subprocess.run(
        [sys.executable, WORKER, *arguments], env=env, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
