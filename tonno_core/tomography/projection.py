"""The encoder's outputs for all planes: p(s, n) and its maps p(s, u, v; n), in batches of directions.

On a GPU the host asks for batch after batch and waits for none of them, but now and then for one long before
(`tomography.pace`): all geometry is there before the first, slices that cannot show anything are known by it, and those
that happen not to are found on the device, which has their outputs replaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.encoding.encoder import ClassMaps, Encoder
from tonno_core.encoding.memory import fitting_batch, memory_of
from tonno_core.errors import TonnoError, is_out_of_memory
from tonno_core.reporting import Reporter
from tonno_core.settings import CamKind
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceCutter, SliceSource
from tonno_core.tomography.pace import Pace, runs_behind


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


# Directions in a batch, where memory allows; a direction with little to show counts as this part of its planes.
_AT_LEAST, _LEAST_SHARE = 2, 4

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
                where all channels get the same slice, or each one of the volume's.
        """
        self._encoder = encoder
        self._source, self._shifts = source, tuple(shifts)
        self._stages, self._cam = dict(maps.stages), maps.cam
        self._maps = [(index, stage) for index, stages in maps.stages.items() for stage in stages]
        reporter = reporter or Reporter()
        self._timings, self._check = reporter.timings, reporter.check
        self._fit = batch.fit
        self.batch_size = batch.most
        self._each = 1  # passes through the network of a slice: they are what fills a batch
        self.passes = 0  # of ScoreCAM
        self.slices_total = 0
        self._not_cut = 0
        self._blank: list[torch.Tensor] = []  # of the slices that were cut, whether they show nothing
        self._pace = Pace(source.array.device)

    @property
    def slices_blank(self) -> int:
        """Number of the slices so far that showed nothing. Waits for a GPU."""
        return self._not_cut + (int(torch.cat(self._blank).sum()) if self._blank else 0)

    def look(self) -> None:
        """See that all logits so far are numbers, before anything is shown of them. Waits for a GPU.

        Raises:
            TonnoError: some are not.
        """
        self._pace.catch_up()

    def project(self, plan: SlicePlan, *, start: int = 0) -> Iterator[dict[int, Projections]]:
        """Compute the outputs for a plan's directions in order, a few at a time.

        Args:
            plan: The planes.
            start: The first direction to look at.

        Yields:
            Projections by class index.
        """
        if self._maps and self._cam == "scorecam":
            self._each = self._encoder.passes({stage for _, stage in self._maps}, plan.pixels)
        with self._timings.measure("slicing"):
            cutter = SliceCutter(self._source, plan, self._shifts)
        blank = cutter.blank()
        self._fit_batch(cutter, blank)
        places = _places(plan, cutter.shown)
        on_device = None if places is None else torch.as_tensor(places, device=blank.device)
        looked_at = np.concatenate([[0], np.cumsum(plan.counts)]).tolist()
        with self._timings.measure("encoder"):
            of_blank = self._encode(blank)
        try:
            while start < len(plan.directions):
                which = self._next(cutter, plan, start)
                try:
                    with self._timings.measure("slicing"):
                        slices = cutter.cut(which)
                except (RuntimeError, MemoryError) as error:
                    self._shrink(self.batch_size, error)
                    continue
                self._check()
                with self._timings.measure("encoder"):
                    empty = self._source.shows_nothing(slices)
                    logits, maps = self._outputs(slices, empty, of_blank)
                    self._pace.add(logits)
                self._blank.append(empty)
                count = looked_at[which.stop] - looked_at[which.start]
                self.slices_total += count
                self._not_cut += count - len(slices)
                del slices
                start = which.stop
                if on_device is not None:
                    index = (on_device[which] - cutter.ends[which.start]).clamp_(min=-1)
                    logits = torch.cat([logits, of_blank[0]], dim=1)[:, index]
                    maps = {key: torch.cat([each, of_blank[1][key]])[index] for key, each in maps.items()}
                yield self._by_class(plan, which, logits, maps)
        finally:
            self.look()

    def _next(self, cutter: SliceCutter, plan: SlicePlan, start: int) -> slice:
        """Return as many directions as fill a batch; at least two where memory allows, so that threads share them.

        A GPU's batches are filled with slices that are cut, a CPU's count blank ones too. One direction of ScoreCAM is
        many batches.
        """
        counts = plan.counts[start:]
        if runs_behind(self._source.array.device):
            counts = np.maximum(cutter.counts[start:], counts // _LEAST_SHARE)
        filled = int(np.searchsorted(np.cumsum(counts), self._slices_at_once, side="right"))
        least = _AT_LEAST if self.batch_size > 1 and self._each == 1 else 1
        return slice(start, min(start + max(least, filled), len(plan.directions)))

    @property
    def _slices_at_once(self) -> int:
        return max(1, self.batch_size // self._each)

    def _outputs(self, slices: torch.Tensor, empty: torch.Tensor, of_blank: _Outputs) -> _Outputs:
        """Return the outputs for slices ``B V U``. Those that show nothing, ``empty``, have the blank slice's."""
        blank_logits, blank_maps = of_blank
        if len(slices) and runs_behind(slices.device):  # which ones are blank would have to be waited for
            logits, maps = self._encode(slices)
            logits = torch.where(empty, blank_logits, logits)
            return logits, {key: torch.where(empty[:, None, None], blank_maps[key], each) for key, each in maps.items()}
        seen = empty.logical_not().nonzero()[:, 0]
        if len(seen) == len(slices) > 0:
            return self._encode(slices)
        logits = blank_logits.expand(-1, len(slices)).clone()
        maps = {key: each.expand(len(slices), -1, -1).clone() for key, each in blank_maps.items()}
        if len(seen):
            seen_logits, seen_maps = self._encode(slices[seen])
            logits[:, seen] = seen_logits
            for key, each in seen_maps.items():
                maps[key][seen] = each
        return logits, maps

    def _by_class(self, plan: SlicePlan, which: slice, logits: torch.Tensor, maps: ClassMaps) -> dict[int, Projections]:
        """Give each class its outputs: of all offsets, one direction after the other."""
        shape = (which.stop - which.start, plan.slices + 2)
        shaped = {key: each.view(*shape, *each.shape[-2:]) for key, each in maps.items()}
        return {
            index: Projections(which, row.view(shape), {stage: shaped[index, stage] for stage in stages})
            for (index, stages), row in zip(self._stages.items(), logits, strict=True)
        }

    def _encode(self, slices: torch.Tensor) -> _Outputs:
        outputs: list[_Outputs] = []
        start = 0
        while start < len(slices):
            # Even parts: a full batch and a remainder of a few slices would waste the remainder's turn.
            left = len(slices) - start
            chunk = slices[start : start + math.ceil(left / math.ceil(left / self._slices_at_once))]
            self._check()
            try:
                outputs.append(self._encode_chunk(chunk))
            except (RuntimeError, MemoryError) as error:
                self._shrink(len(chunk) if self._each == 1 else self.batch_size, error)
                continue
            start += len(chunk)
            self.passes += len(chunk) * self._each if self._each > 1 else 0
        if len(outputs) == 1:
            return outputs[0]
        logits = torch.cat([each for each, _ in outputs], dim=1)
        return logits, {key: torch.cat([maps[key] for _, maps in outputs]) for key in self._maps}

    def _encode_chunk(self, slices: torch.Tensor) -> _Outputs:
        if self._maps:
            at_once = () if self._each == 1 else (self.batch_size,)
            logits, maps = self._encoder.cam(slices, self._maps, self._cam, *at_once)
        else:
            logits, maps = self._encoder.logits(slices), {}
        return torch.stack([logits[:, index] for index in self._stages]), maps  # a list as index would wait for a GPU

    def _fit_batch(self, cutter: SliceCutter, blank: torch.Tensor) -> None:
        """Find how many slices the device's free memory holds, before anything is cut."""
        memory = memory_of(blank.device)
        if not self._fit or memory is None:
            return
        least = int(np.sort(cutter.counts)[-_AT_LEAST:].sum())
        with self._timings.measure("batch size"):
            encode = self._encode_chunk if self._each == 1 else self._encoder.logits  # which masked slices go through
            self.batch_size = fitting_batch(memory, encode, blank, self.batch_size, least)

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


def _places(plan: SlicePlan, shown: npt.NDArray[np.intp]) -> npt.NDArray[np.int64] | None:
    """Find where each offset's output is among those of all slices that are cut: L T; below 0 where that is blank.

    An offset that does not matter has its nearest neighbor's. None where all are cut.
    """
    offsets = np.arange(plan.slices + 2)
    nearest = np.clip(offsets, plan.limits[:, :1], plan.limits[:, 1:] - 1)
    first, stop = shown[:, :1], shown[:, 1:]
    counts = stop - first
    if (counts == len(offsets)).all():
        return None
    number = np.cumsum(counts)[:, None] - counts + nearest - first
    return np.where((nearest >= first) & (nearest < stop), number, np.iinfo(np.int64).min // 2)
