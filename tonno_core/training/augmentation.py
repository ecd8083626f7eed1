"""Random changes of slices that leave their label alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Augmentation:
    """Strengths; a value is drawn uniformly from [-strength, strength], per slice.

    scale, shear: of the slice's own axes u and v, as in the paper. gain: relative. offset, noise: in
    units of the normalised intensities' standard deviation (noise is drawn from [0, noise]).
    """

    scale: float = 0.15
    shear: float = 0.15
    gain: float = 0.2
    offset: float = 0.1
    noise: float = 0.1

    def axes(self, basis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Scale and shear the (u, v) columns of B 3 3 within their plane; n stays, and with it the plane."""
        count = len(basis)
        in_plane = np.zeros((count, 3, 3))
        in_plane[:, [0, 1], [0, 1]] = 1.0 + rng.uniform(-self.scale, self.scale, (count, 2))
        in_plane[:, [0, 1], [1, 0]] = rng.uniform(-self.shear, self.shear, (count, 2))
        in_plane[:, 2, 2] = 1.0
        return basis @ in_plane

    def intensities(self, slices: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Gain, offset and white noise on ``B V U``."""
        count = len(slices)

        def drawn(low: float, high: float) -> torch.Tensor:
            values = torch.as_tensor(rng.uniform(low, high, (count, 1, 1)), dtype=slices.dtype)
            return values.to(slices.device)

        generator = torch.Generator(device=slices.device).manual_seed(int(rng.integers(2**63)))
        white = torch.randn(slices.shape, generator=generator, device=slices.device, dtype=slices.dtype)
        gain, offset = drawn(1.0 - self.gain, 1.0 + self.gain), drawn(-self.offset, self.offset)
        return slices * gain + offset + white * drawn(0.0, self.noise)
