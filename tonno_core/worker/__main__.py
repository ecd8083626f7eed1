"""``python -m tonno_core.worker [--parent PID] [--folder FOLDER] [--ahead]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tonno_core.worker.channel import Channel


def main() -> None:
    """Serve the client at stdin and stdout."""
    parser = argparse.ArgumentParser(prog="python -m tonno_core.worker", description="ToNNO's engine; docs/worker.md")
    parser.add_argument("--parent", type=int, help="end when this process is gone")
    parser.add_argument("--folder", type=Path, help="the client's temporary folder, removed when the client is gone")
    parser.add_argument("--ahead", action="store_true", help="load torch and the engine before the first request")
    arguments = parser.parse_args()
    channel = Channel.take_standard_streams()
    from tonno_core.worker.server import Server  # what its imports print goes to stderr already

    Server(channel, parent=arguments.parent, folder=arguments.folder, ahead=arguments.ahead).run()


if __name__ == "__main__":
    main()
