"""The logits of a scan's planes, and what of the scan each plane cuts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.bundle.decide import Run, decide
from tonno_core.pictures.cuts import Float
from tonno_core.progress import progress_bar
from tonno_core.reconstruction.passes import standard_batch
from tonno_core.reconstruction.planes import Planes
from tonno_core.reconstruction.run import get_ready, source_of
from tonno_core.reproduction.source import BoolArray, Scan, Source
from tonno_core.settings import Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.preparation import PreparedVolume
from tonno_core.tomography.projection import BatchSize, Maps, Projector
from tonno_core.volume.volume import Matrix, Volume

# Voxels of a mask by which it is told which planes cut it.
_VOXELS = 20_000


def run_of(source: Source, slices: int, directions: int) -> Run:
    """Decide on ToNNO by the paper's filter.

    Args:
        source: With the model.
        slices: M.
        directions: L.

    Returns:
        The run.
    """
    ready, settings = source.ready()
    settings = replace(settings, slices=slices, directions=directions, cam_directions=None)
    name = settings.class_name or ready.choices.classes[0]
    return decide(settings, ready, variants={"tonno": Variant("tonno")}, classes=(name,))


def prepared_for(scan: Scan, run: Run) -> PreparedVolume:
    """Return the scan as the classifier sees it, and its frame.

    Args:
        scan: The scan.
        run: The run.

    Returns:
        The same for the same scan and model, while somebody holds it.
    """
    prepared = get_ready(scan.volume, run).prepared
    assert isinstance(prepared, PreparedVolume)
    return prepared


def slice_logits(
    source: Source, prepared: PreparedVolume, run: Run, plan: SlicePlan, of: str
) -> npt.NDArray[np.float32]:
    """Let the classifier answer all planes of a plan.

    Args:
        source: With the model.
        prepared: The scan.
        run: The run.
        plan: The planes.
        of: What they are of, for the progress.

    Returns:
        ``L T`` logits.
    """
    ready, _ = source.ready()
    output, at_once = run.targets[0].output, BatchSize(standard_batch(run), fit=True)
    shifts = Planes(prepared.volume, run, prepared.frame_to_ras).shifts
    projector = Projector(ready.classifier(), source_of(prepared, run), Maps({output: ()}), at_once, shifts=shifts)
    logits: list[torch.Tensor] = []
    with progress_bar(total=int(plan.counts.sum()), desc=of, unit="slice", unit_scale=True) as bar:
        for batch in projector.project(plan):
            logits.append(batch[output].logits)
            bar.update(int(plan.counts[batch[output].which].sum()))
        projector.look()
    return np.asarray(torch.cat(logits).float().cpu().numpy(), dtype=np.float32)


def cut_by(mask: BoolArray, volume: Volume, plan: SlicePlan) -> npt.NDArray[np.int64]:
    """Count the voxels of a mask that lie within half a step of each plane.

    Args:
        mask: Z Y X on the volume's grid. Of a large one evenly spread voxels stand for all.
        volume: The scan.
        plan: The planes.

    Returns:
        ``L T``; more than 0 where the plane cuts the mask.
    """
    index = np.flatnonzero(mask)
    index = index[:: max(1, index.size // _VOXELS)]
    if not index.size:
        return np.zeros((len(plan.directions), plan.slices + 2), dtype=np.int64)
    kji = np.stack(np.unravel_index(index, mask.shape))
    to_frame: Matrix = np.linalg.inv(plan.frame_to_ras) @ volume.ijk_to_ras
    points: Float = to_frame[:3, :3] @ kji[::-1] + to_frame[:3, 3:]  # 3 P
    offsets = np.rint((plan.directions @ points + 1.0) / plan.step).astype(np.int64) + 1  # L P
    offsets = np.clip(offsets, 0, plan.slices + 1)
    rows = np.arange(len(offsets))[:, None] * (plan.slices + 2)
    counts = np.bincount((offsets + rows).ravel(), minlength=len(offsets) * (plan.slices + 2))
    return np.asarray(counts.reshape(len(offsets), plan.slices + 2), dtype=np.int64)


def offsets_mm(plan: SlicePlan) -> Float:
    """Place planes along their normals in the patient.

    Args:
        plan: The planes.

    Returns:
        ``L T`` mm from the frame's centre.
    """
    # s = n F^-1 (x - c): the planes' distance per unit of s is one over the length of its gradient.
    gradient = np.linalg.norm(plan.directions @ np.linalg.inv(plan.frame_to_ras[:3, :3]), axis=1)
    return np.asarray(plan.offsets[None] / gradient[:, None])
