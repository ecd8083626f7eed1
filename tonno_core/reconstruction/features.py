"""Dense features: a classifier's feature vector, reconstructed feature by feature as ToNNO reconstructs a logit.

A linear last layer makes the logit a weighted sum of the features, and reconstruction is linear: ToNNO's heatmap is the
same weighted sum of the features' volumes. What they hold beside it is what the classifier knows of a place that does
not count for the class.

All features come from one pass through the network. What is kept of it are numbers per plane; volumes are made of them
one at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from tonno_core.bundle.decide import Run, decide
from tonno_core.bundle.ready import ReadyModel
from tonno_core.encoding.classifier import Classifier
from tonno_core.encoding.features import FeatureEncoder
from tonno_core.errors import TonnoError
from tonno_core.reconstruction.passes import standard_batch
from tonno_core.reconstruction.planes import Planes
from tonno_core.reconstruction.run import get_ready, image_warnings, scale_warnings, source_of
from tonno_core.reporting import Reporter
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.preparation import PreparedVolume
from tonno_core.tomography.grid import Nodes, TargetGrid
from tonno_core.tomography.inversion import invert
from tonno_core.tomography.projection import BatchSize, Maps, Projections, Projector
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.grid import resample
from tonno_core.volume.volume import FloatArray, Matrix, Volume

# Nodes of the foreground by which principal components are found.
SAMPLED_NODES = 1 << 15
# Standard deviation of the Gaussian on every feature, in distances of nodes, where nobody says otherwise.
SMOOTHED_NODES = 2.0
# Sampled nodes that are looked at together.
_TOGETHER = 1 << 12


@dataclass(frozen=True)
class DenseFeatures:
    """The features of all planes of a volume, of which volumes are made one at a time.

    Attributes:
        projections: ``D L T``.
        plan: The planes.
        grid: The nodes on which features are reconstructed.
        variant: ToNNO's, with its filter.
        smooth_mm: Standard deviation of a Gaussian on every volume.
        foreground: Nodes within the patient and the ball, bool ``Z Y X``.
        run: What was asked.
        slices_total: Slices that were looked at.
        slices_blank: Those of them that showed nothing.
        warnings: For whoever reads the result.
    """

    projections: torch.Tensor
    plan: SlicePlan
    grid: TargetGrid
    variant: Variant
    smooth_mm: float
    foreground: npt.NDArray[np.bool_]
    run: Run
    slices_total: int
    slices_blank: int
    warnings: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """D, the number of features."""
        return len(self.projections)

    @property
    def ijk_to_ras(self) -> Matrix:
        """4 x 4, from the nodes' indices to RAS mm."""
        return np.asarray(self.plan.frame_to_ras @ self.grid.ijk_to_frame)

    def volume(self, index: int) -> FloatArray:
        """Reconstruct a feature.

        Args:
            index: From 0 to D - 1.

        Returns:
            ``Z Y X`` on the nodes, in the feature's unit per unit volume of the frame as a heatmap, smoothed; 0 beyond
            the ball.
        """
        return self._inverted(self.projections[index])

    def combined(self, weights: npt.NDArray[np.float64]) -> FloatArray:
        """Reconstruct a weighted sum of features.

        Args:
            weights: D.

        Returns:
            ``Z Y X`` on the nodes: the weighted sum of all `volume`, for the price of one.
        """
        like = self.projections
        return self._inverted(torch.tensordot(torch.as_tensor(weights).to(like), like, dims=1))

    def sampled(self) -> npt.NDArray[np.intp]:
        """Choose nodes of the foreground that stand for all.

        Returns:
            Flat indices, evenly spread over it, at most `SAMPLED_NODES`.
        """
        index = np.flatnonzero(self.foreground)
        return index[:: max(1, -(-len(index) // SAMPLED_NODES))]

    def _inverted(self, projections: torch.Tensor) -> FloatArray:
        """Invert one number per plane: L T."""
        batch = Projections(slice(0, len(projections)), projections, {})
        heatmap = invert([batch], self.plan, self.grid, [self.variant]).heatmaps[self.variant]
        volume = np.asarray(heatmap.cpu().numpy(), dtype=np.float32)
        if self.smooth_mm == 0:
            return volume
        sigmas = self.smooth_mm / np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)[::-1]
        return np.asarray(ndimage.gaussian_filter(volume, sigmas) * self._computed, dtype=np.float32)

    @cached_property
    def _computed(self) -> npt.NDArray[np.bool_]:
        """Nodes that are reconstructed: Z Y X."""
        mask = Nodes(self.grid, torch.empty(0)).mask()
        return np.ones(self.grid.shape, dtype=bool) if mask is None else mask.numpy()


@dataclass(frozen=True)
class PrincipalComponents:
    """Directions in the space of features along which voxels differ most.

    Attributes:
        weights: K D, orthonormal rows; the largest weight of each is positive.
        shares: K, of the features' variance over the foreground.
    """

    weights: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]


def principal_components(values: npt.NDArray[np.float32], count: int) -> PrincipalComponents:
    """Find the principal components of features.

    Args:
        values: D N, features at some nodes.
        count: K, at most D.

    Returns:
        The components, that with the largest share first.
    """
    mean = values.mean(axis=1, dtype=np.float64, keepdims=True)
    covariance = np.zeros((len(values), len(values)))
    for start in range(0, values.shape[1], _TOGETHER):  # in float64, which all of them at once would double
        part = values[:, start : start + _TOGETHER] - mean
        covariance += part @ part.T
    variances, vectors = np.linalg.eigh(covariance)
    weights = vectors[:, ::-1][:, :count].T
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=1)[:, None], axis=1)
    total = float(np.trace(covariance))
    shares = np.maximum(variances[::-1][:count], 0.0) / (total if total > 0 else 1.0)
    return PrincipalComponents(weights * np.sign(largest), shares)


def feature_encoder(model: ReadyModel) -> FeatureEncoder:
    """Put a classifier's features in the place of its logits.

    Args:
        model: Ready on its device.

    Returns:
        An encoder with a class for each feature.

    Raises:
        TonnoError: The model has no feature vector.
    """
    if not isinstance(model.encoder, Classifier):
        raise TonnoError("`model`: has no feature vector of a slice, expected the folder of a classifier")
    return FeatureEncoder(model.encoder, model.slice_size)


def reconstruct_features(
    volume: Volume,
    model: ReadyModel,
    settings: ReconstructionSettings | None = None,
    reporter: Reporter | None = None,
    *,
    smooth_mm: float | None = None,
    batch_size: int | None = None,
) -> DenseFeatures:
    """Compute a classifier's features of all planes of a volume.

    Args:
        volume: The scan.
        model: A classifier, ready on its device.
        settings: Of the planes; None for the model's own. The grid is that of M^3 nodes in any case: D values at each
            voxel of a scan would be many times as many and say no more.
        reporter: Is told how far it is, and may end it.
        smooth_mm: Standard deviation of a Gaussian on every volume, 0 for none. None for `SMOOTHED_NODES` distances of
            nodes: second derivatives are mostly noise below that. The settings' own is for heatmaps.
        batch_size: Slices at once, None for the device's own.

    Returns:
        What the features' volumes are made of.

    Raises:
        TonnoError: The model has no feature vector, or the volume nothing to look at.
    """
    reporter = reporter or Reporter()
    encoder = feature_encoder(model)
    asked = replace(settings or model.choices.settings(), methods=("tonno",), grid="band-limited")
    run = decide(asked, model, variants={"tonno": model.choices.variant("tonno", asked)})
    prepared = get_ready(volume, run).prepared
    assert isinstance(prepared, PreparedVolume)
    planes = Planes(volume, run, prepared.frame_to_ras)
    plan = planes.tomographic(asked.directions)
    grid = planes.grid(plan)
    count, offsets = len(encoder.classes), plan.slices + 2
    batch = BatchSize(batch_size or standard_batch(run), fit=batch_size is None)
    wanted = Maps({index: () for index in range(count)})
    projector = Projector(encoder, source_of(prepared, run), wanted, batch, reporter, shifts=planes.shifts)
    projections = torch.empty(count, len(plan.directions), offsets, device=run.device)
    ends = np.cumsum(plan.counts)
    for batches in projector.project(plan):
        which = batches[0].which
        projections[:, which] = torch.stack([batches[index].logits for index in range(count)]).to(projections)
        reporter.progress(int(ends[which.stop - 1]), int(ends[-1]))
    if smooth_mm is None:
        smooth_mm = SMOOTHED_NODES * float(np.linalg.norm((plan.frame_to_ras @ grid.ijk_to_frame)[:3, 0]))
    return DenseFeatures(
        projections=projections,
        plan=plan,
        grid=grid,
        variant=run.variants[0].raw(),
        smooth_mm=smooth_mm,
        foreground=_foreground(volume, prepared, planes, grid),
        run=run,
        slices_total=projector.slices_total,
        slices_blank=projector.slices_blank,
        warnings=(*image_warnings(volume, run), *scale_warnings(prepared, run)),
    )


def _foreground(volume: Volume, prepared: PreparedVolume, planes: Planes, grid: TargetGrid) -> npt.NDArray[np.bool_]:
    """Find the nodes in the patient and in the ball; the ball's alone where the patient is thinner than a node."""
    mask = foreground_mask(volume) if prepared.foreground is None else prepared.foreground
    to_voxels = np.linalg.inv(volume.ijk_to_ras) @ planes.frame_to_ras @ grid.ijk_to_frame
    share = resample(torch.as_tensor(mask[None], dtype=torch.float32), to_voxels, grid.shape)[0].numpy()
    z, y, x = (np.linspace(-1.0, 1.0, n) for n in grid.shape)
    ball: npt.NDArray[np.bool_] = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= 1.0
    within: npt.NDArray[np.bool_] = ball & (share >= 0.5)
    return within if within.any() else ball
