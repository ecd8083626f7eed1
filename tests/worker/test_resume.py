"""A stopped run is never taken for a whole one, and goes on when asked to."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.talk import EngineClient, Event, answer, box_around, fields, heatmap, wait
from tonno_core.protocol import ProtocolError
from tonno_core.reconstruction import passes
from tonno_core.reporting import Cancelled
from tonno_core.volume.volume import Volume
from tonno_core.worker import answer as answer_module
from tonno_core.worker.failures import NotKept, StoppedEarly, failure_of
from tonno_core.worker.job import Job
from tonno_core.worker.session import Session

# More directions of 16 slices than the 1152 slices of 32 x 32 pixels that a CPU takes at once.
LONG = {"slices": 14, "directions": 200, "methods": ["tonno", "matched-cam"]}


def test_a_stopped_run_goes_on_to_what_it_had_been(client: EngineClient, volume: Volume, bundle: Path) -> None:
    whole = answer(client, client.submit("reconstruct", **fields(client, volume, bundle, options=LONG)))
    assert (whole["directions"], whole["planned"], whole["stopped"]) == (200, 200, False)
    identifier = client.submit("reconstruct", **fields(client, volume, bundle, options=LONG))
    client.stop(identifier)
    stopped = answer(client, identifier)
    assert (stopped["stopped"], stopped["planned"], stopped["run"]) == (True, 200, identifier)
    done = stopped["directions"]
    assert 0 < done < 200
    cam = stopped["heatmaps"]["matched-cam"]
    assert (cam["directions"], cam["planned"]) == (done, 200)

    for options in ({}, {"methods": ["averaged-cam"]}):
        error = answer(client, client.submit("refine", options=options, folder=str(client.newFolder())))
        assert (error["type"], error["kind"]) == ("error", "not-kept")
        assert error["message"] == f"the last run was stopped at {done} of 200 directions"
        assert (error["directions"], error["planned"]) == (done, 200)
        assert "Resume" in error["next"]

    resumed = client.submit("resume", run=identifier, preview=True, folder=str(client.newFolder()))
    events = wait(client, lambda e: e["id"] == resumed and e["type"] in ("result", "error"))
    result = events[-1]
    assert result["type"] == "result", result
    for name in ("stopped", "directions", "planned", "slices", "score", "explained", "profiles", "settings"):
        assert result[name] == whole[name], name
    for method in LONG["methods"]:  # type: ignore[attr-defined]
        # The same batches of the same slices: to the last bit.
        np.testing.assert_array_equal(heatmap(result, method), heatmap(whole, method), method)
    counted = [e for e in events if e.get("step") == "reconstructing"]
    assert counted[0]["done"] == (3 + done) * 16  # from where it was
    assert {e["total"] for e in counted} == {(3 + 200) * 16}
    assert counted[0]["remaining_s"] is None
    # Now it can be refined, and there is nothing left to go on with.
    refined = answer(client, client.submit("refine", run=identifier, options={}, folder=str(client.newFolder())))
    again = answer(client, client.submit("resume", run=identifier, folder=str(client.newFolder())))
    for other in (refined, again):
        assert (other["type"], other["stopped"], other["run"]) == ("result", False, identifier)
        np.testing.assert_array_equal(heatmap(other, "tonno"), heatmap(whole, "tonno"))


def test_nothing_is_resumed_where_nothing_is_kept(client: EngineClient, volume: Volume) -> None:
    failed = client.submit("reconstruct", **fields(client, volume, "pixel-sum", options={**LONG, "stage": 99}))
    answer(client, failed)
    error = answer(client, client.submit("resume", folder=str(client.newFolder())))
    assert (error["type"], error["kind"]) == ("error", "not-kept")
    assert "directions" not in error


# --- in this process: a stop, a cancel or a failure at a moment that is known


class Desk:
    """An engine in this process, that is asked one thing after another, in batches of two directions."""

    def __init__(self, folder: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch, model: str | Path) -> None:
        self._session, self._folder, self._model, self._asked = Session(), folder, str(model), 0
        self._matrix = volume.ijk_to_ras.tolist()
        np.save(folder / "volume.npy", volume.array)
        # Slices of the encoder's input size, 32 pixels, of which 2 x 16 are then a batch.
        monkeypatch.setattr(passes, "CPU_BATCH", 32 * 32**2 / 96**2)

    def ask(self, kind: str, *, at: Callable[[Job, Event], None] = lambda job, event: None, **content: Any) -> Event:
        """The result. at: gets the job and each of its events."""
        self._asked += 1
        folder = self._folder / str(self._asked)
        folder.mkdir()
        events: list[Event] = []

        def send(kind: str, identifier: int, /, **said: Any) -> None:
            events.append({"type": kind, "id": identifier, **said})
            at(job, events[-1])

        job = Job(self._asked, {"type": kind, "folder": str(folder), **content}, send)
        self._session.compute(job)
        return events[-1]

    def reconstruct(self, *, stop_at: int, **content: Any) -> Event:
        """Of 24 directions of 14 offsets, stopped at the first preview of so many."""
        options = {"slices": 14, "directions": 24, **content.pop("options", {})}
        asked = {"array": str(self._folder / "volume.npy"), "ijk_to_ras": self._matrix}
        common = {"volume": asked, "model": self._model, "device": "cpu", "precision": "float32", "preview": True}
        return self.ask("reconstruct", at=stop(stop_at), **{**common, "options": options, **content})


def stop(directions: int) -> Callable[[Job, Event], None]:
    """When a preview of so many directions, or more, comes."""

    def at(job: Job, event: Event) -> None:
        if event["type"] == "preview" and event["directions"] >= directions:
            job.stop()

    return at


def cancel(job: Job, event: Event) -> None:
    """When the first preview comes."""
    if event["type"] == "preview":
        job.cancel()


@pytest.fixture
def desk(tmp_path: Path, volume: Volume, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    # Previews are for the eyes: here they tell when to stop, however long they take.
    monkeypatch.setattr(passes, "_PREVIEW_TIME", 1e9)
    return Desk(tmp_path, volume, monkeypatch, bundle)


TWO_PASSES = {"methods": ["tonno", "matched-cam"], "cam_directions": 16}


def test_a_resume_may_be_stopped_and_cancelled_and_says_how_far_it_is(desk: Desk) -> None:
    whole = desk.reconstruct(stop_at=1000, options=TWO_PASSES)
    stopped = desk.reconstruct(stop_at=4, options=TWO_PASSES)
    assert (stopped["directions"], stopped["planned"], list(stopped["heatmaps"])) == (4, 24, ["tonno"])
    assert stopped["warnings"] == ["ended before matched-cam could be made"]
    with pytest.raises(Cancelled):
        desk.ask("resume", preview=True, at=cancel)
    # It is as far as it came: the batch before the preview is in it.
    with pytest.raises(StoppedEarly, match="stopped at 6 of 24 directions"):
        desk.ask("refine", options={})
    second = desk.ask("resume", preview=True, at=lambda job, event: job.stop() if event.get("of") == 16 else None)
    assert (second["stopped"], second["directions"], second["planned"]) == (True, 4, 16)
    extents = {method: (made["directions"], made["planned"]) for method, made in second["heatmaps"].items()}
    assert extents == {"tonno": (24, 24), "matched-cam": (4, 16)}
    with pytest.raises(StoppedEarly, match="stopped at 4 of 16 directions"):
        desk.ask("refine", options={"methods": ["tonno"]})
    last = desk.ask("resume")
    assert (last["stopped"], last["directions"], last["planned"], last["warnings"]) == (False, 24, 24, [])
    assert last["slices"] == whole["slices"]
    for method in ("tonno", "matched-cam"):
        np.testing.assert_array_equal(heatmap(last, method), heatmap(whole, method), method)


def test_a_resume_may_change_what_a_refinement_may(desk: Desk) -> None:
    changes = {"methods": ["averaged-cam", "matched-cam"], "filter": "gaussian", "sigma_scale": 2.5, "smooth_mm": 3.0}
    roi = box_around([2, -8, 5], [9, 7, 8])
    desk.reconstruct(stop_at=1000)
    expected = desk.ask("refine", options=changes, roi=roi)
    desk.reconstruct(stop_at=4)
    for wrong, words in (
        ({"options": {"stage": 2}}, "matched-cam with these settings"),
        ({"options": {"directions": 30}}, "another directions needs a new run"),
        ({"zoom": True}, "was made without zoom"),
        ({"run": 1}, "another reconstruction is kept"),
    ):
        with pytest.raises(NotKept, match=words):
            desk.ask("resume", **wrong)
    shown: list[list[str]] = []

    def look(job: Job, event: Event) -> None:
        if event["type"] == "preview":
            shown.append(list(event["heatmaps"]))

    found = desk.ask("resume", preview=True, options=changes, roi=roi, at=look)
    assert shown[0] == changes["methods"]
    assert not found["stopped"]
    np.testing.assert_array_equal(np.load(found["inside"]), np.load(expected["inside"]))
    for method in changes["methods"]:
        np.testing.assert_array_equal(heatmap(found, method), heatmap(expected, method), method)


def test_a_resume_that_fails_leaves_nothing_half_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.reconstruct(stop_at=4)
    with monkeypatch.context() as context:
        context.setattr(
            "tonno_core.tomography.inversion.Inverter.add", lambda *_: (_ for _ in ()).throw(RuntimeError("broken"))
        )
        with pytest.raises(RuntimeError, match="broken"):
            desk.ask("resume")
    with pytest.raises(NotKept, match="no reconstruction is kept"):
        desk.ask("resume")


@pytest.mark.parametrize("how", ["the disk is full", "it is cancelled"])
def test_a_run_without_an_answer_is_not_the_last_one(
    desk: Desk, volume: Volume, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Else a client that refines the run before, perhaps another patient's, would get this one."""
    with monkeypatch.context() as context:

        def write(path: Path, array: np.ndarray, job: Job) -> str:
            if how == "it is cancelled":
                job.cancel()
                return str(path)
            raise OSError(errno.ENOSPC, "No space left on device")

        context.setattr(answer_module, "write_array", write)
        context.setattr("tonno_core.worker.answer.write_array", write)
        with suppress(OSError):
            desk.reconstruct(stop_at=1000, preview=False)
    with pytest.raises(NotKept, match="no reconstruction is kept"):
        desk.ask("refine", options={})


def test_an_error_says_how_far_a_run_came_only_where_it_can_be_resumed() -> None:
    kept = failure_of(StoppedEarly(15, 48)).fields()
    assert kept == {**kept, "kind": "not-kept", "directions": 15, "planned": 48}
    for error in (NotKept("other"), ProtocolError("other")):
        assert set(failure_of(error).fields()) == {"kind", "message", "next"}
