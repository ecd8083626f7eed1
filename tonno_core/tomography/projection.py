"""The encoder's outputs for all planes: p(s, n) and its maps p(s, u, v; n), in batches of directions.

On CUDA a batch is handed to the encoder without waiting for it. Meanwhile the next directions are cut on a stream
beside (`Prefetch`), where blank slices are looked for too; only then the host waits for the encoder, to see that its
logits are numbers. On other devices one comes after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from tonno_core.encoding.encoder import ClassMaps, Encoder, check_finite
from tonno_core.encoding.memory import fitting_batch, memory_of
from tonno_core.errors import TonnoError, is_out_of_memory
from tonno_core.reporting import Reporter
from tonno_core.settings import CamKind
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.tomography.prefetch import Prefetch, Tensors, side_stream


@dataclass(frozen=True)
class Maps:
    """Which activation maps are wanted beside the logits.

    Attributes:
        stages: By the index of each class asked about; none for its logits alone.
        cam: Kind of the maps.
    """

    stages: Mapping[int, tuple[int, ...]]
    cam: CamKind = "layercam"


@dataclass(frozen=True)
class BatchSize:
    """Slices in one batch of the encoder.

    Attributes:
        most: As many, where memory allows.
        fit: Take fewer where a GPU's free memory holds fewer.
    """

    most: int = 128
    fit: bool = False


@dataclass(frozen=True)
class Projections:
    """A class's outputs for some directions. An offset that was not sampled has its nearest neighbor's.

    Attributes:
        which: Range of the plan's directions, B of them.
        logits: ``B T``.
        maps: ``B T h w`` by stage.
    """

    which: slice
    logits: torch.Tensor
    maps: dict[int, torch.Tensor]


# Directions in a batch, where memory allows.
_AT_LEAST = 2

# The encoder's outputs for a batch: logits ``C B`` of the classes asked about, and maps ``B h w``.
_Outputs = tuple[torch.Tensor, ClassMaps]


class Projector:
    """Runs slices through the encoder in batches, skips blank ones, halves the batch when memory runs out."""

    def __init__(
        self,
        encoder: Encoder,
        source: SliceSource,
        maps: Maps,
        batch: BatchSize = BatchSize(),
        reporter: Reporter | None = None,
        *,
        shifts: Sequence[float] = (),
    ) -> None:
        """Prepare a projector.

        Args:
            encoder: Answers slices.
            source: The volume that is sliced.
            maps: What is wanted of which classes.
            batch: How many slices go through the encoder at once.
            reporter: Its check is called between batches of the encoder; what it raises ends the projection.
            shifts: By channel of the encoder's input how far its slice lies along the normal, in frame units; none
                where all channels get the same slice.
        """
        self._encoder = encoder
        self._source, self._shifts = source, tuple(shifts)
        self._stages, self._cam = dict(maps.stages), maps.cam
        self._maps = [(index, stage) for index, stages in maps.stages.items() for stage in stages]
        reporter = reporter or Reporter()
        self._timings, self._check = reporter.timings, reporter.check
        self._fit = batch.fit
        self.batch_size = batch.most
        self.slices_total = 0
        self.slices_blank = 0
        self._blank: dict[int, _Outputs] = {}

    def project(self, plan: SlicePlan, *, start: int = 0) -> Iterator[dict[int, Projections]]:
        """Compute the outputs for a plan's directions in order, a few at a time.

        Args:
            plan: The planes.
            start: The first direction to look at.

        Yields:
            Projections by class index.
        """
        self._fit_batch(plan)
        stop = len(plan.directions)
        with Prefetch(lambda which: self._cut(plan, which), side_stream(self._source.array.device)) as ahead:
            while start < stop:
                try:
                    which, (slices, seen) = ahead.take() or self._cut(plan, self._next(plan, start))
                except (RuntimeError, MemoryError) as error:
                    self._shrink(self.batch_size, error)
                    continue
                self._check()
                with self._timings.measure("encoder"):
                    logits, maps = self._outputs(slices, seen)
                self.slices_total += len(slices)
                self.slices_blank += len(slices) - len(seen)
                del slices, seen
                start = which.stop
                if start < stop:
                    ahead.start(self._next(plan, start))
                with self._timings.measure("encoder"):
                    check_finite(logits)
                yield self._by_class(plan, which, logits, maps)

    def _next(self, plan: SlicePlan, start: int) -> slice:
        """Return as many directions as fill a batch; at least two where memory allows, so that threads share them."""
        filled = int(np.searchsorted(np.cumsum(plan.counts[start:]), self.batch_size, side="right"))
        least = _AT_LEAST if self.batch_size > 1 else 1
        return slice(start, min(start + max(least, filled), len(plan.directions)))

    def _cut(self, plan: SlicePlan, which: slice) -> tuple[slice, Tensors]:
        """Return a range, its slices ``B V U`` or ``B C V U``, and the indices of those that show more than fill."""
        with self._timings.measure("slicing"):
            if self._shifts:
                channels = [sample_slices(self._source, replace(plan, shift=s), which) for s in self._shifts]
                slices = torch.stack(channels, dim=1)
            else:
                slices = sample_slices(self._source, plan, which)
        with self._timings.measure("encoder"):
            low, high = torch.aminmax(slices.flatten(1), dim=1)
            seen = ((low != self._source.fill) | (high != self._source.fill)).nonzero()[:, 0]
        return which, (slices, seen)

    def _outputs(self, slices: torch.Tensor, seen: torch.Tensor) -> _Outputs:
        """Return the outputs for slices ``B V U``. The slices that show nothing share theirs."""
        if len(seen) == len(slices):
            return self._encode(slices)
        blank_logits, blank_maps = self._blank_output(slices)
        logits = blank_logits.expand(-1, len(slices)).clone()
        maps = {key: each.expand(len(slices), -1, -1).clone() for key, each in blank_maps.items()}
        if len(seen):
            seen_logits, seen_maps = self._encode(slices[seen])
            logits[:, seen] = seen_logits
            for key, each in seen_maps.items():
                maps[key][seen] = each
        return logits, maps

    def _by_class(self, plan: SlicePlan, which: slice, logits: torch.Tensor, maps: ClassMaps) -> dict[int, Projections]:
        sampled = _nearest_sampled(plan, which, logits.device)
        shape = (which.stop - which.start, plan.slices + 2)
        scatter = partial(_scatter, sampled=sampled, shape=shape)
        return {
            index: Projections(which, scatter(row), {stage: scatter(maps[index, stage]) for stage in stages})
            for (index, stages), row in zip(self._stages.items(), logits, strict=True)
        }

    def _blank_output(self, slices: torch.Tensor) -> _Outputs:
        size = slices.shape[-1]
        if size not in self._blank:
            self._blank[size] = self._encode(torch.full_like(slices[:1], self._source.fill))
        return self._blank[size]

    def _encode(self, slices: torch.Tensor) -> _Outputs:
        outputs: list[_Outputs] = []
        start = 0
        while start < len(slices):
            # Even parts: a full batch and a remainder of a few slices would waste the remainder's turn.
            left = len(slices) - start
            chunk = slices[start : start + math.ceil(left / math.ceil(left / self.batch_size))]
            self._check()
            try:
                outputs.append(self._encode_chunk(chunk))
            except (RuntimeError, MemoryError) as error:
                self._shrink(len(chunk), error)
                continue
            start += len(chunk)
        logits = torch.cat([each for each, _ in outputs], dim=1)
        return logits, {key: torch.cat([maps[key] for _, maps in outputs]) for key in self._maps}

    def _encode_chunk(self, slices: torch.Tensor) -> _Outputs:
        if self._maps:
            logits, maps = self._encoder.cam(slices, self._maps, self._cam)
        else:
            logits, maps = self._encoder.logits(slices), {}
        return torch.stack([logits[:, index] for index in self._stages]), maps  # a list as index would wait for a GPU

    def _fit_batch(self, plan: SlicePlan) -> None:
        """Find how many slices the device's free memory holds, before anything is cut."""
        memory = memory_of(self._source.array.device)
        if not self._fit or memory is None:
            return
        device = self._source.array.device  # slices are float32, whatever the voxels are
        channels = (len(self._shifts),) if self._shifts else ()
        shape = (1, *channels, plan.pixels, plan.pixels)
        blank = torch.full(shape, self._source.fill, dtype=torch.float32, device=device)
        least = int(np.sort(plan.counts)[-_AT_LEAST:].sum())
        with self._timings.measure("batch size"):
            self.batch_size = fitting_batch(memory, self._encode_chunk, blank, self.batch_size, least)

    def _shrink(self, failed: int, error: Exception) -> None:
        """Go on with half the batch; the allocator's cache is emptied first. What is no lack of memory is raised."""
        if not is_out_of_memory(error):
            raise error
        if failed <= 1:
            raise TonnoError(
                "the device has no memory left for a single slice; close other programs that use it, "
                "or choose a smaller `slice_size`, or choose `device` cpu"
            ) from error
        self.batch_size = max(1, failed // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _scatter(outputs: torch.Tensor, sampled: torch.Tensor | None, shape: tuple[int, int]) -> torch.Tensor:
    """Scatter the outputs (N, ...) of the sampled slices to all offsets (B, T, ...)."""
    return (outputs if sampled is None else outputs[sampled]).reshape(*shape, *outputs.shape[1:])


def _nearest_sampled(plan: SlicePlan, which: slice, device: torch.device) -> torch.Tensor | None:
    """Return for each offset the number of the nearest slice that was sampled, of N; None where all were."""
    if plan.needed is None:
        return None
    first, stop = plan.needed[which].T[:, :, None]  # B 1 each
    before = np.cumsum(plan.counts[which])[:, None] - (stop - first)
    nearest = before + np.clip(np.arange(plan.slices + 2), first, stop - 1) - first
    return torch.as_tensor(nearest.ravel(), device=device)
