"""Some reconstructions in one worker, disturbed in each way; `make soak` does two hundred."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.worker.soak import Figures, Soak, grown

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts what is in /proc and /dev/shm")


def test_every_way_a_run_may_end_leaves_what_was_there(tmp_path: Path) -> None:
    soak = Soak(tmp_path, seed=3, side=16)
    soak.run(13)
    before = soak.figures()
    assert {end.partition(": ")[2] for end in soak.ended} >= {"result", "cancelled", "error user"}
    soak.run(13)
    after = soak.figures()
    assert soak.close() == 0
    # So soon after the start the memory of libraries still grows; `make soak` judges it, and the count of objects.
    assert {"handles", "threads", "processes", "files"}.isdisjoint(grown(before, after, 13)), (before, after)
    assert after.objects < before.objects + 2000


def test_what_grew_is_named() -> None:
    before = Figures(900.0, 7000, 8, 5, 3, 1, 1)
    assert grown(before, Figures(905.0, 7050, 80, 5, 3, 1, 0), 200) == []
    assert grown(before, Figures(950.0, 7201, 80, 6, 4, 2, 2), 200) == [
        "rss_mb", "objects", "handles", "threads", "processes", "files",
    ]  # fmt: skip
