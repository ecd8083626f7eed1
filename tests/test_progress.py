"""Bars: on a terminal, in a log, for the Slicer module, and where nobody wants one."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tonno_core import progress
from tonno_core.progress import progress_bar, silenced


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, silent: bool = False) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with silenced(silent):
        for _ in progress_bar(range(4), desc="reconstructing", unit="volume"):
            pass
    return stream.getvalue()


def test_a_log_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    text = shown(io.StringIO(), monkeypatch)
    assert "\r" not in text
    assert [line.split(" [")[0] for line in text.splitlines()] == [
        "reconstructing:   0% 0/4",
        "reconstructing: 100% 4/4",
    ]
    monkeypatch.setattr(progress, "_LINE_S", 0.0)  # a line at each step
    assert len(shown(io.StringIO(), monkeypatch).splitlines()) == 6


def test_a_terminal_gets_a_bar_and_so_does_who_reads_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    assert "100%|" in shown(Terminal(), monkeypatch)
    monkeypatch.setenv("TQDM_MININTERVAL", "1")  # as the module's worklist does
    assert "100%|" in shown(io.StringIO(), monkeypatch)


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(Terminal(), monkeypatch, silent=True) == ""
    assert shown(io.StringIO(), monkeypatch, silent=True) == ""


def test_lines_of_a_run_that_begins_in_the_middle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        with progress_bar(desc="evaluating", total=5, initial=3) as bar:
            bar.update(2)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" [")[0] for line in lines] == ["evaluating:  60% 3/5", "evaluating: 100% 5/5"]
