"""What the host does for each batch on a GPU: counted on a CPU, with plain functions in place of the Triton kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.analytic import grid_around, make_blobs
from tests.triton_kernels import needs_triton
from tonno_core.encoding.encoder import PixelSum, check_finite
from tonno_core.errors import TonnoError
from tonno_core.reporting import Timings
from tonno_core.settings import Variant
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource
from tonno_core.tomography import backprojection, pace, projection
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import Inverter
from tonno_core.tomography.projection import BatchSize, Maps, Projector
from tonno_core.volume.grid import ijk_to_grid

pytestmark = needs_triton

# Two blobs with a gap between them: some slices of it show nothing, though they cut the hull of both.
BLOBS = make_blobs(3, 2, reach=9.0, sigmas=(1.0, 1.5))
VOLUME = BLOBS.on_grid((40, 40, 40), grid_around((0, 0, 0), (40, 40, 40), (1, 1, 1), turn_degrees=(10, 20, 30)))
VOLUME = VOLUME.with_array(np.where(VOLUME.array > 0.02, VOLUME.array, 0.0))
SLICES, PIXELS = 24, 16
GRID = TargetGrid((SLICES,) * 3, ijk_to_grid((SLICES,) * 3), 1.1)
VARIANTS = {"tonno": [Variant("tonno")], "both": [Variant("tonno"), Variant("matched-cam", (1,))]}
# Operations that end when the device has done what was asked of it: they read a number, or make a size of one.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_to_copy", "item", "is_nonzero"}


def plan_of(directions: int) -> SlicePlan:
    return SlicePlan(physical_frame([0, 0, 0], 24.0), hemisphere(directions), SLICES, PIXELS)


class Launch:
    """A Triton kernel's stand-in: ``kernel[grid](...)`` calls a plain function, whose own operations do not count."""

    def __init__(self, function: Callable[..., None], counted: Counter[str]) -> None:
        self.function, self.counted = function, counted

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            self.counted["launch"] += 1
            with _disable_current_modes():
                self.function(*arguments)

        return launch


def sample_planes(
    planes: torch.Tensor, volume: torch.Tensor, affines: torch.Tensor, fill: float, z: int, y: int, x: int, *_: int
) -> None:
    """Do what `slicing.kernel._sample_planes` does."""
    along = torch.arange(planes.shape[1]) - (planes.shape[1] - 1) / 2
    row, column = torch.meshgrid(along, along, indexing="ij")
    ijk = torch.stack([column, row, torch.ones_like(row)], dim=-1) @ affines.transpose(1, 2)[:, None]
    points = ijk * (2.0 / (torch.tensor([x, y, z]) - 1.0)) - 1.0
    planes[:] = F.grid_sample(volume[None, None], points[None], align_corners=True)[0, 0] + fill


def add_profiles(
    total: torch.Tensor, profiles: torch.Tensor, steps: torch.Tensor, count: int, offsets: int, *_: float
) -> None:
    """Do what `tomography.kernel._add_profiles` does."""
    k, j, i = torch.meshgrid(*(torch.arange(float(n)) for n in total.shape), indexing="ij")
    for profile, step in zip(profiles, steps, strict=True):
        at = step[0] * i + step[1] * j + step[2] * k + step[3]
        below = at.floor().clamp(0, offsets - 2)
        low, high = profile[below.long()], profile[below.long() + 1]
        total += torch.where((at >= 0) & (at <= offsets - 1), low + (high - low) * (at - below), 0.0)


class Operations(TorchDispatchMode):
    """Counts what is asked of torch, by name."""

    def __init__(self, counted: Counter[str]) -> None:
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class Beside(PixelSum):
    """An encoder whose operations do not count; its answer for a blank slice is not zero."""

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        with _disable_current_modes():
            return super().logits(slices) + 0.5

    def cam(self, slices: torch.Tensor, *asked: Any) -> Any:
        with _disable_current_modes():
            return super().cam(slices, *asked)


class Gpu:
    """The path that CUDA takes, on a CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tonno_core.slicing import kernel as slicing
        from tonno_core.tomography import kernel as tomography

        self.counted: Counter[str] = Counter()
        self.looks = 0
        for module, name, function in (
            (slicing, "_sample_planes", sample_planes),
            (tomography, "_add_profiles", add_profiles),
            (tomography, "_add_maps", lambda *_: None),
        ):
            monkeypatch.setattr(module, name, Launch(function, self.counted))
        for module in (pace, projection):
            monkeypatch.setattr(module, "runs_behind", lambda device: True)
        monkeypatch.setattr(pace, "copied", self.copied)
        kinds = tomography.KernelProfiles, tomography.KernelMaps
        monkeypatch.setattr(backprojection, "_implementations", lambda like: kinds)
        for name in ("item", "tolist", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
            monkeypatch.setattr(torch.Tensor, name, self.waiting(name, getattr(torch.Tensor, name)))
        source = SliceSource.from_volume(VOLUME)
        self.source = replace(source, atlas=None, kernel=slicing.sample_planes)

    def waiting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(*arguments: Any, **options: Any) -> Any:
            self.counted[f"waits: {name}"] += 1
            return original(*arguments, **options)

        return method

    def copied(self, number: torch.Tensor) -> Callable[[], None]:
        def look() -> None:
            self.looks += 1
            before = self.counted.copy()  # it is this that waits, for what was asked long before
            with _disable_current_modes():
                check_finite(number)
            self.counted.clear()
            self.counted.update(before)

        return look

    def run(self, directions: int, kind: str) -> tuple[Inverter, Projector, int, Counter[str]]:
        """An inversion of two directions a batch, the number of its batches, and what was asked for."""
        plan = plan_of(directions)
        stages = tuple(sorted({stage for variant in VARIANTS[kind] for stage in variant.stages}))
        projector = Projector(Beside(), self.source, Maps({0: stages}), BatchSize(1))
        projector.batch_size = 20
        inverter, batches = Inverter(plan, GRID, VARIANTS[kind]), 0
        before = Counter(self.counted)
        with Operations(self.counted):
            for each in projector.project(plan):
                inverter.add(each[0], Timings())
                batches += 1
        return inverter, projector, batches, self.counted - before


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    yield Gpu(monkeypatch)


def per_batch(gpu: Gpu, kind: str) -> Counter[str]:
    """What twice as many batches ask for more, in all, and how many these are under the name "batches"."""
    *_, few, first = gpu.run(48, kind)
    *_, many, second = gpu.run(96, kind)
    assert many - few >= 16
    return Counter({"batches": many - few, **{name: second[name] - first[name] for name in second}})


# Maps have their matrix of the offsets, their places, their answer for what is blank and their launch on top.
@pytest.mark.parametrize(("kind", "most"), [("tonno", 25), ("both", 42)])
def test_a_batch_takes_few_operations_and_no_wait(gpu: Gpu, kind: str, most: int) -> None:
    counted = per_batch(gpu, kind)
    batches = counted.pop("batches")
    waits = {name: count for name, count in counted.items() if count and (name in WAITS or name.startswith("waits"))}
    # A look every few batches ends with a copy, which `copied` has begun: none is begun beside it.
    assert not waits
    assert sum(counted.values()) / batches <= most, counted
    assert counted["launch"] == batches * (2 if kind == "tonno" else 3)


def test_the_host_looks_every_few_batches_and_at_the_end(gpu: Gpu) -> None:
    _, _, batches, _ = gpu.run(60, "tonno")
    assert gpu.looks == -(-batches // pace._BATCHES)


def test_it_gives_what_a_cpu_gives(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    inverter, projector, _, _ = gpu.run(30, "tonno")
    monkeypatch.undo()
    plain = Projector(Beside(), SliceSource.from_volume(VOLUME), Maps({0: ()}), BatchSize(20))
    expected = Inverter(plan_of(30), GRID, VARIANTS["tonno"])
    for each in plain.project(plan_of(30)):
        expected.add(each[0], Timings())
    # float32 positions among 40 voxels, and the kernel's among 24 offsets.
    torch.testing.assert_close(inverter.logits, expected.logits, rtol=0, atol=1e-5)
    found, wanted = (each.heatmap(VARIANTS["tonno"][0]) for each in (inverter, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))
    # Blank slices are known by geometry, or found and given the same answer, to the last bit.
    assert int((inverter.logits == 0.5).sum()) == projector.slices_blank
    # A sample at the very end of a voxel's reach is zero or nearly so.
    assert abs(projector.slices_blank - plain.slices_blank) <= 8
    assert projector.slices_total == plain.slices_total
    known = SLICES + 2 - projection.SliceCutter(gpu.source, plan_of(30)).counts
    assert projector.slices_blank > known.sum() > 0


def test_a_volume_of_nothing_is_answered_without_any_slice(gpu: Gpu) -> None:
    nothing = SliceSource.from_volume(VOLUME.with_array(np.zeros_like(VOLUME.array)))
    projector = Projector(Beside(), replace(nothing, atlas=None, kernel=gpu.source.kernel), Maps({0: (1,)}))
    batches = [each[0] for each in projector.project(plan_of(40))]
    assert len(batches) > 1  # so that it can be cancelled
    assert all(bool((each.logits == 0.5).all()) and bool((each.maps[1] == 0.0).all()) for each in batches)
    assert projector.slices_blank == projector.slices_total == 40 * (SLICES + 2)


@pytest.mark.parametrize("late", [False, True])
def test_what_is_no_number_is_told_before_anything_is_shown(gpu: Gpu, late: bool) -> None:
    class Overflowing(Beside):
        seen = 0

        def logits(self, slices: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            return super().logits(slices) / (self.seen < (40 if late else 3))

    encoder, plan = Overflowing(), plan_of(96)
    projector = Projector(encoder, gpu.source, Maps({0: ()}), BatchSize(20))
    done = 0
    with pytest.raises(TonnoError, match="logits are not finite numbers; try `precision` float32"):
        for _ in projector.project(plan):
            done += 1
    assert done <= (48 if late else 2 * pace._BATCHES)  # the host is at most so far ahead
    # A preview looks itself.
    projector = Projector(Overflowing(), gpu.source, Maps({0: ()}), BatchSize(20))
    batches = projector.project(plan)
    for _ in range(40 if late else 3):
        next(batches)
    with pytest.raises(TonnoError, match="not finite"):
        projector.look()


def test_a_run_that_is_ended_is_looked_at_too(gpu: Gpu) -> None:
    class Overflowing(Beside):
        def logits(self, slices: torch.Tensor) -> torch.Tensor:
            return super().logits(slices) * float("nan")

    batches = Projector(Overflowing(), gpu.source, Maps({0: ()}), BatchSize(20)).project(plan_of(96))
    next(batches)
    with pytest.raises(TonnoError, match="not finite"):  # who stops it shows what is there
        batches.close()


def test_without_a_gpu_each_batch_is_looked_at() -> None:
    looked = pace.Pace(torch.device("cpu"))
    looked.add(torch.ones(3))
    looked.add(torch.full((3,), 3e38))  # their sum is no float32, but they are
    with pytest.raises(TonnoError, match="not finite"):
        looked.add(torch.tensor([1.0, float("inf")]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_numbers_are_looked_at_when_they_are_there() -> None:
    device = torch.device("cuda:0")
    busy, looked = torch.randn(4096, 4096, device=device), pace.Pace(device)
    for _ in range(4 * pace._BATCHES):
        busy = busy @ busy / 4096
        looked.add(busy[0])
    looked.catch_up()
    looked.add(busy[0] / 0.0)
    with pytest.raises(TonnoError, match="not finite"):
        looked.catch_up()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["tonno", "both"])
def test_on_a_gpu_no_batch_is_waited_for(kind: str) -> None:
    plan, device = plan_of(96), torch.device("cuda:0")
    stages = tuple(sorted({stage for variant in VARIANTS[kind] for stage in variant.stages}))
    projector = Projector(PixelSum(), SliceSource.from_volume(VOLUME, device=device), Maps({0: stages}), BatchSize(20))
    inverter = Inverter(plan, GRID, VARIANTS[kind])
    batches = projector.project(plan)
    inverter.add(next(batches)[0], Timings())  # with the copies of the geometry
    torch.cuda.set_sync_debug_mode("error")  # for whatever waits within torch; a look waits for an event
    try:
        for each in batches:
            inverter.add(each[0], Timings())
            if each[0].which.stop >= 80:  # the end looks at all of them
                break
    finally:
        torch.cuda.set_sync_debug_mode("default")
    batches.close()
    assert bool(inverter.logits.isfinite().all())
