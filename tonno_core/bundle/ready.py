"""A model on its device, ready for any number of volumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from tonno_core import kernels
from tonno_core.bundle.calibration import ModelChoices
from tonno_core.bundle.file import Bundle, BundleSpec, layered_classifier, load_bundle
from tonno_core.bundle.own import OwnClassifier, describe
from tonno_core.encoding.device import choose_device, choose_precision
from tonno_core.encoding.encoder import Encoder, PixelSum
from tonno_core.encoding.layers import LayeredModel
from tonno_core.errors import TonnoError
from tonno_core.segmenter.segmenter import Segmenter
from tonno_core.settings import SEGMENTER, ReconstructionSettings
from tonno_core.volume.intensity import IMAGE

# Whether an encoder is compiled.
Compiled = bool | Literal["auto"]
PIXEL_SUM = "pixel-sum"
PIXEL_SUM_CHOICES = ModelChoices(PixelSum.classes, 96, {"methods": ("tonno",)})


@dataclass(frozen=True)
class ReadyModel:
    """An encoder, or a segmenter, and what a reconstruction must know of its model.

    Attributes:
        encoder: Answers slices; a segmenter, volumes.
        spec: The model's description, None for ``pixel-sum``.
        slice_size: S pixels, for which the encoder was made; 0 for a segmenter.
        device: Where it runs.
        precision: Of its numbers.
    """

    encoder: Encoder | Segmenter
    spec: BundleSpec | None
    slice_size: int
    device: torch.device
    precision: torch.dtype

    @property
    def pixel_mm(self) -> float | None:
        """Pixel size of the training slices, None where there is none."""
        return None if self.spec is None else self.spec.pixel_mm

    def classifier(self) -> Encoder:
        """Return the encoder of slices.

        Returns:
            The encoder.

        Raises:
            TonnoError: The model is a segmenter.
        """
        if isinstance(self.encoder, Segmenter):
            raise TonnoError("`model`: is a segmenter, expected a classifier of slices")
        return self.encoder

    @property
    def shifts_mm(self) -> tuple[float, ...]:
        """How far each channel's slice lies along the normal; empty where all channels get the same slice."""
        return () if self.spec is None else self.spec.shifts_mm

    @property
    def intensity(self) -> str:
        """How the volume's intensities are normalised."""
        return IMAGE if self.spec is None else self.spec.intensity

    @property
    def choices(self) -> ModelChoices:
        """What the model says of its heatmaps."""
        return PIXEL_SUM_CHOICES if self.spec is None else self.spec.choices


def prepare_model(
    model: Bundle | str,
    settings: ReconstructionSettings | None,
    device: str = "auto",
    precision: str = "auto",
    *,
    compiled: Compiled = False,
    runs: int = 1,
) -> ReadyModel:
    """Put a model on a device.

    Args:
        model: A bundle, or ``"pixel-sum"``.
        settings: Whose slice size counts; None for the model's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        compiled: By `torch.compile`, for ToNNO's logits; ``auto`` where it works and saves more time than it takes.
        runs: With these settings, for ``auto``.

    Returns:
        The model, ready for any number of volumes.

    Raises:
        TonnoError: It cannot run there.
    """
    chosen = choose_device(device)
    size = (None if settings is None else settings.slice_size) or choices_of_model(model).slice_size
    if isinstance(model, Bundle) and model.spec.kind == SEGMENTER:
        if compiled is True:
            raise TonnoError("`compiled`: a segmenter is not compiled; leave it out")
        dtype = choose_precision(precision, chosen, dense=True)
        return ReadyModel(model.segmenter(device=chosen, precision=dtype), model.spec, 0, chosen, dtype)
    kernels.prove_ahead(chosen)
    if isinstance(model, Bundle):
        encoder = model.classifier(device=chosen, slice_size=size)
        whole = model.spec.layers and precision == "auto"  # whose last layer would run in it as well
        dtype = choose_precision("float32" if whole else precision, chosen, dense=not encoder.depthwise)
        encoder.fit(size, dtype)
        if compiled == "auto":
            alone = settings is not None and set(settings.methods) == {"tonno"}  # else maps are asked as well
            if settings and alone and encoder.compiling_pays(runs * settings.directions * (settings.slices + 2)):
                with suppress(TonnoError):
                    encoder.compile(size)
        elif compiled:
            encoder.compile(size)
        return ReadyModel(encoder, model.spec, size, chosen, dtype)
    if model == PIXEL_SUM:
        return ReadyModel(PixelSum(), None, size, chosen, torch.float32)
    raise TonnoError(f"`model` {model}: expected a bundle's folder or {PIXEL_SUM}")


def prepare_module(
    module: nn.Module,
    layers: Sequence[str],
    slice_size: int = 224,
    *,
    device: str = "auto",
    precision: str = "float32",
    **described: Any,
) -> ReadyModel:
    """Put any classifier of images on a device, as a model of heatmaps.

    Args:
        module: From images ``B C V U`` to logits ``B K``; stays as it is.
        layers: Names of the layers whose maps are wanted (as `nn.Module.named_modules` has them), its stages. Their
            order is that in which they are called.
        slice_size: S pixels of its input.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``float32``; or ``bfloat16`` or ``float16``, in which then its last layer runs as well.
        described: What it was trained with, as `OwnClassifier` has it: ``channels``, ``classes``, ``intensity``,
            ``white``, ``mean``, ``std``, ``pixel_mm``, ``activation``. Without ``channels`` those of its first
            convolution are taken; without ``classes`` several outputs are called ``output 0``, ``output 1``, ...

    Returns:
        The model, ready for any number of volumes.

    Raises:
        TonnoError: It has no such layers, puts out no logits, or was described as something that it is not.
    """
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    channels = described.setdefault("channels", 1 if first is None else first.in_channels)
    model = LayeredModel(module, layers, channels=channels, slice_size=slice_size)
    if "classes" not in described and model.classes > 1:
        described["classes"] = tuple(f"output {index}" for index in range(model.classes))
    own = OwnClassifier(type(module).__name__, "none", slice_size, **described)
    spec = dataclasses.replace(describe(own), layers=model.layers, training={"weights": "of the module"})
    chosen, dtype = choose_device(device), choose_precision(precision, choose_device(device))
    encoder = layered_classifier(model, spec, device=chosen, precision=dtype)
    return ReadyModel(encoder, spec, slice_size, chosen, dtype)


def choices_of_model(model: Bundle | str) -> ModelChoices:
    """Return what a model says of its heatmaps.

    Args:
        model: A bundle, or ``pixel-sum``.

    Returns:
        The choices.
    """
    return model.spec.choices if isinstance(model, Bundle) else PIXEL_SUM_CHOICES


def load_model(name: str) -> Bundle | str:
    """Load a model by its name.

    Args:
        name: A bundle's folder, or ``pixel-sum``.

    Returns:
        The bundle, or the name.

    Raises:
        TonnoError: The folder holds no usable bundle.
    """
    return PIXEL_SUM if name == PIXEL_SUM else load_bundle(name)
