"""The process, spoken to by hand: what it says first, and what it does with lines that are no requests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.commands.within import fail
from tests.worker.talk import COMMAND, ENVIRONMENT, PATIENCE_S, EngineClient, Event, answer
from tonno_core.output import PARTIAL
from tonno_core.protocol import FOLDER_PREFIX, MAX_LINE, encode
from tonno_core.worker.job import Job
from tonno_core.worker.server import Server


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **ENVIRONMENT}
    ) as started:
        yield started
        started.kill()


@pytest.fixture
def process_ahead() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, "--ahead"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **ENVIRONMENT}
    ) as started:
        yield started
        started.kill()


def told(process: subprocess.Popen[bytes]) -> Event:
    """The next event that is no heartbeat."""
    assert process.stdout is not None
    while True:
        event: Event = json.loads(process.stdout.readline())
        if event["type"] != "heartbeat":
            return event


def test_it_says_who_it_is_and_survives_all_nonsense(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    ready = told(process)
    assert (ready["type"], ready["protocol"], ready["pid"]) == ("ready", 1, process.pid)
    assert set(ready["versions"]) == {"python", "torch", "timm", "tonno_core"}
    lines = [
        (b"hello\n", None),
        (b"\xff\x00\n", None),
        (b'{"v":1,"id":3\n', None),
        (b"x" * (2 * MAX_LINE + 5) + b"\n", None),
        (b'{"v":9,"id":4,"type":"describe"}\n', None),
        (encode("make-coffee", 5), 5),
        (encode("describe", None), None),
        (encode("cancel", 6), 6),
        (encode("reconstruct", 7), 7),
        (encode("refine", 8, folder="/no/such/folder"), 8),
    ]
    for line, identifier in lines:
        process.stdin.write(line)
        process.stdin.flush()
        event = told(process)
        assert (event["type"], event["kind"], event["id"]) == ("error", "protocol", identifier), line[:50]
    process.stdin.write(encode("cancel", 9, target=1) + encode("stop", 10, target=1) + encode("shutdown", None))
    process.stdin.flush()  # a target that has ended, or never was, is passed over: it may have crossed the answer
    assert process.stdout is not None
    assert b"error" not in process.stdout.read()
    assert process.wait(5) == 0


def test_it_ends_when_stdin_closes(process: subprocess.Popen[bytes]) -> None:
    told(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(5) == 0


def test_it_beats_every_second(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    kinds = [json.loads(process.stdout.readline())["type"] for _ in range(3)]
    assert kinds == ["ready", "heartbeat", "heartbeat"]


def test_devices_are_described(client: EngineClient) -> None:
    description = answer(client, client.submit("describe"))
    assert description["type"] == "description"
    cpu = description["devices"][-1]
    assert (cpu["name"], cpu["kind"], cpu["usable"], cpu["problem"]) == ("cpu", "cpu", True, None)
    assert cpu["free_bytes"] is None or 0 < cpu["free_bytes"] <= cpu["total_bytes"]
    assert description["torch"]


@pytest.mark.parametrize(("name", "orphaned", "stays"), [
    (f"{PARTIAL}x", True, False), (f"{PARTIAL}x", False, True), ("of-the-user", True, True),
])  # fmt: skip
def test_an_export_of_a_client_that_is_gone_leaves_no_pictures(
    name: str, orphaned: bool, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would remove its folder; a folder with a name of the user's own is never removed."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "finding-1.png").write_bytes(b"a picture")
    server = Server(cast(Any, None))
    server._jobs[1] = Job(1, {"folder": str(folder)}, lambda *event, **fields: None)
    monkeypatch.setattr(os, "_exit", lambda code: None)
    server._end(orphaned=orphaned)
    assert folder.exists() == stays


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_started_ahead_it_has_torch_before_the_first_request(process_ahead: subprocess.Popen[bytes]) -> None:
    assert told(process_ahead)["loading"] is True
    library = f"/proc/{process_ahead.pid}/maps"
    until = time.monotonic() + PATIENCE_S
    while "libtorch_python" not in Path(library).read_text():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert process_ahead.stdin is not None
    process_ahead.stdin.write(encode("refine", 1, folder=str(Path.cwd())))
    process_ahead.stdin.flush()
    while (event := told(process_ahead))["type"] == "progress":
        assert event["step"] == "loading"
    assert (event["type"], event["kind"]) == ("error", "not-kept")


def test_it_ends_though_somebody_removed_its_temporary_files(tmp_path: Path) -> None:
    """As a user who tidies up does: without the folder above its own it stayed for ever, and kept its memory."""
    folder = tmp_path / "above" / f"{FOLDER_PREFIX}1-x"
    folder.mkdir(parents=True)
    with subprocess.Popen(
        [*COMMAND, "--folder", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **ENVIRONMENT},
    ) as started:  # fmt: skip
        assert told(started)["type"] == "ready"
        shutil.rmtree(tmp_path / "above")
        assert started.stdin is not None
        started.stdin.close()
        try:
            assert started.wait(PATIENCE_S) == 0
        finally:
            started.kill()


def test_it_ends_whatever_fails_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(Server, "_clean_up", fail(RuntimeError("can't start new thread")))
    with pytest.raises(RuntimeError):
        Server(cast(Any, None))._end(orphaned=True)
    assert ended == [0]
