"""What the first round's heatmaps say of slices: which planes through a positive volume miss the finding.

A slice that misses it carries a wrong label. Labels alone say where the finding is likely to be: the heatmap of the
classifier that the first half of the steps made. The highest value on a plane is compared with what planes through
negative volumes reach, and with the volume's own peak; the surer the plane misses, the more of its label a slice loses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core.bundle.decide import standard_stage
from tonno_core.encoding.classifier import Classifier
from tonno_core.errors import TonnoError
from tonno_core.reconstruction.passes import CPU_BATCH, GPU_BATCH
from tonno_core.reporting import Timings
from tonno_core.settings import Variant
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import Inverter
from tonno_core.tomography.projection import BatchSize, Maps, Projector
from tonno_core.training.cache import TrainingVolume
from tonno_core.training.tensor_file import load_tensors, save_tensors
from tonno_core.training.voxels import on_device
from tonno_core.volume.grid import affine_points, ijk_to_grid
from tonno_core.volume.volume import Volume

# Planes of a heatmap: few, as it has to tell planes apart, not voxels.
DIRECTIONS, SLICES = 12, 24
# Negative volumes that say what a plane without the finding reaches, of each class at most.
NEGATIVES = 16
# Of the way from what a plane without the finding reaches to the volume's peak: up to here a plane misses the finding,
# and from here on it shows it. Where a map is blurred, the finding's border has half of its inside's value.
_MISSES, _SHOWS = 0.25, 0.5


def volumes_to_look_at(labels: npt.NDArray[np.int64]) -> list[int]:
    """List the volumes of which heatmaps are needed: all with a finding, and of each class some without.

    Args:
        labels: N C, 0 or 1.

    Returns:
        Numbers in order.
    """
    chosen = set(np.flatnonzero(labels.any(axis=1)).tolist())
    for column in labels.T:
        negatives = np.flatnonzero(column == 0)
        few = np.linspace(0, len(negatives) - 1, min(NEGATIVES, len(negatives))).round().astype(int)
        chosen |= set(negatives[few].tolist())
    return sorted(chosen)


def heatmap(volume: TrainingVolume, encoder: Classifier, pixels: int) -> torch.Tensor:
    """Make coarse heatmaps of a volume: Averaged CAM at the stage that is taken where nobody chose one.

    Args:
        volume: The volume.
        encoder: The classifier.
        pixels: S, of its slices.

    Returns:
        One for each class, C M M M over the frame's [-1, 1]^3.
    """
    first, *further = (
        array.numpy().astype(np.float32) + np.float32(fill)
        for array, fill in zip(volume.channels, volume.fills, strict=True)
    )
    in_frame = Volume(first, np.linalg.inv(volume.frame_to_ijk).astype(np.float64), further=tuple(further))
    source = SliceSource.from_volume(in_frame, fills=volume.fills, device=encoder.device)
    plan, shape = SlicePlan(np.eye(4), hemisphere(DIRECTIONS), SLICES, pixels), (SLICES, SLICES, SLICES)
    grid = TargetGrid(shape, ijk_to_grid(shape))
    stages = {index: (standard_stage(encoder, index, pixels),) for index in range(len(encoder.classes))}
    inverters = {index: Inverter(plan, grid, [Variant("averaged-cam", stage)]) for index, stage in stages.items()}
    most = (GPU_BATCH if encoder.device.type == "cuda" else CPU_BATCH) * 96**2 // pixels**2
    for batch in Projector(encoder, source, Maps(stages), BatchSize(max(4, most), fit=True)).project(plan):
        for index, projections in batch.items():
            inverters[index].add(projections, Timings())
    return torch.stack([inverter.heatmap(inverter.variants[0]) for inverter in inverters.values()])


def highest_on_planes(heatmaps: torch.Tensor, planes: npt.NDArray[np.float64]) -> torch.Tensor:
    """Find the highest value of heatmaps on planes, in the windows that slices show.

    Args:
        heatmaps: V C M M M.
        planes: slice_to_frame, V K 4 4.

    Returns:
        V K C, on the heatmaps' device.
    """
    side, (volumes, each) = heatmaps.shape[-1], planes.shape[:2]
    theta = on_device(planes[..., :3, :].reshape(-1, 3, 4).astype(np.float32), heatmaps.device)
    points = affine_points(theta, (1, side, side)).view(volumes, each, side, side, 3)
    return F.grid_sample(heatmaps, points, align_corners=True).amax(dim=(3, 4)).transpose(1, 2)


@dataclass(frozen=True)
class Evidence:
    """How much of its label a slice keeps in the second round.

    Attributes:
        heatmaps: Of each volume with a finding, by its number: C M M M.
        scales: Likewise C 3: up to which value on a plane it misses the finding, from which on it shows it, and how far
            the heatmap is to be trusted, from 0 to 1.
    """

    heatmaps: Mapping[int, torch.Tensor]
    scales: Mapping[int, torch.Tensor]

    @staticmethod
    def of_heatmaps(
        heatmaps: Mapping[int, torch.Tensor],
        labels: npt.NDArray[np.int64],
        planes: Mapping[int, npt.NDArray[np.float64]],
    ) -> Evidence:
        """Compare positive volumes with negative ones.

        What a plane without the finding reaches is the median over the negative volumes. A positive volume whose peak
        is no higher than half of the negatives' is not trusted to tell; one whose peak is above all of them is, wholly.

        Args:
            heatmaps: By number, of `volumes_to_look_at`: C M M M.
            labels: Of all volumes, N C.
            planes: By number, random planes through the volumes: K 4 4.

        Returns:
            The evidence.
        """
        peaks = {number: each.amax(dim=(1, 2, 3)).tolist() for number, each in heatmaps.items()}
        reached = {
            number: highest_on_planes(heatmaps[number][None], each[None])[0].cpu().numpy()
            for number, each in planes.items()
            if not labels[number].all()
        }
        positive = [number for number in heatmaps if labels[number].any()]
        scales = {number: np.tile([0.0, 1.0, 0.0], (labels.shape[1], 1)) for number in positive}
        for index, column in enumerate(labels.T):
            negative = [number for number in reached if not column[number]]
            if not negative:
                continue
            highest = np.array([peaks[number][index] for number in negative])
            without = float(np.median([reached[number][:, index] for number in negative]))
            for number in (number for number in positive if column[number]):
                above = peaks[number][index] - without
                trust = 2.0 * float((highest < peaks[number][index]).mean()) - 1.0
                if trust > 0.0 < above:
                    scales[number][index] = without + _MISSES * above, without + _SHOWS * above, trust
        device = next(iter(heatmaps.values())).device
        tensors = {number: torch.as_tensor(each, dtype=torch.float32).to(device) for number, each in scales.items()}
        return Evidence({number: heatmaps[number] for number in positive}, tensors)

    def kept(self, numbers: Sequence[int], planes: npt.NDArray[np.float64]) -> torch.Tensor:
        """Say how much of their labels slices of some volumes keep.

        Args:
            numbers: Of V volumes; those without a finding keep theirs.
            planes: slice_to_frame of their slices, V K 4 4.

        Returns:
            V K C, from 0 to 1, on the heatmaps' device.
        """
        like = next(iter(self.scales.values()))
        kept = like.new_ones(*planes.shape[:2], len(like))
        some = [position for position, number in enumerate(numbers) if number in self.heatmaps]
        if not some:
            return kept
        heatmaps = torch.stack([self.heatmaps[numbers[position]] for position in some])
        scales = torch.stack([self.scales[numbers[position]] for position in some])
        misses, shows, trust = scales[:, None].unbind(dim=3)
        shown = ((highest_on_planes(heatmaps, planes[some]) - misses) / (shows - misses)).clamp(0.0, 1.0)
        for position, each in zip(some, 1.0 - trust * (1.0 - shown), strict=True):
            kept[position] = each
        return kept


class HeatmapFiles:
    """A folder with the first round's heatmaps, one file per volume, ``NUMBER.pt``: made once per run.

    Args:
        folder: The folder.
        step: At which the first round ended.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._step = folder, step

    def holds(self, number: int) -> bool:
        """Tell whether a volume's heatmaps are there.

        Args:
            number: Of the volume.

        Returns:
            Whether their file is there and whole.
        """
        if not self._path(number).is_file():
            return False
        try:
            return bool(load_tensors(self._path(number)).get("step") == self._step)
        except TonnoError:
            return False

    def save(self, number: int, heatmaps: torch.Tensor) -> None:
        """Write a volume's heatmaps, whole or not at all.

        Args:
            number: Of the volume.
            heatmaps: C M M M.
        """
        save_tensors(self._path(number), {"step": self._step, "heatmaps": heatmaps.cpu()})

    def load(self, number: int, device: torch.device) -> torch.Tensor:
        """Read a volume's heatmaps.

        Args:
            number: Of the volume.
            device: Where they are needed.

        Returns:
            C M M M.
        """
        heatmaps: torch.Tensor = load_tensors(self._path(number))["heatmaps"].to(device)
        return heatmaps

    def missing(self) -> TonnoError:
        """Return what to say where some are gone, and the classifier that made them is too."""
        return TonnoError(
            f"{self._folder}: heatmaps of the first round are missing or damaged, which the second round needs; "
            "give `overwrite` to begin again, or choose another `run`"
        )

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.pt"
