"""ToNNO: 3D weakly supervised segmentation by tomographic reconstruction of a 2D classifier's output.

    import tonno_core as tonno

    result = tonno.reconstruct("scan.nii.gz", "my-model")
    heatmap = result.heatmaps["matched-cam"]
    mask = heatmap.with_array(result.segment("matched-cam").mask)
    tonno.write_volume(heatmap, "heatmap.nii.gz")
    tonno.write_volume(mask, "mask.nii.gz", dtype="uint8")
    result.show()  # the overview, in a notebook

Names are loaded when they are first used, so importing the package is cheap and needs no torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tonno_core.bundle.file import Bundle, load_bundle
    from tonno_core.bundle.ready import prepare_module
    from tonno_core.errors import TonnoError, TonnoWarning
    from tonno_core.reconstruction import Reconstruction, reconstruct
    from tonno_core.segmentation.binarize import binarize, components, otsu_threshold
    from tonno_core.settings import ReconstructionSettings
    from tonno_core.volume.io import read_volume, write_volume
    from tonno_core.volume.volume import Volume

__version__ = "0.1.0"

# Same seed, same result: by default MKL, which multiplies torch's matrices on CPUs, may share a product among its
# threads differently from call to call. It reads this at its first product, so it must stand before that.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_HOME = {
    "Bundle": "bundle.file",
    "Reconstruction": "reconstruction",
    "ReconstructionSettings": "settings",
    "TonnoError": "errors",
    "TonnoWarning": "errors",
    "Volume": "volume.volume",
    "binarize": "segmentation.binarize",
    "components": "segmentation.binarize",
    "load_bundle": "bundle.file",
    "otsu_threshold": "segmentation.binarize",
    "prepare_module": "bundle.ready",
    "read_volume": "volume.io",
    "reconstruct": "reconstruction",
    "write_volume": "volume.io",
}

__all__ = [
    "Bundle",
    "Reconstruction",
    "ReconstructionSettings",
    "TonnoError",
    "TonnoWarning",
    "Volume",
    "binarize",
    "components",
    "load_bundle",
    "otsu_threshold",
    "prepare_module",
    "read_volume",
    "reconstruct",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
