"""ToNNO as one would write it from the paper, in plain torch: what `tonno bench --compare` measures the engine against.

Per direction: coordinates of every sample of every slice, one 3D `grid_sample`, the classifier as it was trained in
float32, a second difference, and backprojection at every voxel of the input. No skipping, folding, reduced precision
or coarser grid. Which planes are looked at (the frame, the directions, the basis in the plane, the prepared volume) is
the engine's own choice, so that both do the same work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import prepare_model
from tonno_core.encoding.classifier import create_model
from tonno_core.reconstruction.planes import Planes
from tonno_core.settings import ReconstructionSettings
from tonno_core.slicing.directions import plane_basis
from tonno_core.slicing.preparation import prepare_volume
from tonno_core.volume.volume import Matrix, Volume

BATCH = 128


@dataclass(frozen=True)
class PlainToNNO:
    """A volume and a network, ready to run. volume: 1 1 Z Y X less fill. frame_to_grid: 4 x 4, to its grid_sample
    coordinates. points: P 3, the input's voxels in the frame. directions: L 3. inside: P, the voxels to show."""

    model: nn.Module
    channels: int
    class_index: int
    volume: torch.Tensor
    fill: float
    frame_to_grid: torch.Tensor
    points: torch.Tensor
    inside: torch.Tensor
    shape: tuple[int, int, int]
    directions: torch.Tensor
    slices: int
    pixels: int

    @torch.no_grad()
    def heatmap(self) -> torch.Tensor:
        """``Z Y X`` on the input's own grid."""
        total = torch.zeros(len(self.points), device=self.points.device)
        step = 2.0 / (self.slices - 1)
        for normal in self.directions:
            logits = self.logits(normal)
            curvature = torch.diff(logits, n=2) / step**2  # M
            total += self._along(curvature, self.points @ normal)
        side = 2.0 * self.pixels / (self.pixels - 1)
        mean = total / len(self.directions)
        return (mean * self.inside * -(side**2 / (2.0 * math.pi))).reshape(self.shape)

    @torch.no_grad()
    def logits(self, normal: torch.Tensor) -> torch.Tensor:
        """The classifier's answers to the M + 2 slices of one direction."""
        basis = torch.as_tensor(plane_basis(normal.double().cpu().numpy()[None])[0]).to(normal)
        u, v, n = basis.unbind(dim=1)
        t = torch.linspace(-1.0, 1.0, self.pixels, device=normal.device)
        s = torch.arange(-1, self.slices + 1, device=normal.device) * (2.0 / (self.slices - 1)) - 1.0
        frame = s[:, None, None, None] * n + t[:, None, None] * v + t[:, None] * u  # T V U 3
        grid = frame @ self.frame_to_grid[:3, :3].T + self.frame_to_grid[:3, 3]
        slices = F.grid_sample(self.volume, grid[None], align_corners=True)[0, 0] + self.fill
        images = slices[:, None].repeat(1, self.channels, 1, 1)
        return torch.cat([self.model(batch)[:, self.class_index] for batch in torch.split(images, BATCH)])

    @staticmethod
    def _along(profile: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Linear interpolation of a profile over [-1, 1] at ``s``, zero beyond."""
        at = torch.stack([s, torch.zeros_like(s)], dim=-1)[None, None]
        values = F.grid_sample(profile[None, None, None], at, align_corners=True, padding_mode="border")[0, 0, 0]
        return values * (s.abs() <= 1.0 + 1e-5)  # nodes on the cube's faces are not lost to rounding


def plain_tonno(
    volume: Volume, bundle: Bundle, settings: ReconstructionSettings, device: torch.device | str = "cpu"
) -> PlainToNNO:
    """The plain reference for a volume and a bundle, with the planes that the engine would look at."""
    spec = bundle.spec
    size = settings.slice_size or spec.slice_size
    prepared = prepare_volume(
        volume, frame=settings.frame, intensity=spec.intensity, slice_size=size,
        pixel_mm=spec.pixel_mm if settings.slice_size is None else None, radius_mm=settings.radius_mm,
    )  # fmt: skip
    planes = Planes(volume, decide(settings, prepare_model(bundle, settings, "cpu", "float32")), prepared.frame_to_ras)
    directions = planes.tomographic(settings.directions_for("tonno")).directions
    model = create_model(
        spec.encoder, channels=spec.channels, classes=len(spec.classes), norm=spec.norm, slice_size=size
    )
    model.load_state_dict(bundle.weights, strict=False)
    z, y, x = volume.array.shape
    ijk = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (z, y, x)), indexing="ij")[::-1], dim=-1)
    ijk_to_frame = torch.as_tensor(_inverse(prepared.frame_to_ras) @ volume.ijk_to_ras)
    points = ijk.reshape(-1, 3).double() @ ijk_to_frame[:3, :3].T + ijk_to_frame[:3, 3]
    array = torch.as_tensor(prepared.volume.array - prepared.fill)[None, None]
    return PlainToNNO(
        model=model.eval().to(device),
        channels=spec.channels,
        class_index=spec.classes.index(settings.class_name) if settings.class_name else 0,
        volume=array.to(device),
        fill=prepared.fill,
        frame_to_grid=torch.as_tensor(_frame_to_grid(prepared.volume, prepared.frame_to_ras)).float().to(device),
        points=points.float().to(device),
        inside=torch.as_tensor(planes.inside).reshape(-1).to(device),
        shape=(z, y, x),
        directions=torch.as_tensor(directions).float().to(device),
        slices=settings.slices,
        pixels=size,
    )


def _frame_to_grid(volume: Volume, frame_to_ras: Matrix) -> Matrix:
    """From the frame to [-1, 1]^3 between the centres of a volume's first and last voxels."""
    matrix = _inverse(volume.ijk_to_ras) @ frame_to_ras
    half = (torch.tensor(volume.size_ijk, dtype=torch.float64) - 1.0) / 2.0
    matrix[:3] /= half.numpy()[:, None]
    matrix[:3, 3] -= 1.0
    return matrix


def _inverse(matrix: Matrix) -> Matrix:
    return np.asarray(torch.linalg.inv(torch.as_tensor(matrix)).numpy())
