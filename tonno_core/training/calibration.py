"""The threshold that a model brings with it, from image-level labels alone.

What the heatmap reaches in volumes without the finding is its noise floor: the threshold is a high
quantile of it (docs/method.md). No mask is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tonno_core.encoding.bundle import Bundle
from tonno_core.reconstruction import reconstruct
from tonno_core.settings import SETTINGS_THAT_MATTER, ReconstructionSettings
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume

# One voxel in a thousand of a negative scan may reach the floor ...
QUANTILE = 0.999
# ... and the threshold is what the given share of the negative scans stay below.
SHARE_OF_VOLUMES = 0.9


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
    used = settings
    floors: dict[str, list[float]] = {method: [] for method in settings.methods}
    for path in tqdm(negatives, desc="calibrating", unit="volume", disable=not progress):
        volume = read_volume(path)
        result = reconstruct(volume, bundle, settings, device=device, precision=precision)
        used = result.settings  # with the stage that was chosen, where none was given
        looked_at = foreground_mask(volume) & result.inside
        for method, heatmap in result.heatmaps.items():
            floors[method].append(float(np.quantile(heatmap.array[looked_at], QUANTILE)))
    return {
        method: {
            "threshold": float(np.quantile(values, SHARE_OF_VOLUMES)),
            "noise_floor": float(np.mean(values)),
            "voxel_quantile": QUANTILE,
            "volume_quantile": SHARE_OF_VOLUMES,
            "negative_volumes": len(values),
            "settings": {name: getattr(used, name) for name in SETTINGS_THAT_MATTER[method]},
        }
        for method, values in floors.items()
        if values
    }
