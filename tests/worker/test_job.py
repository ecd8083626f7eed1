"""One final event for each request, whoever comes first; progress in moderation; files whole or not at all."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tonno_core.reporting import Cancelled
from tonno_core.worker.files import write_array
from tonno_core.worker.job import Job


class Recorder:
    """Remembers events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, identifier: int, /, **fields: Any) -> None:
        assert identifier == 5
        self.events.append((kind, fields))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def test_there_is_one_final_event_whoever_comes_first() -> None:
    for _ in range(200):
        recorder = Recorder()
        job = Job(5, {}, recorder)
        together = threading.Barrier(2)

        def cancel(job: Job = job, together: threading.Barrier = together) -> None:
            together.wait()
            job.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        together.wait()
        job.emit("preview")
        job.finish("result")
        thread.join()
        job.emit("progress")
        assert recorder.kinds in (["preview", "result"], ["preview", "cancelled"], ["cancelled"])


def test_a_cancelled_computation_hears_it_at_its_next_question() -> None:
    job = Job(5, {}, Recorder())
    job.check()
    job.cancel()
    for question in (job.check, lambda: job.step("finishing"), lambda: job.writing().__enter__()):
        with pytest.raises(Cancelled):
            question()


def test_progress_comes_ten_times_a_second_at_most_and_knows_the_rest() -> None:
    recorder = Recorder()
    job = Job(5, {}, recorder)
    job.step("reconstructing")
    start = time.monotonic()
    for done in range(1, 301):
        time.sleep(0.001)
        job.progress(done, 300)
    seconds = time.monotonic() - start
    assert len(recorder.events) <= 10 * seconds + 3  # and the first and the last
    counted = [fields for _, fields in recorder.events]
    assert counted[-1] == {**counted[-1], "step": "reconstructing", "done": 300, "total": 300, "remaining_s": 0.0}
    some = counted[2]
    # Even steps: what is left takes as long as what is done, in proportion.
    assert some["remaining_s"] == pytest.approx(some["elapsed_s"] * (300 - some["done"]) / some["done"], rel=0.05)


@pytest.mark.parametrize("array", [np.zeros((3, 4, 5), np.float32), np.ones((2, 3, 4), np.uint8)[:, :, ::-1]])
def test_arrays_are_read_back_as_they_were(tmp_path: Path, array: np.ndarray) -> None:
    path = write_array(tmp_path / "a.npy", array, Job(5, {}, Recorder()))
    np.testing.assert_array_equal(np.load(path), array)
    assert np.load(path).dtype == array.dtype
    assert [one.name for one in tmp_path.iterdir()] == ["a.npy"]


def test_a_cancel_ends_a_long_write_and_leaves_nothing(tmp_path: Path) -> None:
    """A gigabyte: the cancel comes after the first part and does not wait for the last."""
    recorder = Recorder()
    job = Job(5, {}, recorder)
    huge = np.zeros((1 << 30,), np.uint8)

    def cancel() -> None:
        while not list(tmp_path.glob(".tonno-partial-*/a.npy")):
            time.sleep(0.001)
        job.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Cancelled):
        write_array(tmp_path / "a.npy", huge, job)
    thread.join()
    assert recorder.kinds == ["cancelled"]
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_request_did_does_not_count_for_the_time_that_is_left() -> None:
    recorder = Recorder()
    job = Job(5, {}, recorder)
    job.step("reconstructing", 900, 1000)
    assert recorder.events[-1][1] == {**recorder.events[-1][1], "done": 900, "total": 1000, "remaining_s": None}
    time.sleep(0.2)
    job.progress(950, 1000)
    fields = recorder.events[-1][1]
    # As many are left as were done since: not a nineteenth of the time.
    assert fields["remaining_s"] == pytest.approx(fields["elapsed_s"], rel=0.05)
