"""The passes over a reconstruction's planes: begun, watched, stopped early, gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch

from tonno_core.bundle.decide import Run
from tonno_core.distributed import ALONE, Processes
from tonno_core.encoding.encoder import Encoder
from tonno_core.reconstruction.projected import Projected
from tonno_core.reporting import Reporter, Timings
from tonno_core.segmenter.segmenter import Segmenter
from tonno_core.settings import Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource
from tonno_core.tomography.inversion import Inverter, average
from tonno_core.tomography.projection import BatchSize, Maps, Projections, Projector

# Slices of 96 x 96 pixels in one batch of the encoder; larger slices, fewer of them. On a GPU the most, 2048 of 224
# pixels: an H100 gained until there. What a batch may take of its memory mostly says fewer (`encoding.memory`).
CPU_BATCH, GPU_BATCH = 128, 11264
# The first preview is of so many directions; where none is skipped, because they decide, of this share of all at least.
_FIRST_PREVIEW, _PREVIEW_SHARE = 4, 1 / 32
# Share of the time so far that previews may take.
_PREVIEW_TIME = 0.2


# A pass's outputs by class, batch by batch.
_Batches = list[dict[int, Projections]]


class _Stopped(Exception):
    """The caller wants what is there."""


@dataclass(frozen=True)
class _Pass:
    """Planes that are looked at one after the other.

    Attributes:
        plan: The planes.
        stages: By class, those whose maps are needed.
        take: Called with each batch of directions.
        end: Called after the last.
        start: First direction that is left.
        name: By which it is timed as a whole; "" for one over the sphere, whose steps are timed, which is watched by
            previews, and which the caller may stop.
    """

    plan: SlicePlan
    stages: list[tuple[int, ...]]
    take: Callable[[dict[int, Projections]], None]
    end: Callable[[], None] = lambda: None
    start: int = 0
    name: str = ""


def show_planes(
    classes: Sequence[Projected],
    source: SliceSource,
    *,
    reporter: Reporter,
    shown: Mapping[str, Variant],
    batch_size: int | None = None,
    processes: Processes = ALONE,
) -> None:
    """Show the encoder the planes that are left of a reconstruction, one pass after the other.

    The state is in the classes' `Projected`, which agree after every batch of directions: who stops or cancels this can
    go on with them. Where the caller wants what is there, the passes over the sphere end after a batch.

    Args:
        classes: Of one reconstruction, all of which get their outputs from one pass of the encoder.
        source: The prepared volume.
        reporter: Is told how far it is, and may end it.
        shown: The first class's variants of which previews are made.
        batch_size: Slices at once, None for the device's own.
        processes: That share the directions; the planes of a few directions are the first one's alone.
    """
    first = classes[0]
    assert not isinstance(first.encoder, Segmenter)
    run = first.planes.run
    if not first.passes and (cost := cost_of(classes, first.encoder)) is not None:
        reporter.say(cost.text)
    batch = BatchSize(batch_size or standard_batch(run), fit=batch_size is None)
    done, total = first.planes_done
    previews = Previews(every=reporter.every_preview)

    def check() -> None:
        reporter.check()
        if reporter.stopped() and first.begun:
            raise _Stopped

    def advanced(plan: SlicePlan, which: slice) -> None:
        nonlocal done
        done += int(plan.counts[which].sum())
        reporter.progress(done, total)

    watched, stopped = replace(reporter, check=check), False
    for each in _left(classes, processes, reporter.timings):
        over_sphere, ended = not each.name, False
        if over_sphere and stopped:
            continue
        by_output = {kind.target.output: stages for kind, stages in zip(classes, each.stages, strict=True)}
        maps = Maps(by_output, run.asked.cam)
        told = watched if over_sphere else reporter.untimed()
        projector = Projector(first.encoder, source, maps, batch, told, shifts=first.planes.shifts)
        previews.begin(len(each.plan.directions))
        try:
            with nullcontext() if over_sphere else reporter.timings.measure(each.name):
                for projections in projector.project(each.plan, start=each.start):
                    each.take(projections)
                    which = projections[first.target.output].which
                    if over_sphere and reporter.preview is not None and previews.due(which.stop):
                        with previews.measured(), reporter.timings.measure("previews"):
                            projector.look()
                            reporter.preview(first.preview(shown, watched))
                    advanced(each.plan, which)
                each.end()
            ended = True
        except _Stopped:
            stopped = True
        finally:
            for kind in classes if over_sphere or ended else ():  # what was cancelled as a whole is looked at anew
                kind.slices_total += projector.slices_total
                kind.slices_blank += projector.slices_blank
                kind.passes += projector.passes
            batch = replace(batch, most=projector.batch_size)  # fewer, where the device has memory for fewer


def standard_batch(run: Run) -> int:
    """Return how many slices go through the encoder at once, where nobody says otherwise and memory allows.

    Args:
        run: Of which device and slice size count.

    Returns:
        Their number.
    """
    standard = GPU_BATCH if run.device.type == "cuda" else CPU_BATCH
    return max(4, round(standard * (96 / run.pixels) ** 2))


@dataclass(frozen=True)
class Cost:
    """What ScoreCAM's maps cost in passes of single slices through the network.

    Attributes:
        each: Passes for a slice, at most: one as it is, and one for each channel of each stage.
        slices: Of which maps are wanted; blank ones among them are spared.
        passes: Of all of them.
    """

    each: int
    slices: int
    passes: int

    @property
    def text(self) -> str:
        """The cost in a sentence."""
        return (
            f"scorecam: up to {self.passes:,} passes through the network, {self.each} for each of {self.slices:,} "
            "slices; layercam takes one and a gradient"
        )


def cost_of(classes: Sequence[Projected], encoder: Encoder) -> Cost | None:
    """Count the passes through the network that the planes of a reconstruction take.

    Args:
        classes: Of one reconstruction, before any plane was looked at.
        encoder: That answers slices.

    Returns:
        The cost; None where no map takes more than one pass.
    """
    planes = classes[0].planes
    if planes.run.asked.cam != "scorecam":
        return None
    slices = passes = each = 0
    for one in _left(classes, ALONE, Timings()):
        stages = {stage for some in one.stages for stage in some}
        if stages:
            count, looked_at = encoder.passes(stages, planes.run.pixels), int(one.plan.counts.sum())
            each, slices, passes = max(each, count), slices + looked_at, passes + count * looked_at
    return Cost(each, slices, passes) if each > 1 else None


def _left(classes: Sequence[Projected], processes: Processes, timings: Timings) -> Iterator[_Pass]:
    """Yield the passes that are left: along R, A and S; over the sphere, by number of directions; slicewise methods."""
    planes = classes[0].planes
    if processes.first and planes.run.profiles and classes[0].axes is None:
        axes = planes.axes()
        yield _gathered(axes, [()] * len(classes), "profiles", lambda batches: _keep_axes(classes, axes, batches))
    for inverters in zip(*(each.left for each in classes), strict=True):
        yield _Pass(
            inverters[0].plan,
            [_stages(each.variants) for each in inverters],
            partial(_backproject, classes, inverters, timings),
            start=inverters[0].directions,
        )
    for method in classes[0].slicewise_left if processes.first else ():
        of_method = [[v for v in each.target.variants.values() if v.method == method] for each in classes]
        stages = [_stages(parts_of(variants)) for variants in of_method]
        keep = partial(_keep_means, classes, planes.slicewise(method), method, stages)
        yield _gathered(planes.slicewise(method), stages, method, keep)


def _gathered(plan: SlicePlan, stages: list[tuple[int, ...]], name: str, keep: Callable[[_Batches], None]) -> _Pass:
    """Return a pass whose batches are kept together, or not at all."""
    batches: _Batches = []
    return _Pass(plan, stages, batches.append, lambda: keep(batches), name=name)


def _keep_axes(classes: Sequence[Projected], plan: SlicePlan, batches: _Batches) -> None:
    for each in classes:
        each.axes = plan, torch.cat([batch[each.target.output].logits for batch in batches])


def _keep_means(
    classes: Sequence[Projected], plan: SlicePlan, method: str, stages: list[tuple[int, ...]], batches: _Batches
) -> None:
    grid = classes[0].planes.grid(plan)
    for each, some in zip(classes, stages, strict=True):
        means = average((batch[each.target.output] for batch in batches), plan, grid, some)
        each.slicewise.update({Variant(method, (stage,)): (values, grid) for stage, values in means.items()})


def _backproject(
    classes: Sequence[Projected], inverters: Sequence[Inverter], timings: Timings, batch: dict[int, Projections]
) -> None:
    for each, inverter in zip(classes, inverters, strict=True):
        inverter.add(batch[each.target.output], timings)


class Previews:
    """Says when the next preview is due."""

    def __init__(self, *, every: bool = False) -> None:
        """Begin to count.

        Args:
            every: Skip none, also where previews have cost too much.
        """
        self._every = every
        self._started = time.perf_counter()
        self._spent = 0.0
        self._next = self._all = 0

    def begin(self, directions: int) -> None:
        """Begin a plan, or go on with it.

        Args:
            directions: How many it has.
        """
        self._all = directions
        self._next = max(_FIRST_PREVIEW, round(directions * _PREVIEW_SHARE)) if self._every else _FIRST_PREVIEW

    def due(self, done: int) -> bool:
        """Return whether a preview is due; no longer when all are done, or where previews have cost too much.

        Args:
            done: Directions so far.

        Returns:
            Whether to make one.
        """
        if done < self._next or done >= self._all:
            return False
        if not self._every and self._spent > _PREVIEW_TIME * (time.perf_counter() - self._started):
            return False
        self._next = 2 * done
        return True

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the making of a preview.

        Yields:
            Nothing.
        """
        start = time.perf_counter()
        yield
        self._spent += time.perf_counter() - start


def parts_of(variants: Iterable[Variant]) -> list[Variant]:
    """Return the raw variants of single stages of which others are made.

    Args:
        variants: Any.

    Returns:
        Each once.
    """
    return list(dict.fromkeys(part for variant in variants for part in variant.raw().parts()))


def _stages(variants: Iterable[Variant]) -> tuple[int, ...]:
    """Return the stages whose maps some variants of single stages need, each once, finest first."""
    return tuple(sorted({stage for variant in variants for stage in variant.stages}))
