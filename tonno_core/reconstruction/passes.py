"""The passes over a reconstruction's planes: begun, watched, stopped early, gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch

from tonno_core.distributed import ALONE, Processes
from tonno_core.reconstruction.projected import Projected
from tonno_core.reporting import Reporter
from tonno_core.settings import Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource
from tonno_core.tomography.inversion import Inverter, average
from tonno_core.tomography.projection import BatchSize, Maps, Projector

# Slices of 96 x 96 pixels in one batch of the encoder; larger slices, fewer of them. On a GPU the most: 2048 have work
# for each of its units many times over, and its free memory may hold fewer (`encoding.memory`).
CPU_BATCH, GPU_BATCH = 128, 2048
# The first preview is of so many directions, at least, and of this share of all.
_FIRST_PREVIEW, _PREVIEW_SHARE = 4, 1 / 32
# Of the time so far, what previews may take.
_PREVIEW_TIME = 0.2


class _Stopped(Exception):
    """The caller wants what is there."""


class Passes:
    """Shows the encoder the planes that are left of a reconstruction, one pass after the other.

    Its state is in the classes' `Projected`, which agree after every batch of directions: who stops or cancels `run`
    can go on with them in other passes.
    """

    def __init__(
        self,
        classes: Sequence[Projected],
        source: SliceSource,
        *,
        reporter: Reporter,
        shown: Mapping[str, Variant],
        batch_size: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """Prepare the passes.

        Args:
            classes: Of one reconstruction, all of which get their outputs from one pass of the encoder.
            source: The prepared volume.
            reporter: Is told how far it is, and may end it.
            shown: The first class's variants of which previews are made.
            batch_size: Slices at once, None for the device's own.
            processes: That share the directions.
        """
        self._classes, self._source = classes, source
        self._reporter, self._shown, self._processes = reporter, shown, processes
        self._first = classes[0]
        self._planes = self._first.planes
        run = self._planes.run
        standard = GPU_BATCH if run.device.type == "cuda" else CPU_BATCH
        self._batch = BatchSize(batch_size or max(4, round(standard * (96 / run.pixels) ** 2)), fit=batch_size is None)
        self._done, self._total = self._first.planes_done
        self._previews = Previews(every=reporter.every_preview)

    def run(self) -> None:
        """Look at all that is left; ends after a batch of directions where the caller wants what is there.

        The planes of a few directions are the first process's alone.
        """
        if self._processes.first and self._first.axes is None:
            self._axes()
        with suppress(_Stopped):
            for inverters in zip(*(each.left for each in self._classes), strict=True):
                self._tomographic(inverters)
        if self._processes.first:
            for method in self._first.slicewise_left:
                with self._reporter.timings.measure(method):
                    self._slicewise(method)

    def _axes(self) -> None:
        """The logits along R, A and S: one direction each."""
        plan = self._planes.axes()
        projector = self._projector([()] * len(self._classes), self._reporter.untimed())
        with self._reporter.timings.measure("profiles"):
            batches = list(projector.project(plan, advanced=self._advanced(plan)))
        self._count(projector)
        for each in self._classes:
            each.axes = plan, torch.cat([batch[each.target.output].logits for batch in batches])

    def _tomographic(self, inverters: Sequence[Inverter]) -> None:
        """What is left of one number of directions. inverters: by class."""
        plan, start = inverters[0].plan, inverters[0].directions
        watched = replace(self._reporter, check=self._check)
        projector = self._projector([_stages(each.variants) for each in inverters], watched)
        self._previews.begin(len(plan.directions))
        try:
            for batch in projector.project(plan, start=start, advanced=self._advanced(plan, start)):
                for each, inverter in zip(self._classes, inverters, strict=True):
                    inverter.add(batch[each.target.output], self._reporter.timings)
                self._preview(inverters[0].directions)
        finally:
            self._count(projector)

    def _slicewise(self, method: str) -> None:
        plan = self._planes.slicewise(method)
        grid = self._planes.grid(plan)
        of_method = [[v for v in each.target.variants.values() if v.method == method] for each in self._classes]
        stages = [_stages(parts_of(variants)) for variants in of_method]
        projector = self._projector(stages, self._reporter.untimed())
        batches = list(projector.project(plan, advanced=self._advanced(plan)))
        self._count(projector)
        for each, some in zip(self._classes, stages, strict=True):
            means = average((batch[each.target.output] for batch in batches), plan, grid, some)
            each.slicewise.update({Variant(method, (stage,)): (values, grid) for stage, values in means.items()})

    # --- what they share

    def _check(self) -> None:
        self._reporter.check()
        if self._reporter.stopped() and self._first.begun:
            raise _Stopped

    def _preview(self, directions: int) -> None:
        if self._reporter.preview is not None and self._previews.due(directions):
            with self._previews.measured(), self._reporter.timings.measure("previews"):
                watched = replace(self._reporter, check=self._check)
                self._reporter.preview(self._first.preview(self._shown, watched))

    def _projector(self, stages: Sequence[tuple[int, ...]], reporter: Reporter) -> Projector:
        """Return a projector. stages: by class, those of which maps are needed."""
        by_output = {each.target.output: some for each, some in zip(self._classes, stages, strict=True)}
        run = self._planes.run
        return Projector(self._first.encoder, self._source, Maps(by_output, run.asked.cam), self._batch, reporter)

    def _advanced(self, plan: SlicePlan, position: int = 0) -> Callable[[int], None]:
        def advanced(directions: int) -> None:
            nonlocal position
            self._done += int(plan.counts[position : position + directions].sum())
            position += directions
            self._reporter.progress(self._done, self._total)

        return advanced

    def _count(self, projector: Projector) -> None:
        for each in self._classes:
            each.slices_total += projector.slices_total
            each.slices_blank += projector.slices_blank
        self._batch = replace(self._batch, most=projector.batch_size)  # fewer, where the device has memory for fewer


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
        self._next = max(_FIRST_PREVIEW, round(directions * _PREVIEW_SHARE))

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
