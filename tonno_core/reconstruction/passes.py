"""The passes over a reconstruction's planes: begun, watched, stopped early, gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch

from tonno_core.control import Control
from tonno_core.distributed import ALONE, Processes
from tonno_core.reconstruction.projected import Projected
from tonno_core.settings import Variant, stages_of
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource
from tonno_core.timing import Timings
from tonno_core.tomography.inversion import Inverter, average
from tonno_core.tomography.projection import Projector

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
        control: Control,
        timings: Timings,
        shown: Mapping[str, Variant],
        batch_size: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """classes: of one reconstruction, all of which get their answers from one pass of the encoder.

        shown: the first class's variants of which previews are made. batch_size: None for the device's own.
        """
        self._classes, self._source = classes, source
        self._control, self._timings = control, timings
        self._shown, self._processes = shown, processes
        self._first = classes[0]
        self._planes, self._ready = self._first.planes, self._first.ready
        self._indices = [self._ready.encoder.classes.index(each.class_name) for each in classes]
        standard = GPU_BATCH if self._ready.device.type == "cuda" else CPU_BATCH
        self._fit = batch_size is None
        self._batch_size = batch_size or max(4, round(standard * (96 / self._planes.pixels) ** 2))
        self._done, self._total = self._first.planes_done
        self._previews = Previews(every=control.every_preview)

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
                with self._timings.measure(method):
                    self._slicewise(method)

    def _axes(self) -> None:
        """The logits along R, A and S: one direction each."""
        plan = self._planes.axes()
        projector = self._projector([()] * len(self._classes), Timings(), self._control.check)
        with self._timings.measure("profiles"):
            batches = list(projector.project(plan, advanced=self._advanced(plan)))
        self._count(projector)
        for index, each in zip(self._indices, self._classes, strict=True):
            each.axes = plan, torch.cat([batch[index].logits for batch in batches])

    def _tomographic(self, inverters: Sequence[Inverter]) -> None:
        """What is left of one number of directions. inverters: by class."""
        plan, start = inverters[0].plan, inverters[0].directions
        projector = self._projector([_stages(each.variants) for each in inverters], self._timings, self._check)
        self._previews.begin(len(plan.directions))
        try:
            for batch in projector.project(plan, start=start, advanced=self._advanced(plan, start)):
                for index, inverter in zip(self._indices, inverters, strict=True):
                    inverter.add(batch[index], self._timings)
                self._preview(inverters[0].directions)
        finally:
            self._count(projector)

    def _slicewise(self, method: str) -> None:
        plan = self._planes.slicewise(method)
        grid = self._planes.grid(plan)
        of_method = [[v for v in each.variants.values() if v.method == method] for each in self._classes]
        stages = [_stages(parts_of(variants)) for variants in of_method]
        projector = self._projector(stages, Timings(), self._control.check)
        batches = list(projector.project(plan, advanced=self._advanced(plan)))
        self._count(projector)
        for index, each, some in zip(self._indices, self._classes, stages, strict=True):
            means = average((batch[index] for batch in batches), plan, grid, some)
            each.slicewise.update({Variant(method, stage): (values, grid) for stage, values in means.items()})

    # --- what they share

    def _check(self) -> None:
        self._control.check()
        if self._control.stopped() and self._first.begun:
            raise _Stopped

    def _preview(self, directions: int) -> None:
        if self._control.preview is not None and self._previews.due(directions):
            with self._previews.measured(), self._timings.measure("previews"):
                self._control.preview(self._first.preview(self._shown, self._timings, self._check))

    def _projector(self, stages: Sequence[tuple[int, ...]], timings: Timings, check: Callable[[], None]) -> Projector:
        return Projector(
            self._ready.encoder,
            self._source,
            dict(zip(self._indices, stages, strict=True)),
            self._planes.settings.cam,
            batch_size=self._batch_size,
            timings=timings,
            check=check,
            fit=self._fit,
        )

    def _advanced(self, plan: SlicePlan, position: int = 0) -> Callable[[int], None]:
        def advanced(directions: int) -> None:
            nonlocal position
            self._done += int(plan.counts[position : position + directions].sum())
            position += directions
            self._control.progress(self._done, self._total)

        return advanced

    def _count(self, projector: Projector) -> None:
        for each in self._classes:
            each.slices_total += projector.slices_total
            each.slices_blank += projector.slices_blank
        self._batch_size = projector.batch_size  # smaller, where the device has memory for fewer


class Previews:
    """When the next preview is due. every: also where previews have cost too much."""

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self._started = time.perf_counter()
        self._spent = 0.0
        self._next = self._all = 0

    def begin(self, directions: int) -> None:
        """A plan of so many directions begins, or goes on."""
        self._all = directions
        self._next = max(_FIRST_PREVIEW, round(directions * _PREVIEW_SHARE))

    def due(self, done: int) -> bool:
        """Whether to show the first ``done``; no longer when all are done, or where previews have cost too much."""
        if done < self._next or done >= self._all:
            return False
        if not self._every and self._spent > _PREVIEW_TIME * (time.perf_counter() - self._started):
            return False
        self._next = 2 * done
        return True

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around the making of a preview."""
        start = time.perf_counter()
        yield
        self._spent += time.perf_counter() - start


def parts_of(variants: Iterable[Variant]) -> list[Variant]:
    """The raw variants of single stages of which some are made, each once."""
    return list(dict.fromkeys(part for variant in variants for part in variant.raw().parts()))


def _stages(variants: Iterable[Variant]) -> tuple[int, ...]:
    """The stages whose maps some variants of single stages need, each once, finest first."""
    return tuple(sorted({stage for variant in variants for stage in stages_of(variant.stage)}))
