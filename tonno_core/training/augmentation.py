"""Random changes of slices that do not change their label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# Kernels reach this many pixels to either side: three standard deviations of the strongest blur.
_BLUR_REACH = 3


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

    def axes(self, basis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Scale and shear the axes of slices within their planes.

        Args:
            basis: Axes (u, v, n) as columns: B 3 3.
            rng: Source of random numbers.

        Returns:
            Changed axes: B 3 3. n stays, and with it the plane.
        """
        count = len(basis)
        in_plane = np.zeros((count, 3, 3))
        in_plane[:, [0, 1], [0, 1]] = 1.0 + rng.uniform(-self.scale, self.scale, (count, 2))
        in_plane[:, [0, 1], [1, 0]] = rng.uniform(-self.shear, self.shear, (count, 2))
        in_plane[:, 2, 2] = 1.0
        return basis @ in_plane

    def intensities(self, slices: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Blur slices, then change gain and offset and add white noise, which a scanner does not blur either.

        Args:
            slices: B V U.
            rng: Source of random numbers.

        Returns:
            Changed slices: B V U.
        """
        count = len(slices)

        def drawn(low: float, high: float) -> torch.Tensor:
            values = torch.as_tensor(rng.uniform(low, high, (count, 1, 1)), dtype=slices.dtype)
            return values.to(slices.device)

        generator = torch.Generator(device=slices.device).manual_seed(int(rng.integers(2**63)))
        white = torch.randn(slices.shape, generator=generator, device=slices.device, dtype=slices.dtype)
        gain, offset = drawn(1.0 - self.gain, 1.0 + self.gain), drawn(-self.offset, self.offset)
        noise, blur = drawn(0.0, self.noise), drawn(0.0, self.blur)
        blurred = gaussian_blur(slices, blur.flatten()) if self.blur > 0 else slices
        return blurred * gain + offset + white * noise


def gaussian_blur(slices: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each slice by a Gaussian; the values at the edge are repeated beyond it.

    Args:
        slices: B V U.
        sigma: Standard deviation of each in pixels, up to about 1: B.

    Returns:
        Blurred slices: B V U.
    """
    steps = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, dtype=slices.dtype, device=slices.device)
    # A vanishing sigma leaves the slice as it is.
    kernels = torch.exp(-0.5 * (steps / sigma[:, None].clamp_min(1e-3)) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True))[:, None]
    padded = F.pad(slices[None], (_BLUR_REACH,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernels[:, :, None], groups=len(slices))
    return F.conv2d(rows, kernels[..., None], groups=len(slices))[0]
