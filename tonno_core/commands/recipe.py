"""What is asked of a reconstruction, whatever the volume: checked, and with its model loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tonno_core.bundle.file import Bundle, load_bundle
from tonno_core.bundle.ready import PIXEL_SUM
from tonno_core.reconstruction.run import check_zoom
from tonno_core.segmentation.binarize import check_options
from tonno_core.segmentation.threshold import parse_threshold
from tonno_core.settings import ReconstructionSettings, combine
from tonno_core.slicing.region import Region
from tonno_core.slicing.roi import read_region


@dataclass(frozen=True)
class Recipe:
    """What is asked for, whatever the volume.

    threshold: ``auto``, ``otsu`` or a number. stop_when: ``stable`` to end when the segmentations no longer change.
    """

    model: Bundle | str
    settings: ReconstructionSettings
    threshold: str = "auto"
    min_volume_mm3: float = 0.0
    file_format: str = "nii.gz"
    replace_nonfinite: bool = False
    region: Region | None = None
    zoom: bool = False
    stop_when: str | None = None

    def record(self) -> dict[str, Any]:
        """All but the model, as JSON holds it."""
        choices = ("threshold", "min_volume_mm3", "file_format", "replace_nonfinite", "stop_when")
        return {
            "settings": dataclasses.asdict(self.settings),
            **{name: getattr(self, name) for name in choices},
            "region": self.region_record(),
        }

    def region_record(self) -> dict[str, Any] | None:
        """As the report holds it: the box is |x|, |y|, |z| <= 1."""
        return None if self.region is None else {"box_to_ras": self.region.box_to_ras.tolist(), "zoom": self.zoom}


def make_recipe(
    *,
    model: str,
    options: Mapping[str, Any],
    preset: str | None = None,
    threshold: str = "auto",
    min_volume_mm3: float = 0.0,
    file_format: str = "nii.gz",
    replace_nonfinite: bool = False,
    region: str | None = None,
    zoom: bool = False,
    stop_when: str | None = None,
) -> Recipe:
    """Load the model and check all choices, before any volume is read.

    options: settings that were asked for, by the names of `ReconstructionSettings`. region: see `read_region`.
    """
    check_options(parse_threshold(threshold) or 0.0, None, min_volume_mm3)
    loaded = load_model(model)
    defaults: Mapping[str, Any] = {"methods": ("tonno",)} if isinstance(loaded, str) else loaded.spec.defaults
    settings = combine(defaults=defaults, preset=preset, explicit=options)
    box = None if region is None else read_region(region)
    if zoom:
        check_zoom(box, settings)
    if stop_when is not None:
        settings = one_pass(settings)
    return Recipe(
        loaded, settings, threshold, min_volume_mm3, file_format, replace_nonfinite, box, zoom, stop_when
    )  # fmt: skip


def load_model(name: str) -> Bundle | str:
    """A bundle by its folder, or ``pixel-sum``."""
    return PIXEL_SUM if name == PIXEL_SUM else load_bundle(name)


def one_pass(settings: ReconstructionSettings) -> ReconstructionSettings:
    """The same with as many directions for all methods as for the one that has most: one pass ends for all."""
    most = max(settings.directions_for(method) for method in settings.methods)
    return dataclasses.replace(settings, directions=most, cam_directions=None)


def model_identity(model: Bundle | str) -> Any:
    """What tells models apart, as JSON."""
    if isinstance(model, str):
        return model
    return {"encoder": model.spec.encoder, "sha256": model.spec.sha256, "about": model.spec.about}
