"""How a calibration tells how far it is, by a clock that is moved by hand, and what it keeps."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.toy import toy_scan
from tonno_core.settings import ReconstructionSettings
from tonno_core.training.look import Job, Look, Pace, Watched, amounts, duration
from tonno_core.volume.io import read_volume, write_volume
from tonno_core.volume.volume import Volume

# Of a volume: one reading of 2 s, 100 slices of 0.1 s, 5 heatmaps of 1 s, in one pass.
VOLUME, SECONDS = np.array([1.0, 100.0, 5.0, 1.0]), 2.0 + 10.0 + 5.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def look_at(pace: Pace, clock: Clock) -> list[float]:
    """Look at one volume; return where the bar was after each step, in percent."""
    watched, seen = Watched(pace, VOLUME), []
    pace.begin()
    clock.now += 2.0
    watched.read()
    reporter = watched.reporter(100.0)
    for done in range(1, 11):
        clock.now += 1.0
        reporter.progress(done * 7, 70)  # planes that are seen; some miss the volume
        seen.append(pace._percent)
    for _ in range(5):
        clock.now += 1.0
        watched.heatmaps()
        seen.append(pace._percent)
    pace.end(VOLUME)
    return seen


def test_the_time_is_what_the_first_volume_took_and_the_bar_moves_within_a_volume(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    presets = np.array([2.0, 40.0, 2.0, 0.0])  # 4 + 4 + 2 s
    with Pace(2, presets, show=True) as pace:
        pace.expect(3 * VOLUME)  # by the second class as well
        seen = look_at(pace, clock)
        # Half of the time is the slices', half the heatmaps', until it is known: of 6 volumes and a part.
        expected = 0.5 * (6.4 + 6.4)
        assert seen[0] == pytest.approx(100 * 0.05 / expected)
        assert all(np.diff(seen) > 0)
        assert pace.left == pytest.approx(5 * SECONDS + 10.0)
        assert "calibrating: about 95 s left, as the first volume took" in capsys.readouterr().err
        pace.expect(2 * VOLUME)  # fewer
        assert pace.left == pytest.approx(4 * SECONDS + 10.0)
        pace.passed(VOLUME)
        assert pace.left == pytest.approx(3 * SECONDS + 10.0)
        later = look_at(pace, clock)
        assert all(np.diff(later) >= 0)
        assert later[-1] == pytest.approx(100 * (3 * SECONDS) / (5 * SECONDS + 10.0))
    assert pace._percent == 100.0


def test_set_up_and_passes_of_few_planes_are_not_taken_for_the_cost_of_slices(clock: Clock) -> None:
    """10,000 planes of presets after 80 of the model's own: the time was guessed some 20 times too long."""
    own, preset = np.array([1.0, 80.0, 0.0, 3.0]), np.array([1.0, 10_000.0, 0.0, 2.0])

    def look_at(volume: np.ndarray, passes: list[float], warm_up: float = 0.0) -> None:
        watched = Watched(pace, volume)
        pace.begin()
        watched.read()
        reporter, done = watched.reporter(volume[1]), 0.0
        for slices in passes:
            clock.now += 0.03 + 0.0005 * slices + warm_up
            done, warm_up = done + slices, 0.0
            reporter.progress(int(done), int(sum(passes)))
        pace.end(volume)

    with Pace(1, 3 * preset) as pace:
        pace.expect(3 * own)
        look_at(own, [32, 16, 32], warm_up=1.0)
        look_at(own, [32, 16, 32])
        real = (0.09 + 0.04) + 3 * (0.06 + 5.0)
        assert pace.left == pytest.approx(real, rel=1e-3)
        look_at(own, [32, 16, 32])
        look_at(preset, [2000, 8000])
        assert pace.left == pytest.approx(2 * (0.06 + 5.0), rel=0.01)


def test_durations() -> None:
    assert [duration(seconds) for seconds in (7.4, 119.0, 840.0, 7500.0)] == [
        "about 7 s", "about 119 s", "about 14 min", "about 2 h 5 min",
    ]  # fmt: skip


def test_slices_are_those_of_all_numbers_of_directions_and_of_the_axes() -> None:
    settings = ReconstructionSettings(slices=10, directions=20, cam_directions=6)
    assert amounts(settings, ["tonno", "matched-cam", "averaged-cam"], 7).tolist() == [1, 10 * (20 + 6 + 3), 7, 2]
    assert amounts(settings, ["slicewise-cam", "center"], 2).tolist() == [1, 10 * 6, 2, 1]


def test_what_was_measured_holds_for_its_facts_and_for_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write_volume(toy_scan(0, 0), path)
    look, seen = Look("cpu", progress=False, kept=tmp_path / "kept"), []

    def measure(volume: Volume, watched: Watched) -> dict[str, tuple[float, float]]:
        seen.append(volume)
        return {"peak": (float(volume.array.max()), 1 / 3)}

    def measured_by(facts: dict[str, object]) -> dict[str, tuple[float, float]]:
        (found,) = look.measure([Job(path, facts, np.ones(4), lambda: read_volume(path), measure)])
        return dict(found)

    for facts, times in (({"a": 1}, 1), ({"a": 1}, 1), ({"a": (2,)}, 2), ({"a": [2]}, 2), ({"a": 1}, 2)):
        assert measured_by(facts) == {"peak": [float(seen[0].array.max()), 1 / 3]}
        assert len(seen) == times
    write_volume(toy_scan(1, 1), path)
    assert measured_by({"a": 1})["peak"][0] == seen[-1].array.max() != seen[0].array.max()
