"""A model on its device, ready for any number of volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tonno_core.bundle.calibration import ModelThreshold
from tonno_core.bundle.file import Bundle, BundleSpec
from tonno_core.encoding.device import choose_device, choose_precision
from tonno_core.encoding.encoder import Encoder, PixelSum
from tonno_core.errors import TonnoError
from tonno_core.settings import ReconstructionSettings, Variant, combine, variant_of

PIXEL_SUM = "pixel-sum"
_PIXEL_SUM_SIZE = 96


@dataclass(frozen=True)
class ReadyModel:
    """An encoder and what a reconstruction must know of its model.

    spec: None for ``pixel-sum``. slice_size: S pixels, for which the encoder was made.
    """

    encoder: Encoder
    spec: BundleSpec | None
    slice_size: int
    device: torch.device
    precision: torch.dtype

    @property
    def pixel_mm(self) -> float | None:
        """Pixel size of the training slices, None where there is none."""
        return None if self.spec is None else self.spec.pixel_mm

    @property
    def intensity(self) -> str:
        """How the volume's intensities are normalised."""
        return "none" if self.spec is None else self.spec.intensity

    def settings(self, asked: ReconstructionSettings | None) -> ReconstructionSettings:
        """Those asked for, None for the model's own. Raises TonnoError for another slice size than the encoder's."""
        settings = asked or combine(defaults=default_settings(self.spec), explicit={})
        if _size(self.spec, settings) != self.slice_size:
            raise TonnoError(f"`slice_size` is {settings.slice_size}, the model was made ready for {self.slice_size}")
        return settings

    def variant(self, method: str, settings: ReconstructionSettings) -> Variant:
        """What these settings make for a method."""
        return variant_of(method, settings) if self.spec is None else self.spec.variant(method, settings)

    def threshold(
        self, variant: Variant, settings: ReconstructionSettings, *, zoom: bool = False
    ) -> ModelThreshold | None:
        """The model's threshold of a heatmap under some settings, None where it brings none."""
        return None if self.spec is None else self.spec.threshold_for(variant, settings, zoom=zoom)


def prepare_model(
    model: Bundle | str,
    settings: ReconstructionSettings | None,
    device: str = "auto",
    precision: str = "auto",
    *,
    compiled: bool = False,
) -> ReadyModel:
    """Put a bundle's classifier, or ``"pixel-sum"``, on a device. Raises TonnoError where it cannot run there.

    compiled: by `torch.compile`, for ToNNO's logits; worth it where a run takes minutes.
    """
    chosen = choose_device(device)
    if isinstance(model, Bundle):
        size = _size(model.spec, settings)
        dtype = choose_precision(precision, chosen)
        encoder = model.classifier(device=chosen, precision=dtype, slice_size=size)
        encoder.fit_memory_format(size)
        if compiled:
            encoder.compile(size)
        return ReadyModel(encoder, model.spec, size, chosen, dtype)
    if model == PIXEL_SUM:
        return ReadyModel(PixelSum(), None, _size(None, settings), chosen, torch.float32)
    raise TonnoError(f"`model` {model}: expected a bundle's folder or {PIXEL_SUM}")


def default_settings(spec: BundleSpec | None) -> dict[str, Any]:
    """A model's own settings by name."""
    return {"methods": ("tonno",)} if spec is None else spec.defaults


def _size(spec: BundleSpec | None, settings: ReconstructionSettings | None) -> int:
    default = _PIXEL_SUM_SIZE if spec is None else spec.slice_size
    return (None if settings is None else settings.slice_size) or default
