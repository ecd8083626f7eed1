"""Slices of a volume along oblique planes (paper, eq. 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core import kernels
from tonno_core.slicing.content import Content, bounding_box
from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.atlas import Atlas
from tonno_core.volume.grid import ijk_to_grid
from tonno_core.volume.volume import Matrix, Volume

# Samples of the slices that are sampled at once, in the rectangle that the content needs there: fewer slices fit closer
# but cost more calls. 8 slices of 96 x 96 pixels, 1 of 224 x 224; on a GPU, whose calls cost most, all of a direction.
_SAMPLES, _GPU_SAMPLES = 75_000, 4_000_000
# Largest magnitudes that float16 will do for: it holds all whole numbers to 2048, and rounds any number by 2^-11 of it
# (below 2^-14 by 2^-25, which is 2^-21 of a largest of 2^-4).
_LEAST_OF_HALF, _MOST_OF_HALF = 2.0**-4, 2.0**11

# The signature of `slicing.kernel.sample_planes`.
SamplePlanes = Callable[[torch.Tensor, torch.Tensor, int, float], torch.Tensor]


@dataclass(frozen=True)
class SliceSource:
    """A preprocessed volume on the device, ready to be sliced.

    Attributes:
        array: ``C Z Y X``, voxel values less ``fills``, so that the zeros outside the volume are the fill values;
            float16 only with a kernel.
        ras_to_ijk: 4 x 4, from RAS mm to voxel indices.
        content: where there is more than fill; None where all slices are cut by a kernel, blank ones too.
        fills: value of the space outside the volume, by channel.
        atlas: the same voxels for the CPU; None on other devices and for volumes too large for it.
        kernel: samples planes on CUDA; None where it does not run.
    """

    array: torch.Tensor
    ras_to_ijk: Matrix
    content: Content | None
    fills: tuple[float, ...] = (0.0,)
    atlas: Atlas | None = None
    kernel: SamplePlanes | None = None

    @cached_property
    def fill(self) -> float | torch.Tensor:
        """Value of the space outside, to be added to ``N C V U``: a number, or ``C 1 1`` of several channels."""
        if len(self.fills) == 1:
            return self.fills[0]
        return torch.tensor(self.fills, dtype=self.dtype, device=self.array.device)[:, None, None]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the slices' numbers."""
        return self.array.dtype if self.kernel is None else torch.float32

    def shows_nothing(self, slices: torch.Tensor) -> torch.Tensor:
        """Tell which slices are fill all over.

        Args:
            slices: ``N V U``, or ``N C V U``, cut from it.

        Returns:
            Bool ``N``.
        """
        if len(self.fills) > 1:
            return (slices == self.fill).flatten(1).all(dim=1)
        flat, fill = slices.flatten(1), self.fills[0]
        return (flat.amin(dim=1) == fill) & (flat.amax(dim=1) == fill)

    @staticmethod
    def from_volume(
        volume: Volume,
        *,
        fills: Sequence[float] = (0.0,),
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        half: bool = False,
        blank: bool = False,
    ) -> SliceSource:
        """Put a volume on a device.

        Args:
            volume: its intensities normalised.
            fills: value of the space outside the volume, by channel.
            device: where to.
            dtype: of the slices.
            half: allow voxels in float16, because the encoder rounds to it anyway. They are float16 where the kernel
                runs and intensities are neither too large nor too small for it; slices stay in ``dtype``.
            blank: all slices are wanted, also those that show nothing (`sample_slices`).

        Returns:
            The source of slices.
        """
        inner = bounding_box(volume, fills)
        device = torch.device(device)
        module = kernels.load("slicing", device, dtype)
        kernel: SamplePlanes | None = None if module is None else module.sample_planes
        stored = torch.float16 if half and kernel is not None and all(map(half_will_do, inner.channels)) else dtype
        channels = np.stack(inner.channels) if inner.further else inner.array[None]
        on_device = torch.as_tensor(channels).to(stored).to(device)
        atlas = Atlas.of_volume(on_device) if device.type == "cpu" and Atlas.fits(inner.array.shape) else None
        content = None if blank and kernel is not None else Content.of(inner)
        ras_to_ijk = np.asarray(np.linalg.inv(inner.ijk_to_ras), dtype=np.float64)
        return SliceSource(on_device, ras_to_ijk, content, tuple(fills), atlas, kernel)


class SliceCutter:
    """Cuts the slices of a plan's directions. All geometry is computed once, and copied to the device once.

    Attributes:
        shown: L 2, first and one past the last offset of each direction whose slices are cut: of those that matter to
            the plan, the ones that can show more than fill.
        counts: L, their numbers.
        ends: L + 1, numbers of the slices of all directions before each, and of all.
    """

    def __init__(
        self, source: SliceSource, plan: SlicePlan, shifts: Sequence[float] = (), *, blank: bool = False
    ) -> None:
        """Compute the geometry.

        Args:
            source: the volume.
            plan: the planes, and which of them matter.
            shifts: by channel of a slice how far it lies along the normal, in frame units; empty for slices of the
                volume's own channels.
            blank: cut all slices that matter, also those that show nothing.
        """
        self._source, self._pixels, own = source, plan.pixels, len(source.array)
        assert own == 1 or not shifts  # `intensity.by_channel` and neighbouring slices exclude each other
        self._shifts, self._channels = len(shifts), len(shifts) or (own if own > 1 else 0)
        moved = [replace(plan, shift=shift) for shift in shifts] or [plan]
        self.shown = plan.limits
        if source.content is not None and not blank:
            ends = source.content.shown(plan, shifts or (0.0,))
            self.shown = np.clip(ends, plan.limits[:, :1], plan.limits[:, 1:])
        self.counts = self.shown[:, 1] - self.shown[:, 0]
        self.ends = [0, *np.cumsum(self.counts).tolist()]
        if source.kernel is not None:
            affines = np.stack([_plane_to_ijk(source, each, self.shown) for each in moved], axis=1)
            self._voxels = source.array.unbind()
            self._affines = torch.as_tensor(affines.reshape(-1, 3, 3), dtype=torch.float32).to(source.array.device)
        else:
            self._stacks = [_Stacks(source, each, self.shown) for each in moved]

    def cut(self, which: slice) -> torch.Tensor:
        """Interpolate trilinearly.

        On a GPU with the kernel the host launches that, and neither computes nor copies nor waits.

        Args:
            which: range of the plan's directions.

        Returns:
            ``N V U``, or ``N C V U`` of several channels or with shifts, one direction after the other; rows run along
            u, columns along v.
        """
        first, stop = self.ends[which.start], self.ends[which.stop]
        source, shifts = self._source, max(1, self._shifts)
        if source.kernel is not None:
            affines = self._affines[first * shifts : stop * shifts]
            each = [
                source.kernel(voxels, affines, self._pixels, fill)
                for voxels, fill in zip(self._voxels, source.fills, strict=True)
            ]
            slices = each[0] if len(each) == 1 else torch.stack(each, dim=1)
        else:
            slices = self._blank(stop - first)
            for direction in range(which.start, which.stop):
                stack = slices[self.ends[direction] - first : self.ends[direction + 1] - first]
                for channel, stacks in enumerate(self._stacks):
                    stacks.sample(direction, stack[:, channel : channel + 1] if self._shifts else stack)
        return self._shaped(slices)

    def blank(self) -> torch.Tensor:
        """Make a slice that shows nothing.

        Returns:
            ``1 V U``, or ``1 C V U`` of several channels or with shifts, of the same type as `cut` gives.
        """
        return self._shaped(self._blank(1))

    def _blank(self, count: int) -> torch.Tensor:
        source = self._source
        size = (count, max(1, self._channels), self._pixels, self._pixels)
        if len(source.fills) == 1:
            return torch.full(size, source.fills[0], dtype=source.dtype, device=source.array.device)
        return torch.as_tensor(source.fill).expand(size).clone()

    def _shaped(self, slices: torch.Tensor) -> torch.Tensor:
        """Bring slices ``N V U`` of the kernel, or ``N C V U``, to one dimension of channels if there are several."""
        if self._channels:
            return slices.view(-1 if slices.numel() else 0, self._channels, self._pixels, self._pixels)
        return slices if slices.ndim == 3 else slices[:, 0]


def sample_slices(source: SliceSource, plan: SlicePlan, which: slice) -> torch.Tensor:
    """Interpolate trilinearly on all slices that matter of some of a plan's directions, blank or not.

    Args:
        source: the volume.
        plan: the planes, and which of them are needed; all M + 2 of a direction where it does not say.
        which: range of the plan's directions.

    Returns:
        ``N V U``, or ``N C V U`` of several channels, one direction after the other; rows run along u, columns along v.
    """
    needed = None if plan.needed is None else plan.needed[which]
    some = replace(plan, directions=plan.directions[which], needed=needed)
    return SliceCutter(source, some, blank=True).cut(slice(0, len(some.directions)))


def _sample_to_ijk(source: SliceSource, plan: SlicePlan) -> npt.NDArray[np.float64]:
    """Place the samples of all directions: L 3 4, from (column, row, offset, 1), each from 0, to voxel indices."""
    indices = ijk_to_grid((plan.pixels, plan.pixels, plan.slices + 2))
    placed: npt.NDArray[np.float64] = source.ras_to_ijk @ plan.frame_to_ras @ plan.slice_to_frame(slice(None)) @ indices
    return placed[:, :3]


def _plane_to_ijk(source: SliceSource, plan: SlicePlan, shown: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Place the slices that are cut: N 3 3, from (column, row, 1), in pixels from the middle, to voxel indices."""
    placed = _sample_to_ijk(source, plan)
    placed[:, :, 3] += placed[:, :, :2].sum(axis=2) * ((plan.pixels - 1) / 2.0)
    direction, offset = _planes(shown)
    planes = placed[direction]
    planes[:, :, 2] = planes[:, :, 2] * offset[:, None] + planes[:, :, 3]
    return planes[:, :, :3]


def _planes(shown: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """List direction and offset of all slices that are cut."""
    counts = shown[:, 1] - shown[:, 0]
    direction = np.repeat(np.arange(len(shown)), counts)
    return direction, np.arange(len(direction)) - np.repeat(np.cumsum(counts) - counts - shown[:, 0], counts)


class _Stacks:
    """Samples slices by torch in blocks: some of a direction's, in the rectangle that the content needs there."""

    def __init__(self, source: SliceSource, plan: SlicePlan, shown: npt.NDArray[np.intp]) -> None:
        self._source, self._first = source, shown[:, 0].tolist()
        affines = _sample_to_ijk(source, plan)
        if source.atlas is not None:
            affines = source.atlas.from_ijk(affines)
        else:
            z, y, x = source.array.shape[1:]
            affines = (ijk_to_grid((x, y, z)) @ np.insert(affines, 3, [0.0, 0.0, 0.0, 1.0], axis=1))[:, :3]

        def tensor(numbers: npt.NDArray[np.float64]) -> torch.Tensor:
            return torch.as_tensor(numbers, dtype=source.array.dtype).to(source.array.device)

        columns, offsets = np.arange(plan.pixels), np.arange(plan.slices + 2)
        # What the columns, rows and offsets of a direction add to its samples' coordinates: L 3 each.
        self._columns, self._rows = (tensor(affines[:, :, axis, None] * columns) for axis in (0, 1))
        self._offsets = tensor(affines[:, :, 2, None] * offsets + affines[:, :, 3, None])
        self._blocks, self._ends = _blocks(source, plan, shown)

    def sample(self, direction: int, stack: torch.Tensor) -> None:
        """Write the slices of a direction where the content is; the rest stays as it is. stack: T C V U."""
        source, fill, first = self._source, self._source.fill, self._first[direction]
        columns, rows, offsets = self._columns[direction], self._rows[direction], self._offsets[direction]
        for t0, t1, c0, c1, r0, r1 in self._blocks[self._ends[direction] : self._ends[direction + 1]]:
            in_plane = rows[:, r0:r1, None] + columns[:, None, c0:c1]
            points = offsets[:, t0:t1, None, None] + in_plane[:, None]
            if source.atlas is not None:
                values = source.atlas.sample(*source.atlas.clamped(points))
            else:
                at = points.permute(1, 2, 3, 0)[None]
                sampled = F.grid_sample(source.array[None], at, padding_mode="zeros", align_corners=True)[0]
                values = sampled.transpose(0, 1)
            torch.add(values, fill, out=stack[t0 - first : t1 - first, :, r0:r1, c0:c1])


def _blocks(source: SliceSource, plan: SlicePlan, shown: npt.NDArray[np.intp]) -> tuple[list[list[int]], list[int]]:
    """List blocks: first and one past the last offset, column and row of each; and where each direction's begin."""
    assert source.content is not None  # there is one without a kernel
    low, high = (source.content.shown(plan)[..., end] for end in (0, 1))
    direction, offset = _planes(shown)
    seen = (offset >= low[direction]) & (offset < high[direction])
    direction, offset = direction[seen], offset[seen]
    if not len(direction):
        return [], [0] * (len(shown) + 1)
    run = max(1, (_SAMPLES if source.array.device.type == "cpu" else _GPU_SAMPLES) // plan.pixels**2)
    number = (offset - np.maximum(low, shown[:, 0])[direction]) // run
    starts = np.flatnonzero(np.diff(direction, prepend=-1) | np.diff(number, prepend=-1))
    windows = source.content.windows(plan)[direction, offset]
    stops = np.append(starts[1:], len(direction))
    first, last = np.minimum.reduceat(windows[..., 0], starts), np.maximum.reduceat(windows[..., 1], starts)
    blocks = np.column_stack([offset[starts], offset[stops - 1] + 1, np.stack([first, last], axis=2).reshape(-1, 4)])
    there = (first < last).all(axis=1)
    ends = np.searchsorted(direction[starts][there], np.arange(len(shown) + 1))
    return blocks[there].tolist(), ends.tolist()


def half_will_do(array: npt.NDArray[np.float32]) -> bool:
    """Tell whether float16 holds voxels as well as an encoder in half precision can tell them apart.

    Args:
        array: ``Z Y X``, less fill.

    Returns:
        Whether the largest magnitude is within float16's good range.
    """
    largest = max(float(array.max()), -float(array.min()))
    return _LEAST_OF_HALF <= largest <= _MOST_OF_HALF
