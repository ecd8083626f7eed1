"""A reconstruction that was stopped goes on, and is in the end what it had been without the stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.analytic import grid_around, make_blobs
from tests.networks import write_random_bundle
from tests.runs import finished, look_at
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.reconstruction import Reconstruction, resume
from tonno_core.reconstruction.projected import Projected
from tonno_core.reporting import Cancelled, Preview, Reporter
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.region import Region

SHAPE = (24, 26, 28)
VOLUME = make_blobs(0, 5, reach=14.0, sigmas=(6.0, 9.0)).on_grid(SHAPE, grid_around((0, 0, 0), SHAPE, (2, 2, 2)))
SETTINGS = ReconstructionSettings(
    methods=("tonno", "matched-cam"), slices=20, directions=24, slice_size=24, stages=(2,)
)
# ToNNO of 24 directions, then the CAM methods of 16, then slices along S.
SEVERAL = replace(SETTINGS, methods=("tonno", "matched-cam", "averaged-cam", "slicewise-cam"), cam_directions=16)
BOX = np.diag([12.0, 14.0, 13.0, 1.0])
PAIR = 2 * 22  # slices: two directions in a batch


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> ReadyModel:
    """A network of two classes, whose answers to slices one by one are all different."""
    folder = write_random_bundle(tmp_path_factory.mktemp("models") / "two", classes=("first", "none"))
    return prepare_model(load_bundle(folder), SETTINGS, "cpu", "float32")


class Ending:
    """Stops or cancels a run after so many batches of directions, each of which has a preview."""

    def __init__(self, batches: int, *, cancel: bool = False) -> None:
        self._batches, self._cancel = batches, cancel
        self.previews: list[Preview] = []
        self.progress: list[tuple[int, int]] = []
        self._over = False

    def reporter(self, extra: int = 2) -> Reporter:
        """extra: batches before the first direction over the sphere, of the axes."""

        def advanced(done: int, total: int) -> None:
            self.progress.append((done, total))
            self._over = len(self.progress) >= self._batches + extra

        def check() -> None:
            if self._over and self._cancel:
                raise Cancelled

        return Reporter(
            advanced, check, lambda: self._over and not self._cancel, self.previews.append, every_preview=True
        )


def all_finished(classes: Sequence[Projected], settings: ReconstructionSettings) -> list[Reconstruction]:
    return [finished(each, settings) for each in classes]


def same(found: Sequence[Reconstruction], expected: Sequence[Reconstruction]) -> None:
    """To the last bit: the batches were the same, and so was the order of all sums."""
    for one_class, other in zip(found, expected, strict=True):
        assert list(one_class.heatmaps) == list(other.heatmaps)
        for name, heatmap in one_class.heatmaps.items():
            np.testing.assert_array_equal(heatmap.array, other.heatmaps[name].array, name)
        for name in ("score", "explained", "slices_total", "slices_blank", "directions", "planned", "stopped"):
            assert getattr(one_class, name) == getattr(other, name), name


def whole(ready: ReadyModel, settings: ReconstructionSettings, **choices: Any) -> list[Reconstruction]:
    choices = {"keep": True, "batch_size": PAIR, **choices}
    return all_finished(look_at(VOLUME, ready, settings, **choices), settings)


@pytest.mark.parametrize("stops", [(1,), (11,), (3, 2), (2, 0, 1)])
def test_a_resumed_run_is_a_whole_one_to_the_last_bit(ready: ReadyModel, stops: tuple[int, ...]) -> None:
    first, *later = stops
    classes = look_at(VOLUME, ready, SETTINGS, reporter=Ending(first).reporter(), keep=True, batch_size=PAIR)
    (projected,) = classes
    done = 2 * first
    assert (projected.stopped, projected.directions, projected.planned) == (True, done, 24)
    for batches in later:
        ending = Ending(batches)
        control = ending.reporter(extra=0)
        if batches == 0:  # before anything is looked at
            control = replace(control, stopped=lambda: True)
        resume(classes, reporter=control, batch_size=PAIR)
        done += 2 * batches
        assert (projected.stopped, projected.directions) == (True, done)
    resume(classes, batch_size=PAIR)
    assert (projected.stopped, projected.directions, projected.planned) == (False, 24, 24)
    same(all_finished(classes, SETTINGS), whole(ready, SETTINGS))
    resume(classes, batch_size=PAIR)  # nothing is left
    assert projected.slices_total == (3 + 24) * 22


@pytest.mark.parametrize(
    ("batches", "extent", "reach"),
    [
        # In ToNNO's directions: the CAM methods have none yet.
        (5, (10, 24), {"tonno": (10, 24), "slicewise-cam": (0, 0)}),
        # In those of the CAM methods, which are behind it.
        (15, (6, 16), {"tonno": (24, 24), "matched-cam": (6, 16), "averaged-cam": (6, 16), "slicewise-cam": (0, 0)}),
    ],
)
def test_a_stop_in_either_of_two_passes(
    ready: ReadyModel, batches: int, extent: tuple[int, int], reach: dict[str, tuple[int, int]]
) -> None:
    names = ("none", "first")
    ending = Ending(batches)
    classes = look_at(
        VOLUME, ready, SEVERAL, classes=names, reporter=ending.reporter(), keep=True, batch_size=PAIR
    )  # fmt: skip
    for each in classes:
        assert (each.stopped, (each.directions, each.planned)) == (True, extent)
        given = {name: variant for name, variant in each.target.variants.items() if each.gives(variant)}
        assert {name: each.reach(variant) for name, variant in given.items()} == reach
        assert all(each.gives(variant, at_its_end=True) for variant in each.target.variants.values())
    assert all(each.directions <= each.of for each in ending.previews)
    going_on = Ending(1000)
    resume(classes, reporter=going_on.reporter(), batch_size=PAIR)
    assert going_on.previews[0].directions > 0
    # Planes along the axes and slices along S were not looked at again; the count goes on where it was.
    done, total = ending.progress[batches + 1]
    assert going_on.progress[0][0] > done
    assert going_on.progress[0][1] == total
    assert not classes[0].stopped
    same(all_finished(classes, SEVERAL), whole(ready, SEVERAL, classes=names))


def test_tonno_is_made_of_the_directions_of_the_cam_methods_until_it_has_its_own(ready: ReadyModel) -> None:
    settings = replace(SEVERAL, methods=("matched-cam", "tonno"))
    (projected,) = look_at(VOLUME, ready, settings, reporter=Ending(3).reporter(), keep=True, batch_size=PAIR)
    assert (projected.directions, projected.planned) == (6, 16)
    assert {name: projected.reach(variant) for name, variant in projected.target.variants.items()} == {
        "matched-cam": (6, 16),
        "tonno": (6, 24),
    }


@pytest.mark.parametrize(
    "choices",
    [
        {"region": Region(BOX)},
        {"region": Region(BOX), "zoom": True},
        {"settings": replace(SETTINGS, frame="normalized", grid="volume", lattice="sphere", smooth_mm=3.0)},
        {"keep": False},
        {"variants": {"fine": Variant("matched-cam", (1,)), "smooth": Variant("tonno", filter="hann", smooth_mm=4.0)}},
    ],
)
def test_whatever_was_asked_for(ready: ReadyModel, choices: dict[str, Any]) -> None:
    choices = {"settings": SETTINGS, "keep": True, "batch_size": PAIR, **choices}
    classes = look_at(VOLUME, ready, reporter=Ending(4).reporter(), **choices)
    assert classes[0].stopped
    resume(classes, batch_size=PAIR)
    settings = choices.pop("settings")
    same(all_finished(classes, settings), whole(ready, settings, **choices))


def test_batches_of_another_size_make_no_difference_but_rounding(ready: ReadyModel) -> None:
    classes = look_at(VOLUME, ready, SETTINGS, reporter=Ending(4).reporter(), keep=True, batch_size=PAIR)
    resume(classes)
    expected = whole(ready, SETTINGS)[0].heatmaps
    for name, heatmap in all_finished(classes, SETTINGS)[0].heatmaps.items():
        # float32: convolutions of other batches add in another order, which the second derivative magnifies.
        np.testing.assert_allclose(heatmap.array, expected[name].array, atol=1e-4 * np.abs(expected[name].array).max())


def test_a_resumed_run_that_is_cancelled_stays_as_far_as_it_came(ready: ReadyModel) -> None:
    classes = look_at(
        VOLUME, ready, SEVERAL, classes=("first", "none"), reporter=Ending(3).reporter(), keep=True, batch_size=PAIR
    )
    for batches in (1, 10):  # in the first pass, and in the second
        before = classes[0].planes_done[0]
        with pytest.raises(Cancelled):
            resume(classes, reporter=Ending(batches, cancel=True).reporter(extra=0), batch_size=PAIR)
        assert classes[0].planes_done == classes[1].planes_done
        assert classes[0].planes_done[0] == before + batches * PAIR
        assert classes[0].stopped
    resume(classes, batch_size=PAIR)
    same(all_finished(classes, SEVERAL), whole(ready, SEVERAL, classes=("first", "none")))


def test_a_cancel_in_the_middle_of_a_batch_counts_nothing_twice(ready: ReadyModel) -> None:
    classes = look_at(VOLUME, ready, SETTINGS, reporter=Ending(3).reporter(), keep=True, batch_size=PAIR)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:  # the batch is cut, the blank slice's answer there, the others' not
            raise Cancelled

    with pytest.raises(Cancelled):
        resume(classes, reporter=Reporter(check=check), batch_size=PAIR)
    assert classes[0].slices_total == (3 + 6) * 22
    resume(classes, batch_size=PAIR)
    same(all_finished(classes, SETTINGS), whole(ready, SETTINGS))


def test_other_variants_can_be_had_in_the_end_if_what_was_gathered_serves_them(ready: ReadyModel) -> None:
    classes = look_at(VOLUME, ready, SETTINGS, reporter=Ending(3).reporter(), keep=True, batch_size=PAIR)
    (projected,) = classes
    other = {"tonno": Variant("tonno", filter="gaussian"), "cam": Variant("matched-cam", (2,), "hann", sigma_scale=2.0)}
    assert all(projected.gives(variant, at_its_end=True) for variant in other.values())
    assert not projected.gives(Variant("matched-cam", (3,)), at_its_end=True)
    ending = Ending(1000)
    resume(classes, shown=other, reporter=ending.reporter(), batch_size=PAIR)
    assert {name for preview in ending.previews for name in preview.heatmaps} == set(other)
    found = projected.finish(other, SETTINGS, Reporter())
    (expected,) = look_at(VOLUME, ready, SETTINGS, variants=other, batch_size=PAIR)
    for name, heatmap in expected.finish(other, SETTINGS, Reporter()).heatmaps.items():
        # float32: sums of terms that are kept apart, and by other batches (the previews').
        np.testing.assert_allclose(
            found.heatmaps[name].array, heatmap.array, atol=1e-4 * np.abs(heatmap.array).max(), err_msg=name
        )


def test_a_stopped_run_keeps_no_more_than_a_whole_one(ready: ReadyModel) -> None:
    """Neither the volume on the device, nor slices, nor maps: only the logits grow with the directions."""
    (whole_one,) = look_at(VOLUME, ready, SETTINGS, batch_size=PAIR)
    (stopped,) = look_at(VOLUME, ready, SETTINGS, reporter=Ending(2).reporter(), batch_size=PAIR)
    sizes = [sum(each.numel() for each in reachable(kept, stop_at=ready)) for kept in (whole_one, stopped)]
    assert sizes[0] - sizes[1] == (24 - 4) * 22


def reachable(root: object, stop_at: object) -> list[torch.Tensor]:
    """The tensors that an object holds, but for those of another one."""
    seen: dict[int, object] = {id(stop_at): stop_at}
    found: list[torch.Tensor] = []

    def follow(thing: object) -> None:
        if id(thing) in seen:
            return
        seen[id(thing)] = thing
        if isinstance(thing, torch.Tensor):
            found.append(thing)
        elif isinstance(thing, dict):
            for value in thing.values():
                follow(value)
        elif isinstance(thing, (list, tuple)):
            for value in thing:
                follow(value)
        elif hasattr(thing, "__dict__") and not isinstance(thing, type):
            follow(vars(thing))

    follow(root)
    return found
