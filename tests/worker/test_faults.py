"""Everything that can go wrong: each ends in a clear event, a client that works again, and nothing left behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.worker.talk import (
    COMMAND,
    END_OF_PROCESS,
    ENVIRONMENT,
    ROOT,
    EngineClient,
    Event,
    answer,
    fields,
    make_client,
    processes_of,
    wait,
)
from tonno_core.protocol import FOLDER_PREFIX
from tonno_core.volume.volume import Volume

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for what is left in /proc and /dev/shm")

LONG = {"directions": 4000, "methods": ["tonno"]}  # a minute
SHORT = {"directions": 8, "slices": 16, "methods": ["tonno"]}


def gone(folder: Path) -> None:
    """Wait until no process of a client's folder is left; a killed one needs a moment."""
    patience = time.monotonic() + 5.0
    while processes_of(folder) and time.monotonic() < patience:
        time.sleep(0.02)
    assert processes_of(folder) == []


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of its own; afterwards it must be empty, and no process or shared memory left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(folder))
    shared = sorted(Path("/dev/shm").iterdir())
    yield folder
    gone(folder)
    assert sorted(path.name for path in folder.rglob("*")) == []
    assert sorted(Path("/dev/shm").iterdir()) == shared


def until_the_end(client: EngineClient, patience_s: float = 20.0) -> Event:
    """The event that tells of the process' end."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        for event in client.poll():
            if event["type"] in END_OF_PROCESS:
                return event
        time.sleep(0.005)
    raise AssertionError("the process has not ended")


def works(client: EngineClient, volume: Volume) -> bool:
    """Whether a request is answered."""
    result = answer(client, client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=SHORT)))
    return result["type"] == "result"


def starts(client: EngineClient) -> bool:
    """Whether a new process is there, ready for requests; much quicker than `works`, which waits for torch."""
    client.start()
    return wait(client, lambda e: e["type"] == "ready")[-1]["protocol"] == 1


def begun(client: EngineClient, identifier: int) -> None:
    """Wait until planes are being looked at."""
    wait(client, lambda e: e["id"] == identifier and e.get("step") == "reconstructing" and e["done"] > 0)


# --- the process dies, hangs or raves


def test_killed_at_ten_random_moments(temporary: Path, volume: Volume) -> None:
    client, moments = make_client(), np.random.default_rng(0)
    for attempt in range(10):
        asked = fields(client, volume, "pixel-sum", options=LONG, preview=True)
        identifier = client.submit("reconstruct", **asked)
        if attempt < 2:  # the others are killed at any time from the start, mostly while torch is loading
            begun(client, identifier)
        time.sleep(moments.uniform(0, 1.0))
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        event = until_the_end(client)
        assert (event["type"], event["code"], event["ids"]) == ("exited", -signal.SIGKILL, [identifier])
        assert not client.isRunning
        client.release(asked["folder"])
        assert not Path(asked["folder"]).exists()
    assert works(client, volume)
    client.close()


def test_a_hung_process_is_replaced_and_nobody_waits_for_it(temporary: Path, volume: Volume) -> None:
    client = make_client(heartbeatTimeout=1.5)
    assert starts(client)
    hung = client.pid
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    cancelled = client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=LONG))
    pending = client.submit("describe")
    stopped, longest = time.monotonic(), 0.0
    seen: dict[str, tuple[float, Event]] = {}
    while "hung" not in seen and time.monotonic() < stopped + 10:
        start = time.perf_counter()
        client.cancel(cancelled)  # the impatient user
        seen |= {event["type"]: (time.monotonic() - stopped, event) for event in client.poll()}
        longest = max(longest, time.perf_counter() - start)
        time.sleep(0.01)
    # A cancel is answered even now: by the client itself.
    assert seen["cancelled"][0] < 1.0
    assert seen["cancelled"][1]["id"] == cancelled
    after, event = seen["hung"]
    assert event["ids"] == [pending]
    assert 0.5 < after < 4.0  # the last heartbeat may have been up to a second before
    assert longest < 0.1  # measured 0.002 s
    gone(temporary)
    assert starts(client)
    client.close()


def test_an_application_that_holds_the_interpreter_is_served_too(temporary: Path, volume: Volume) -> None:
    """As the event loop of an application around the interpreter may: its lock is free only during `poll`."""
    locked = ctypes.PyDLL(None)  # calls through it keep the lock
    client = make_client(heartbeatTimeout=1.5)
    assert starts(client)
    identifier = client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=SHORT, preview=True))
    events: list[Event] = []
    until = time.monotonic() + 60
    while not any(event["type"] == "result" for event in events) and time.monotonic() < until:
        locked.usleep(50_000)
        events += client.poll()
    assert events[-1]["id"] == identifier
    locked.usleep(2_500_000)  # a dialog is open; the heartbeats of that time lie unread
    for _ in range(10):
        assert client.poll() == []
    assert works(client, volume)
    client.close()


RAVING = """
import os, runpy, sys, time
if not os.path.exists({marker!r}):
    open({marker!r}, "w").close()
    os.write(1, {line!r})
    time.sleep(60)
sys.argv = ["worker", *sys.argv[1:]]
runpy.run_module("tonno_core.worker", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"Downloading weights...\n", "not JSON"),
        (b'{"v": 2, "id": null, "type": "ready", "protocol": 2}\n', "protocol version 2"),
    ],
)
def test_a_process_that_speaks_something_else_is_replaced(
    temporary: Path, volume: Volume, tmp_path: Path, line: bytes, message: str
) -> None:
    code = RAVING.format(marker=str(tmp_path / "raved"), line=line)
    client = make_client(command=[sys.executable, "-c", code])
    identifier = client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=SHORT))
    event = until_the_end(client)
    assert (event["type"], event["ids"]) == ("garbage", [identifier])
    assert message in event["message"]
    assert not client.isRunning
    assert starts(client)
    client.close()


def test_the_end_of_a_process_tells_its_code_and_last_words(temporary: Path) -> None:
    code = "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"
    client = make_client(command=[sys.executable, "-c", code])
    identifier = client.submit("describe")
    event = until_the_end(client)
    assert (event["type"], event["code"], event["ids"], event["log"]) == ("exited", 3, [identifier], ["no such thing"])
    client.close()


def test_modules_in_the_current_folder_are_not_taken_for_the_engines(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tonno_core", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    client = make_client()
    assert starts(client)
    client.close()


LAUNCHER = [sys.executable, "-c", f"import subprocess, sys; sys.exit(subprocess.call({COMMAND!r} + sys.argv[1:]))"]


def test_a_launchers_child_ends_with_it(temporary: Path, volume: Volume) -> None:
    """As with PythonSlicer, which starts the Python that then runs."""
    client = make_client(command=LAUNCHER)
    client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=LONG))
    wait(client, lambda e: e.get("step") == "loading")
    assert len(processes_of(temporary)) == 2
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    assert until_the_end(client)["type"] == "exited"
    gone(temporary)
    assert starts(client)
    launcher = client.pid
    (child,) = set(processes_of(temporary)) - {launcher}
    os.kill(child, signal.SIGSTOP)  # hears no request and no end of its stdin
    client.close(timeout=0.2)
    gone(temporary)


# --- the user changes their mind


def test_cancelled_at_ten_random_moments(temporary: Path, volume: Volume) -> None:
    client, moments = make_client(), np.random.default_rng(1)
    delays = []
    for attempt in range(10):
        asked = fields(client, volume, "pixel-sum", options=LONG, preview=True)
        identifier = client.submit("reconstruct", **asked)
        if attempt > 1:  # the first two fall into the import of torch, which nothing can interrupt
            begun(client, identifier)
        time.sleep(moments.uniform(0, 0.7))
        start = time.monotonic()
        client.cancel(identifier)
        final = answer(client, identifier)
        delays.append(time.monotonic() - start)
        assert final["type"] == "cancelled"
        client.release(asked["folder"])
        time.sleep(0.1)
        assert not Path(asked["folder"]).exists()  # nothing is written after the answer
    assert max(delays) < 1.0, delays  # measured up to 0.05 s; 0.8 s where the import of torch holds all threads up
    assert works(client, volume)
    client.close()


def test_the_window_is_closed_during_a_run(temporary: Path, volume: Volume) -> None:
    client = make_client()
    begun(client, client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=LONG, preview=True)))
    start = time.monotonic()
    client.close()
    assert time.monotonic() - start < 2.0
    assert client.poll() == []
    client.close()  # again: nothing happens
    assert list(temporary.iterdir()) == []
    assert starts(client)
    client.close()


# --- the parent goes

PARENT = """
import os, sys, time
import numpy as np
sys.path[:0] = [{slicer!r}]
from ToNNOSlicerLib.engine import EngineClient
client = EngineClient({command!r})
folder = client.newFolder()
np.save(folder / "volume.npy", np.random.default_rng(0).random((30, 30, 30), dtype=np.float32))
volume = dict(array=str(folder / "volume.npy"), ijk_to_ras=np.eye(4).tolist())
client.submit("reconstruct", volume=volume, model="pixel-sum", folder=str(folder), options={options!r}, preview=True)
while not any(event["type"] == {awaited!r} for event in client.poll()):
    time.sleep(0.01)
print("begun", flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("awaited", "then"), [("ready", "time.sleep(60)"), ("preview", "time.sleep(60)"), ("ready", "")]
)
def test_the_process_ends_with_its_parent(temporary: Path, awaited: str, then: str) -> None:
    """Killed while the engine loads, killed while it computes, and ended without a `close`."""
    code = PARENT.format(
        slicer=str(ROOT / "ToNNOSlicer"), command=COMMAND, options=LONG, awaited=awaited, then=then
    )  # fmt: skip
    environment = {**os.environ, **ENVIRONMENT}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"begun\n"
        if then:
            assert processes_of(temporary)
            parent.kill()
    # The rest is seen by the fixture: the process has ended, and has removed the folder.


def test_what_a_killed_client_left_is_removed_by_the_next(temporary: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    stale, own = (temporary / f"{FOLDER_PREFIX}{pid}-x" for pid in (ended.pid, os.getpid()))
    for folder in (stale, own, temporary / "tonno-of-somebody"):
        folder.mkdir()
    client = make_client()
    client.newFolder()
    assert not stale.exists()
    assert own.exists()
    client.close()
    for folder in (own, temporary / "tonno-of-somebody"):
        folder.rmdir()


# --- the disk is full

SMALL_DISK = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
sys.argv = ["worker", *sys.argv[1:]]
runpy.run_module("tonno_core.worker", run_name="__main__", alter_sys=True)
"""


def test_a_full_disk_is_said_and_leaves_no_part_of_a_file(temporary: Path, volume: Volume) -> None:
    client = make_client(command=[sys.executable, "-c", SMALL_DISK])
    for preview in (False, True):
        asked = fields(client, volume, "pixel-sum", options={**SHORT, "directions": 64}, preview=preview)
        error = answer(client, client.submit("reconstruct", **asked))
        assert (error["type"], error["kind"]) == ("error", "disk-full")
        assert "space" in error["next"]
        assert sorted(path.name for path in Path(asked["folder"]).iterdir()) == ["volume.npy"]
    small = Volume(np.ascontiguousarray(volume.array[8:14, 8:20, 8:20]), volume.ijk_to_ras)
    assert works(client, small)  # 3.5 kB
    client.close()


# --- the installation

NO_TORCH = {
    "missing": "raise ModuleNotFoundError(\"No module named 'torch'\")",
    "a library of it is": "raise OSError('libtorch.so: cannot open shared object file')",
    "half removed": "",
    "talkative": "import os, sys\nprint('noise')\nos.write(1, b'more noise\\n')\nos.system('echo and more')\n"
    "assert sys.stdin.read() == ''\nraise ImportError('DLL load failed')",
}


@pytest.mark.parametrize("how", NO_TORCH)
def test_a_broken_torch_is_an_error_not_a_crash(
    temporary: Path, volume: Volume, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake" / "torch").mkdir(parents=True)
    (tmp_path / "fake" / "torch" / "__init__.py").write_text(NO_TORCH[how])
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{ROOT}")
    client = make_client()
    start = time.monotonic()
    assert starts(client)
    assert time.monotonic() - start < 5.0  # nothing heavy is loaded before it; measured 0.2 s
    asked = fields(client, volume, "pixel-sum", options=SHORT)
    for kind, content in (("reconstruct", asked), ("describe", {})):
        error = answer(client, client.submit(kind, **content))
        assert (error["type"], error["kind"]) == ("error", "no-torch")
        assert "PyTorch" in error["next"]
    assert client.isRunning
    if how == "talkative":  # what is printed goes to the log, not into the protocol
        assert {"noise", "more noise", "and more"} <= set(client.logLines)
    client.close()


def test_another_missing_package_is_named(
    temporary: Path, volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "timm.py").write_text("raise ModuleNotFoundError(\"No module named 'timm'\")")
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{ROOT}")
    client = make_client()
    error = answer(client, client.submit("reconstruct", **fields(client, volume, "pixel-sum", options=SHORT)))
    assert (error["kind"], "timm" in error["message"]) == ("missing-package", True)
    client.close()


# --- where the files lie


def test_files_lie_where_the_user_wants_them(temporary: Path) -> None:
    """In the application the user chooses the place of temporary files; nobody else may read a patient's voxels."""
    chosen = temporary / "chosen by the user"  # made where it is missing
    client = make_client(temporaryPath=chosen)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    stale = chosen / f"{FOLDER_PREFIX}{ended.pid}-x"
    stale.mkdir(parents=True)
    request = client.newFolder()
    assert not stale.exists()
    assert request.parent.parent == chosen
    assert request.parent.stat().st_mode & 0o077 == 0
    assert starts(client)
    variables = Path(f"/proc/{client.pid}/environ").read_bytes().split(b"\0")
    assert f"TMPDIR={request.parent}".encode() in variables
    client.close()
    chosen.rmdir()  # empty


def test_another_place_is_taken_when_the_first_is_gone(temporary: Path) -> None:
    client = make_client(temporaryPath=temporary / "chosen")
    shutil.rmtree(client.newFolder().parents[1])
    assert client.newFolder().is_dir()
    client.close()
    (temporary / "chosen").rmdir()
