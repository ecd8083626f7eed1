"""The threshold that a model brings with it, from image-level labels alone.

What the heatmap reaches in volumes without the finding is noise: the threshold is what most of them never
reach anywhere (docs/method.md). No mask is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tonno_core.encoding.bundle import Bundle
from tonno_core.reconstruction import reconstruct
from tonno_core.settings import SETTINGS_THAT_MATTER, ReconstructionSettings, Variant, choices_of
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume

# The threshold: this share of the negative scans have no voxel above it.
SHARE_OF_VOLUMES = 0.95
# The noise floor: one foreground voxel in a thousand of a negative scan reaches it.
FLOOR_QUANTILE = 0.999


def calibrate(
    bundle: Bundle,
    negatives: Sequence[Path],
    settings: ReconstructionSettings,
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Thresholds by method for a bundle, from volumes without the finding, under given settings."""
    used: dict[str, Variant] = {}
    peaks: dict[str, list[float]] = {method: [] for method in settings.methods}
    floors: dict[str, list[float]] = {method: [] for method in settings.methods}
    for path in tqdm(negatives, desc="calibrating", unit="volume", disable=not progress):
        volume = read_volume(path)
        result = reconstruct(volume, bundle, settings, device=device, precision=precision)
        used = result.variants  # with the stage that was chosen, where none was given
        looked_at = foreground_mask(volume) & result.inside
        for method, heatmap in result.heatmaps.items():
            values = heatmap.array[looked_at]
            peaks[method].append(float(values.max()))
            floors[method].append(float(np.quantile(values, FLOOR_QUANTILE)))
    return {
        method: {
            "threshold": float(np.quantile(peaks[method], SHARE_OF_VOLUMES)),
            "volume_quantile": SHARE_OF_VOLUMES,
            "noise_floor": float(np.mean(floors[method])),
            "voxel_quantile": FLOOR_QUANTILE,
            "negative_volumes": len(peaks[method]),
            "settings": {
                name: getattr(used[method] if name in choices_of(method) else settings, name)
                for name in SETTINGS_THAT_MATTER[method]
            },
        }
        for method in settings.methods
        if peaks[method]
    }
