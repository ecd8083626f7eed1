"""SECURITY.md: nothing connects anywhere but where a user asks for weights; the engine's process opens no port.

`tests/offline.py` watches every other test, within its own process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.networks import write_random_bundle
from tests.offline import offline
from tests.training.toy import toy_scan
from tests.worker.talk import EngineClient, answer, fields, make_client
from tonno_core.volume.io import write_volume

# What a sitecustomize of this kind hears is all that Python's sockets do, whoever uses them.
LISTENER = """
import os, sys
def hear(event, arguments):
    if event == "socket.bind" and arguments[1][:2] in (("::1", 0), ("127.0.0.1", 0)):
        return  # urllib3 tries whether there is IPv6, and closes it again
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto"):
        os.write(int(os.environ["HEARD"]),
        f"{event} {arguments[1:] if event == 'socket.connect' else arguments}\\n".encode())
sys.addaudithook(hear)
"""
IMPORTS = """
import huggingface_hub, matplotlib.pyplot, pydicom, safetensors.torch, SimpleITK, timm, torch
import tonno_core.cli, tonno_core.encoding.classifier, tonno_core.encoding.sources, tonno_core.pictures.report
import tonno_core.evaluation.report, tonno_core.training.train, tonno_core.worker.engine
from importlib.util import find_spec
for name in ("monai", "highdicom", "openpyxl", "nilearn"):
    if find_spec(name):
        __import__(name)
coarse = ["--slices", "8", "--directions", "4"]
tonno_core.cli.main(["reconstruct", "scan.nii.gz", "--model", "model", "--output", "out", *coarse])
"""


def heard(folder: Path, code: str) -> str:
    """What a new process, with an empty home, does with sockets."""
    (folder / "listener").mkdir()
    (folder / "listener" / "sitecustomize.py").write_text(LISTENER)
    (folder / "home").mkdir()
    log = os.open(folder / "heard", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    paths = [str(folder / "listener"), str(Path(__file__).parents[2])]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "MPL"))}
    environment = {
        **kept, "HEARD": str(log), "PYTHONPATH": os.pathsep.join(paths), "HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, cwd=folder, pass_fds=[log], capture_output=True,
        encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip
    os.close(log)
    assert done.returncode == 0, done.stderr
    return (folder / "heard").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="hands a file over to the process")
def test_a_first_use_connects_to_nothing(tmp_path: Path) -> None:
    """Telemetry, updates, caches of fonts: of all libraries, with nothing in the user's home yet."""
    write_volume(toy_scan(0, 1), tmp_path / "scan.nii.gz")
    write_random_bundle(tmp_path / "model")
    assert heard(tmp_path, IMPORTS) == ""
    assert (tmp_path / "out" / "report.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="hands a file over to the process")
def test_the_listener_hears(tmp_path: Path) -> None:
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9)); socket.getaddrinfo('localhost', 9)"
    assert heard(tmp_path, code).split()[0] == "socket.connect"


def test_the_watch_over_all_tests_sees_what_a_library_swallows() -> None:
    with offline() as tried:
        with pytest.raises(OSError, match="no network in tests"):
            socket.create_connection(("192.0.2.1", 80), timeout=0.1)
        with pytest.raises(OSError, match="no network in tests"):
            socket.getaddrinfo("example.org", 80)
        with socket.socket() as server, socket.socket() as client:
            server.bind(("127.0.0.1", 0))
            server.listen()
            client.connect(server.getsockname())
        assert tried == ["192.0.2.1", "example.org"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_engines_process_has_no_socket_and_hears_its_parent_alone(tmp_path: Path) -> None:
    client: EngineClient = make_client()
    try:
        small = {"slices": 8, "directions": 4, "methods": ["tonno"]}
        asked = fields(client, toy_scan(0, 1), "pixel-sum", options=small)
        assert answer(client, client.submit("reconstruct", **asked), patience_s=300)["type"] == "result"
        descriptors = Path(f"/proc/{client.pid}/fd")
        held = [str(each.readlink()) for each in descriptors.iterdir() if each.is_symlink()]
        assert held and not [name for name in held if name.startswith("socket:")]
        assert sum(name.startswith("pipe:") for name in held) >= 3  # requests, events, log
        assert Path(asked["folder"]).stat().st_mode & 0o077 == 0
    finally:
        client.close()
