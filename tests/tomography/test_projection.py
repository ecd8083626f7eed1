"""Encoders over all planes: what is computed, what is skipped, and what happens when memory runs out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from tests.analytic import Blobs, grid_around, make_blobs
from tests.device import ToyMemory
from tonno_core.encoding.encoder import ClassMaps, PixelSum, check_finite
from tonno_core.errors import TonnoError
from tonno_core.reporting import Reporter
from tonno_core.settings import CamKind
from tonno_core.slicing.directions import sphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceCutter, SliceSource, sample_slices
from tonno_core.tomography import pace, projection
from tonno_core.tomography.projection import BatchSize, Maps, Projections, Projector
from tonno_core.volume.volume import Volume

CAM = {0: (1,)}
# A blob in the middle of a ball of 32 mm, in a volume of 20 mm: the outer slices are blank.
BLOB = Blobs(np.array([[1.0, 2.0, -1.0]]), np.array([4.0]), np.array([1.0]))
VOLUME = BLOB.on_grid((20, 20, 20), grid_around((0, 0, 0), (20, 20, 20), (1, 1, 1), turn_degrees=(10, 20, 30)))
PLAN = SlicePlan(physical_frame([0, 0, 0], 32.0), sphere(5), slices=14, pixels=16)


@dataclass
class Counting:
    """Two logits and maps that are not zero for a blank slice; out of memory above ``limit`` slices."""

    limit: int = 10**9
    failure: Exception = field(default_factory=lambda: torch.OutOfMemoryError("CUDA out of memory"))
    batches: list[int] = field(default_factory=list)
    classes: tuple[str, ...] = ("mean", "square")
    stages: int = 1

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(slices))
        if len(slices) > self.limit:
            raise self.failure
        return torch.stack([slices.mean((1, 2)) + 5.0, (slices**2).mean((1, 2)) - 3.0], dim=1)

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind
    ) -> tuple[torch.Tensor, ClassMaps]:
        def of(index: int, stage: int) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(slices[:, None] ** (index + 1), 2 << stage)[:, 0] + 7.0

        return self.logits(slices), {key: of(*key) for key in asked}


def only(batch: dict[int, Projections]) -> Projections:
    """The answers about the one class that was asked about."""
    (answers,) = batch.values()
    return answers


def gather(projector: Projector, plan: SlicePlan = PLAN) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    return joined([only(batch) for batch in projector.project(plan)])


def joined(parts: list[Projections]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Logits and maps of all directions."""
    maps = {stage: torch.cat([one.maps[stage] for one in parts]) for stage in parts[0].maps}
    return torch.cat([one.logits for one in parts]), maps


@pytest.mark.parametrize("fill", [0.0, -0.25])
@pytest.mark.parametrize("class_index", [0, 1])
def test_blank_slices_get_the_answer_they_would_have_got(fill: float, class_index: int) -> None:
    source = SliceSource.from_volume(VOLUME, fills=(fill,))
    encoder = Counting()
    projector = Projector(encoder, source, Maps({class_index: (1, 2)}))
    logits, maps = gather(projector)
    slices = sample_slices(source, PLAN, slice(None))
    asked = [(class_index, 1), (class_index, 2)]
    expected_logits, expected_maps = Counting().cam(slices, asked, "layercam")
    torch.testing.assert_close(logits, expected_logits[:, class_index].reshape(5, 16), rtol=0, atol=1e-6)
    assert list(maps) == [1, 2]
    torch.testing.assert_close(maps[1], expected_maps[class_index, 1].reshape(5, 16, 4, 4), rtol=0, atol=1e-6)
    torch.testing.assert_close(maps[2], expected_maps[class_index, 2].reshape(5, 16, 2, 2), rtol=0, atol=1e-6)
    # The volume's corner is 17 mm from the centre; of offsets every 4.9 mm from -37 to 37 mm at most 8 meet it.
    blank = int((slices == fill).flatten(1).all(dim=1).sum())
    assert blank >= 5 * 8
    assert (projector.slices_total, projector.slices_blank) == (80, blank)
    assert sum(encoder.batches) == 80 - blank + 1  # one blank slice stands for all


def test_blank_slices_between_two_that_show_something() -> None:
    """They are cut with the others, but not looked at; each class has its own answer for them."""
    array = np.zeros((20, 20, 20), dtype=np.float32)
    array[[2, 17]] = 1.0
    source = SliceSource.from_volume(Volume(array, grid_around((0, 0, 0), array.shape, (1, 1, 1))))
    plan = SlicePlan(physical_frame([0, 0, 0], 12.0), np.eye(3), slices=14, pixels=16)
    encoder = Counting()
    batches = list(Projector(encoder, source, Maps({0: (1,), 1: (1,)})).project(plan))
    expected_logits, expected_maps = Counting().cam(
        sample_slices(source, plan, slice(None)), [(0, 1), (1, 1)], "layercam"
    )
    for index in (0, 1):
        logits, maps = joined([batch[index] for batch in batches])
        torch.testing.assert_close(logits, expected_logits[:, index].reshape(3, 16), rtol=0, atol=1e-6)
        torch.testing.assert_close(maps[1], expected_maps[index, 1].reshape(3, 16, 4, 4), rtol=0, atol=1e-6)
    assert sum(encoder.batches) - 1 < SliceCutter(source, plan).counts.sum()


def test_batches_are_even_and_of_two_directions_at_least() -> None:
    source, encoder = SliceSource.from_volume(VOLUME), Counting()
    Projector(encoder, source, Maps({0: ()}), BatchSize(4))._encode(torch.rand(10, 16, 16))
    assert encoder.batches == [4, 3, 3]
    for size, expected in ((2, [2, 2, 1]), (1, [1] * 5)):
        parts = [only(batch).which for batch in Projector(Counting(), source, Maps(CAM), BatchSize(size)).project(PLAN)]
        assert [which.stop - which.start for which in parts] == expected


def test_a_wholly_blank_batch_is_answered_too() -> None:
    empty = SliceSource.from_volume(VOLUME.with_array(np.zeros_like(VOLUME.array)))
    encoder = Counting()
    logits, maps = gather(Projector(encoder, empty, Maps(CAM)))
    assert (logits == 5.0).all()
    assert (maps[1] == 7.0).all()
    assert encoder.batches == [1]


def test_without_a_request_there_are_no_maps() -> None:
    logits, maps = gather(Projector(Counting(), SliceSource.from_volume(VOLUME), Maps({1: ()})))
    assert maps == {}
    assert logits.shape == (5, 16)


def test_two_classes_share_each_pass_of_the_encoder() -> None:
    source = SliceSource.from_volume(VOLUME)
    alone, together = Counting(), Counting()
    expected = [gather(Projector(alone, source, Maps(stages))) for stages in ({1: (1, 2)}, {0: ()})]
    batches = list(Projector(together, source, Maps({1: (1, 2), 0: ()})).project(PLAN))
    for index, one_class in zip((1, 0), expected, strict=True):  # the order asked for, maps where they are asked for
        torch.testing.assert_close(joined([batch[index] for batch in batches]), one_class, rtol=0, atol=0)
    assert len(together.batches) * 2 == len(alone.batches)


@pytest.mark.parametrize(("batch_size", "last"), [(16, 6), (40, 5)])
def test_it_goes_on_where_it_was_ended(batch_size: int, last: int) -> None:
    source = SliceSource.from_volume(VOLUME)
    whole = [only(batch) for batch in Projector(Counting(), source, Maps(CAM), BatchSize(batch_size)).project(PLAN)]
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == last:  # in the middle of a batch: it is cut, and its slices are on their way to the encoder
            raise KeyboardInterrupt

    first = Projector(Counting(), source, Maps(CAM), BatchSize(batch_size), reporter=Reporter(check=check))
    parts: list[Projections] = []
    with pytest.raises(KeyboardInterrupt):
        for batch in first.project(PLAN):
            parts.append(only(batch))
    done = parts[-1].which.stop
    assert 0 < done < 5
    rest = Projector(Counting(), source, Maps(CAM), BatchSize(batch_size))
    parts += [only(batch) for batch in rest.project(PLAN, start=done)]
    assert [each.which for each in parts] == [each.which for each in whole]
    torch.testing.assert_close(joined(parts), joined(whole), rtol=0, atol=0)  # the same batches
    assert (first.slices_total, first.slices_total + rest.slices_total) == (16 * done, 80)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 64, 1000])
def test_batches_do_not_change_the_answers(batch_size: int) -> None:
    source = SliceSource.from_volume(VOLUME)
    expected = gather(Projector(Counting(), source, Maps(CAM)))
    encoder = Counting()
    found = gather(Projector(encoder, source, Maps(CAM), BatchSize(batch_size)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert max(encoder.batches) <= batch_size


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_out_of_memory_halves_the_batch_and_goes_on(limit: int) -> None:
    source = SliceSource.from_volume(VOLUME)
    expected = gather(Projector(Counting(), source, Maps(CAM)))
    encoder = Counting(limit=limit)
    projector = Projector(encoder, source, Maps(CAM), BatchSize(32))
    found = gather(projector)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # Halved until it fits, and not tried again at a size that failed.
    assert limit / 2 < projector.batch_size <= limit
    failures = [size for size in encoder.batches if size > limit]
    assert len(failures) == len(set(failures)) <= 5


@pytest.mark.parametrize(
    "failure", [MemoryError(), RuntimeError("[...] DefaultCPUAllocator: can't allocate memory: ...")]
)
def test_a_cpu_without_memory_goes_on_with_less_too(failure: Exception) -> None:
    source = SliceSource.from_volume(VOLUME)
    found = gather(Projector(Counting(limit=5, failure=failure), source, Maps(CAM), BatchSize(32)))
    torch.testing.assert_close(found, gather(Projector(Counting(), source, Maps(CAM))), rtol=0, atol=1e-6)


def test_another_failure_is_not_taken_for_a_lack_of_memory() -> None:
    encoder = Counting(limit=5, failure=RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        gather(Projector(encoder, SliceSource.from_volume(VOLUME), Maps(CAM), BatchSize(32)))
    assert len([size for size in encoder.batches if size > 5]) == 1  # not tried again


def test_slices_that_do_not_fit_are_cut_in_smaller_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 14
    source = SliceSource.from_volume(VOLUME)
    expected = gather(Projector(Counting(), source, Maps(CAM)))

    cut = SliceCutter.cut

    def scarce(cutter: SliceCutter, which: slice) -> torch.Tensor:
        if cutter.counts[which].sum() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cut(cutter, which)

    monkeypatch.setattr(SliceCutter, "cut", scarce)
    torch.testing.assert_close(gather(Projector(Counting(), source, Maps(CAM), BatchSize(500))), expected)
    most = 1  # not even one direction's
    with pytest.raises(TonnoError, match="no memory left"):
        gather(Projector(Counting(), source, Maps(CAM), BatchSize(500)))


def test_a_check_is_made_before_every_batch_and_may_end_it_all() -> None:
    encoder, checks = Counting(), 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 4:
            raise KeyboardInterrupt

    projector = Projector(
        encoder, SliceSource.from_volume(VOLUME), Maps({0: ()}), BatchSize(4), reporter=Reporter(check=check)
    )
    with pytest.raises(KeyboardInterrupt):
        gather(projector)
    # One is made after slicing; then come the blank slice's, and the batches'.
    assert len(encoder.batches) == 2


def test_where_planes_are_not_needed_stands_the_nearest_answer() -> None:
    source = SliceSource.from_volume(VOLUME)
    needed = np.array([[0, 16], [4, 9], [15, 16], [0, 1], [2, 13]])
    limited = SlicePlan(PLAN.frame_to_ras, PLAN.directions, PLAN.slices, PLAN.pixels, needed)
    logits, maps = gather(Projector(Counting(), source, Maps(CAM)))
    encoder = Counting()
    projector = Projector(encoder, source, Maps(CAM), BatchSize(12))
    found, found_maps = gather(projector, limited)
    assert projector.slices_total == 16 + 5 + 1 + 1 + 11
    for row, (first, stop) in enumerate(needed):
        nearest = np.clip(np.arange(16), first, stop - 1)
        # The same samples from coordinates that were rounded otherwise.
        torch.testing.assert_close(found[row], logits[row, nearest], rtol=0, atol=1e-5)
        torch.testing.assert_close(found_maps[1][row], maps[1][row, nearest], rtol=0, atol=1e-4)


def test_no_memory_for_one_slice_is_said_plainly() -> None:
    projector = Projector(Counting(limit=0), SliceSource.from_volume(VOLUME), Maps(CAM), BatchSize(8))
    with pytest.raises(TonnoError, match="no memory left for a single slice") as caught:
        gather(projector)
    assert "`slice_size`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


# --- ScoreCAM, of which every slice is many passes through the network


@dataclass
class Masking(Counting):
    """Looks at each slice 10 times for maps, ``at_once`` of them together."""

    def passes(self, stages: Collection[int], size: int) -> int:
        return 10

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind, at_once: int = 0
    ) -> tuple[torch.Tensor, ClassMaps]:
        assert kind == "scorecam"
        self.batches.append(min(at_once, 10 * len(slices)))
        if self.batches[-1] > self.limit:
            raise self.failure
        return Counting().cam(slices, asked, "layercam")


@pytest.mark.parametrize("limit", [10**9, 32, 7, 1])
def test_masked_slices_fill_batches_and_are_halved_when_memory_runs_out(limit: int) -> None:
    source, expected = (
        SliceSource.from_volume(VOLUME),
        gather(Projector(Counting(), SliceSource.from_volume(VOLUME), Maps(CAM))),
    )
    encoder, checks = Masking(limit=limit), 0

    def check() -> None:
        nonlocal checks
        checks += 1

    projector = Projector(encoder, source, Maps(CAM, "scorecam"), BatchSize(64), Reporter(check=check))
    torch.testing.assert_close(gather(projector), expected, rtol=0, atol=1e-6)
    assert projector.batch_size <= min(limit, 64)
    assert projector.slices_total == 80
    # All that show something, and the blank one, each ten times; a check before each batch lets a user end it.
    assert projector.passes == 10 * (80 - projector.slices_blank + 1)
    assert checks >= len(encoder.batches)


def test_no_memory_for_a_single_masked_slice_is_said_plainly() -> None:
    projector = Projector(Masking(limit=0), SliceSource.from_volume(VOLUME), Maps(CAM, "scorecam"), BatchSize(8))
    with pytest.raises(TonnoError, match="no memory left for a single slice"):
        gather(projector)


def test_other_maps_and_logits_alone_count_no_passes() -> None:
    for maps in (Maps(CAM), Maps({0: ()}, "scorecam")):
        projector = Projector(Counting(), SliceSource.from_volume(VOLUME), maps)
        gather(projector)
        assert projector.passes == 0


def test_memory_is_measured_by_what_masked_slices_go_through(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Masking()
    memory = ToyMemory(10**9, constant=1000, each=700, batches=encoder.batches)
    monkeypatch.setattr(projection, "memory_of", lambda device: memory)
    maps, source = Maps(CAM, "scorecam"), SliceSource.from_volume(VOLUME)
    projector = Projector(encoder, source, maps, BatchSize(100, fit=True))
    gather(projector)
    assert projector.batch_size == 64
    assert projector.passes == 10 * (80 - projector.slices_blank + 1)  # without those of the measurement


# --- on a GPU, by stand-ins: tests/tomography/test_pace.py has more


@pytest.mark.parametrize(("fit", "spare", "expected"), [(True, 2, 16), (True, -2, 8), (False, 2, 100)])
def test_the_batch_is_what_memory_holds_where_none_was_asked_for(
    fit: bool, spare: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Counting()
    # Two directions are cut in any case, of which 6 slices each can show something: fewer than 16 of 16 x 16 pixels.
    held = 16 * 16 * 16 * 4
    memory = ToyMemory(int((1000 + 16 * 700 + held) / 0.8) + spare, constant=1000, each=700, batches=encoder.batches)
    monkeypatch.setattr(projection, "memory_of", lambda device: memory)
    source = SliceSource.from_volume(VOLUME)
    projector = Projector(encoder, source, Maps(CAM), BatchSize(100, fit=fit))
    found = gather(projector)
    assert (projector.batch_size, memory.peaks) == (expected, 2 * fit)
    torch.testing.assert_close(found, gather(Projector(Counting(), source, Maps(CAM))), rtol=0, atol=1e-6)
    assert projector.slices_total == 80  # those of the measurement are not counted


def test_a_cpu_has_the_batch_that_was_asked_for() -> None:
    encoder = Counting()
    projector = Projector(encoder, SliceSource.from_volume(VOLUME), Maps(CAM), BatchSize(100, fit=True))
    gather(projector)
    assert projector.batch_size == 100
    assert len(encoder.batches) == 2  # the blank slice's, and all others


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fit", [False, True])
def test_a_gpu_gives_what_a_cpu_gives(fit: bool) -> None:
    blobs = make_blobs(3, 5, reach=24.0, sigmas=(4.0, 6.0))
    volume = blobs.on_grid((80, 80, 80), grid_around((0, 0, 0), (80, 80, 80), (0.8, 0.8, 0.8)))
    plan = SlicePlan(physical_frame([0, 0, 0], 32.0), sphere(60), slices=40, pixels=48)
    request = {0: (1, 2)}
    expected = gather(Projector(PixelSum(), SliceSource.from_volume(volume), Maps(request)), plan)
    on_gpu = SliceSource.from_volume(volume, device="cuda:0")
    for _ in range(3):  # memory that is used too early is not so every time
        logits, maps = gather(Projector(PixelSum(), on_gpu, Maps(request), BatchSize(256, fit=fit)), plan)
        # Coordinates in float32 are good to 1e-5 voxels, and the volume's steps are a hundredth of its peak.
        torch.testing.assert_close(logits.cpu(), expected[0], rtol=0, atol=1e-5)
        torch.testing.assert_close({stage: one.cpu() for stage, one in maps.items()}, expected[1], rtol=0, atol=1e-4)


def test_answers_that_are_no_numbers_are_not_given() -> None:
    class Overflowing(Counting):
        def logits(self, slices: torch.Tensor) -> torch.Tensor:
            return super().logits(slices) / (slices.amax((1, 2)) < 0.5)[:, None]

    done = []
    with pytest.raises(TonnoError, match="logits are not finite numbers; try `precision` float32"):
        for one in Projector(Overflowing(), SliceSource.from_volume(VOLUME), Maps(CAM), BatchSize(32)).project(PLAN):
            done.append(one)
    assert not done  # the blob, of height 1, is in the first directions' slices


@pytest.mark.parametrize("behind", [False, True])
def test_directions_come_in_order(behind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pace, projection):
        monkeypatch.setattr(module, "runs_behind", lambda device: behind)
    monkeypatch.setattr(pace, "copied", lambda number: lambda: check_finite(number))
    source = SliceSource.from_volume(VOLUME)
    assert (SliceCutter(source, PLAN).counts == 6).all()  # of 16 slices; the others cannot show anything
    projector = Projector(Counting(), source, Maps({0: ()}), BatchSize(40))
    ranges = [only(batch).which for batch in projector.project(PLAN)]
    # Two stacks of 16 slices fit in 40; a GPU's are filled with those that are cut.
    assert ranges == ([slice(0, 5)] if behind else [slice(0, 2), slice(2, 4), slice(4, 5)])


def test_pixel_sum_is_the_plane_integral() -> None:
    # The mean over S x S pixels of pitch 2 / (S - 1) is the integral over the area (2 S / (S - 1))^2.
    blobs = make_blobs(3, 5, reach=8.0, sigmas=(4.0, 6.0))
    volume = blobs.on_grid((80, 80, 80), grid_around((0, 0, 0), (80, 80, 80), (0.8, 0.8, 0.8)))
    plan = SlicePlan(physical_frame([0, 0, 0], 32.0), sphere(6), slices=9, pixels=40)
    logits, _ = gather(Projector(PixelSum(), SliceSource.from_volume(volume), Maps({0: ()})), plan)
    expected = blobs.plane_integrals(plan.directions, plan.offsets * 32.0) / (2 * 32.0 * 40 / 39) ** 2
    # Trilinear interpolation widens a Gaussian's variance by at most h^2 / 4 (h = 0.8 mm): 1 % at std 4 mm;
    # and the tails beyond the window's edge, 4 std away, are lost.
    np.testing.assert_allclose(logits, expected, atol=0.01 * expected.max())
    # Stages 1 to 4 are pooled to S / 4 ... S / 32 cells, whose mean is the logit.
    for stage, cells in ((1, 8), (2, 4), (3, 2), (4, 1)):
        values, by_key = PixelSum().cam(torch.rand(3, 32, 32), [(0, stage)], "layercam")
        maps = by_key[0, stage]
        assert maps.shape == (3, cells, cells)
        torch.testing.assert_close(maps.mean((1, 2)), values[:, 0])
