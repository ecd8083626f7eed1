"""A reconstruction from inside: what its caller sees, how it ends early, and which planes it begins with."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.analytic import grid_around, make_blobs, slope
from tests.device import ToyMemory
from tests.runs import finished, look_at
from tonno_core.bundle.decide import decide
from tonno_core.bundle.ready import prepare_model
from tonno_core.reconstruction import passes as passes_module
from tonno_core.reconstruction import run as run_module
from tonno_core.reconstruction.planes import Planes
from tonno_core.reporting import Cancelled, Preview, Reporter
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.frame import physical_frame
from tonno_core.tomography import projection

SHAPE = (24, 26, 28)
VOLUME = make_blobs(0, 5, reach=14.0, sigmas=(6.0, 9.0)).on_grid(SHAPE, grid_around((0, 0, 0), SHAPE, (2, 2, 2)))
SETTINGS = ReconstructionSettings(
    methods=("tonno", "matched-cam"), slices=20, directions=64, slice_size=24, stages=(1,)
)
READY = prepare_model("pixel-sum", SETTINGS, "cpu")


@pytest.mark.parametrize("lattice", ["hemisphere", "sphere"])
def test_a_prefix_of_the_directions_is_evenly_spread(lattice: str) -> None:
    settings = ReconstructionSettings(lattice=lattice, directions=256)
    planes = Planes(
        VOLUME, decide(settings, prepare_model("pixel-sum", settings, "cpu")), physical_frame([0, 0, 0], 40.0)
    )
    directions = planes.tomographic(256).directions
    for count in (8, 16, 32, 64, 256):
        # The mean of n n^T is a third of the identity over the sphere; the paper's first 32 lie around a pole.
        moments = np.linalg.eigvalsh(directions[:count].T @ directions[:count] / count)
        np.testing.assert_allclose(moments, 1 / 3, atol=0.12 if count < 32 else 0.05)


def test_previews_share_a_run_and_cost_little_of_it() -> None:
    previews: list[Preview] = []
    look_at(VOLUME, READY, SETTINGS, reporter=Reporter(preview=previews.append), batch_size=44)
    counts = [one.directions for one in previews]
    # Two directions a batch; from four of 64 on, each at least twice the last, none at the very end.
    assert counts[0] == 4
    assert all(2 * one <= other for one, other in itertools.pairwise(counts))
    assert counts[-1] < 64
    assert all(list(one.heatmaps) == ["tonno", "matched-cam"] and one.of == 64 for one in previews)
    last = previews[-1]
    found, truth = last.heatmaps["tonno"].array[last.inside], VOLUME.array[last.inside]
    assert slope(found, truth) == pytest.approx(1.0, abs=0.2)


def test_previews_that_take_long_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(passes_module.time, "perf_counter", lambda: clock)
    previews = passes_module.Previews()
    previews.begin(1000)
    shown = []
    for done in range(2, 1002, 2):
        clock += 1.0  # a batch a second
        if previews.due(done):
            with previews.measured():
                clock += 30.0  # half a minute each
            shown.append(done)
    # The first at once; then only when five times the time spent has gone by: 150 s, 300 s, ...
    assert shown[0] == 4
    assert 2 <= len(shown) <= 4
    assert all(30.0 * (n + 1) <= 0.2 * clock + 30.0 for n in range(len(shown)))


def test_previews_that_decide_about_the_run_begin_at_a_share_of_the_directions() -> None:
    deciding = passes_module.Previews(every=True)
    deciding.begin(1000)
    assert next(done for done in range(1001) if deciding.due(done)) == 31  # one in 32: noisier ones would end it early


def test_previews_that_decide_about_the_run_are_all_made(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the number of directions at which a run ends would depend on how fast the machine is.
    clock = 0.0
    monkeypatch.setattr(passes_module.time, "perf_counter", lambda: clock)
    shown: list[int] = []

    def look(preview: Preview) -> None:
        nonlocal clock
        clock += 1e6
        shown.append(preview.directions)

    look_at(VOLUME, READY, SETTINGS, reporter=Reporter(preview=look, every_preview=True), batch_size=44)
    assert shown == [4, 8, 16, 32]


def test_a_cancel_ends_it_between_batches() -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 20:
            raise Cancelled

    with pytest.raises(Cancelled):
        look_at(VOLUME, READY, SETTINGS, reporter=Reporter(check=check), batch_size=44)
    assert asked == 20


def test_an_early_end_is_a_whole_run_of_fewer_directions() -> None:
    done: list[int] = []
    control = Reporter(progress=lambda so_far, _: done.append(so_far), stopped=lambda: len(done) > 8)
    (projected,) = look_at(VOLUME, READY, SETTINGS, reporter=control, batch_size=44)
    assert projected.stopped
    assert 2 <= projected.directions < 64
    result = finished(projected, SETTINGS)
    assert (result.stopped, result.directions, result.explained) == (True, projected.directions, None)
    # The same as if only these directions had been asked for, which no setting can say: their own mean.
    inverter = projected.inverters[0]
    assert len(inverter.logits) == projected.directions


def test_a_batch_that_was_asked_for_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = ToyMemory(10**9, constant=1000, each=0)
    monkeypatch.setattr(projection, "memory_of", lambda device: memory)
    look_at(VOLUME, READY, SETTINGS, batch_size=44)
    assert memory.peaks == 0
    look_at(VOLUME, READY, SETTINGS)
    assert memory.peaks == 4  # two for the axes' logits, two for the maps


def test_methods_whose_turn_did_not_come_are_not_given() -> None:
    settings = ReconstructionSettings(
        methods=("tonno", "matched-cam"), slices=20, directions=64, cam_directions=32, slice_size=24, stages=(1,)
    )
    done: list[int] = []
    control = Reporter(progress=lambda so_far, _: done.append(so_far), stopped=lambda: len(done) > 8)
    (projected,) = look_at(VOLUME, READY, settings, reporter=control, batch_size=44)
    wanted = projected.target.variants
    assert {name: projected.gives(one) for name, one in wanted.items()} == {"tonno": True, "matched-cam": False}


def test_large_sums_are_kept_only_as_far_as_they_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Variant("matched-cam", (1,))
    others = {"hann": Variant("matched-cam", (1,), "hann"), "averaged": Variant("averaged-cam", (1,)),
              "sigma": Variant("matched-cam", (1,), sigma_scale=2.0)}  # fmt: skip
    for limit, kept in ((1 << 28, True), (1000, False)):
        monkeypatch.setattr(run_module, "_KEPT_NUMBERS", limit)
        (projected,) = look_at(VOLUME, READY, SETTINGS, variants={"asked": asked}, keep=True)
        assert projected.gives(asked)
        assert projected.gives(Variant("tonno", filter="hann"))  # from the logits, always
        assert {name: projected.gives(one) for name, one in others.items()} == dict.fromkeys(others, kept)
