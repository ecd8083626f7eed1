"""Random changes of slices that do not change their label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

# Kernels reach this many pixels to either side: three standard deviations of the strongest blur.
BLUR_REACH = 3


@dataclass(frozen=True)
class Augmentation:
    """Strengths of random changes. Values are drawn uniformly per slice, from [-strength, strength].

    Attributes:
        scale: Scaling of the slice's axes u and v, as in the paper.
        shear: Shearing of these, as in the paper.
        gain: Relative change of contrast.
        offset: Change of brightness, in standard deviations of the normalized intensities.
        noise: Standard deviation of white noise in the same unit, from [0, strength].
        blur: Standard deviation of a Gaussian in pixels, from [0, strength].
    """

    scale: float = 0.15
    shear: float = 0.15
    gain: float = 0.2
    offset: float = 0.1
    noise: float = 0.1
    blur: float = 1.0

    def axes(self, basis: npt.NDArray[np.float64], uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Scale and shear the axes of slices within their planes.

        Args:
            basis: Axes (u, v, n) as columns: B 3 3.
            uniform: Random numbers from 0 to 1: B 4.

        Returns:
            Changed axes: B 3 3. n stays, and with it the plane.
        """
        in_plane = np.zeros((len(basis), 3, 3))
        in_plane[:, [0, 1], [0, 1]] = 1.0 + (-self.scale + 2.0 * self.scale * uniform[:, :2])
        in_plane[:, [0, 1], [1, 0]] = -self.shear + 2.0 * self.shear * uniform[:, 2:]
        in_plane[:, 2, 2] = 1.0
        return basis @ in_plane

    def changes(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Choose the changes of slices' intensities.

        Args:
            uniform: Random numbers from 0 to 1: B 4.

        Returns:
            Gain, offset, standard deviations of the noise and of the blur: B 4.
        """
        low = np.array([1.0 - self.gain, -self.offset, 0.0, 0.0])
        high = np.array([1.0 + self.gain, self.offset, self.noise, self.blur])
        return np.asarray(low + (high - low) * uniform)


def change_intensities(slices: torch.Tensor, changes: npt.NDArray[np.float64], seeds: Sequence[int]) -> torch.Tensor:
    """Blur slices, then change gain and offset and add white noise, which a scanner does not blur either.

    Args:
        slices: K slices of each of V volumes: V K S S.
        changes: V K 4, as `Augmentation.changes` draws them.
        seeds: Of each volume's noise, V.

    Returns:
        Changed slices: V K S S.
    """
    table = torch.as_tensor(changes, dtype=slices.dtype).to(slices.device)
    gain, offset, noise, blur = (values[..., None, None] for values in table.unbind(dim=2))
    white, generator = torch.empty_like(slices), torch.Generator(device=slices.device)
    for several, seed in zip(white, seeds, strict=True):
        several.normal_(generator=generator.manual_seed(seed))
    blurred = gaussian_blur(slices.flatten(0, 1), blur.flatten()).view_as(slices) if changes[..., 3].any() else slices
    return (blurred * gain).add_(offset).add_(white.mul_(noise))


def gaussian_blur(slices: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each slice by a Gaussian; the values at the edge are repeated beyond it.

    Args:
        slices: B V U.
        sigma: Standard deviation of each in pixels, up to about 1: B.

    Returns:
        Blurred slices: B V U.
    """
    steps = torch.arange(-BLUR_REACH, BLUR_REACH + 1, dtype=slices.dtype, device=slices.device)
    # A vanishing sigma leaves the slice as it is.
    kernels = torch.exp(-0.5 * (steps / sigma[:, None].clamp_min(1e-3)) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True))[:, None]
    padded = F.pad(slices[None], (BLUR_REACH,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernels[:, :, None], groups=len(slices))
    return F.conv2d(rows, kernels[..., None], groups=len(slices))[0]
