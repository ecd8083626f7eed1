"""A timm image classifier as an encoder of slices."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import timm
import torch
from torch import nn

from tonno_core.encoding.cam import activation_map, gradients_at
from tonno_core.encoding.encoder import ClassMaps, check_finite
from tonno_core.encoding.normalization import NormKind, fold_batch_norm, to_group_norm
from tonno_core.errors import TonnoError, first_line
from tonno_core.settings import CamKind

# What a model's body hands to its head; those of several branches hand over a list.
Features = torch.Tensor | list[torch.Tensor]


def create_model(
    name: str, *, channels: int, classes: int, norm: NormKind, slice_size: int, imagenet: bool = False
) -> nn.Module:
    """A timm model with random weights, or the ImageNet weights that timm fetches from its hub.

    Raises TonnoError for a name that timm does not know, a slice size that the model cannot have, or where
    the hub cannot be reached.
    """
    if not timm.is_model(name):
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise TonnoError(f"encoder '{name}' is not a timm model{hint} (timm.list_models() lists all)")
    options = {"in_chans": channels, "num_classes": classes, **size_options(name, slice_size)}
    try:
        model: nn.Module = timm.create_model(name, pretrained=imagenet, **options)
    except Exception as error:  # assertions of the model; the hub's client: no network, no such file, proxy
        reason = first_line(error)
        if not imagenet:
            raise TonnoError(
                f"encoder {name} cannot be made for {channels} channels and slices of {slice_size} pixels ({reason})"
            ) from error
        raise TonnoError(
            f"`weights` imagenet: the weights of {name} could not be fetched ({reason}); "
            "on a machine without internet give `weights` FILE"
        ) from error
    if norm == "group":
        to_group_norm(model)
    return model


def size_options(name: str, slice_size: int) -> dict[str, Any]:
    """The keyword that models of a fixed input size (vision transformers) need; others take any size."""
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    return {"img_size": slice_size} if fixed else {}


def stage_modules(model: nn.Module) -> list[tuple[int, str]]:
    """The feature stages after the stem, finest first: (timm's feature index, module name)."""
    entries = getattr(model, "feature_info", None)
    if entries is None or not hasattr(model, "forward_intermediates"):
        raise TonnoError(
            f"encoder {type(model).__name__} has no feature stages in timm (forward_intermediates); "
            "choose another, such as resnet10t"
        )
    names = [str(entry["module"]) for entry in entries]
    first = 1 if _is_stem(model, names[0]) else 0
    return list(enumerate(names))[first:]


def _is_stem(model: nn.Module, module: str) -> bool:
    """A stem is called so or has no name, or ends in an activation or a norm, which have no kernels (act1, bn1)."""
    found = dict(model.named_modules()).get(module)  # None: timm's names are not always those of modules
    kernels = found is None or any(weight.ndim > 1 for weight in found.parameters())
    return not module or module.startswith("stem") or not kernels


def place(model: nn.Module, device: torch.device) -> bool:
    """Move to a device, channels last, which convolutions are fastest in; not models with 3D kernels (False)."""
    model.to(device=device)
    images = all(weight.ndim < 5 for weight in model.parameters())
    if images:
        model.to(memory_format=torch.channels_last)
    return images


def try_slice(encoder: Classifier, size: int, name: str) -> None:
    """Have one blank slice of ``size`` pixels classified; raises TonnoError where the model refuses that size."""
    try:
        check_finite(encoder.logits(torch.zeros(1, size, size, device=encoder.device)))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # as models refuse
        raise TonnoError(
            f"encoder {name} cannot take slices of {size} x {size} pixels ({first_line(error)}); "
            "choose another `slice_size`"
        ) from error


class Classifier:
    """A trained timm model, in evaluation mode, batch norm folded, on a device at a precision.

    The body runs in ``precision``; pooling and the last layer in float32, because a logit of 4 in
    bfloat16 has steps of 0.03, which the second derivative would magnify. The gradient of a CAM is taken
    back to its stage only, and not at all where it is the same for every input (last stage, average
    pooling, linear layer).
    """

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        *,
        channels: int,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        fold: bool = True,
    ) -> None:
        self._classes = classes
        self._channels = channels
        self.device = torch.device(device)
        self._precision = precision
        self._stages = stage_modules(model)
        # timm's methods (forward_features, forward_intermediates, forward_head) are not nn.Module's.
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        if fold:
            fold_batch_norm(self.model)
        self.images = place(self.model, self.device)
        self._layout = torch.channels_last
        self._constant: dict[tuple[int, int, int], torch.Tensor | None] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self._classes

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return self._channels

    @property
    def precision(self) -> torch.dtype:
        """Of the body."""
        return self._precision

    @property
    def norms(self) -> str:
        """The kinds of its normalisation layers, which decide how fast a layout is."""
        kinds = {type(layer).__name__ for layer in self.model.modules() if "Norm" in type(layer).__name__}
        return ",".join(sorted(kinds))

    @property
    def layout(self) -> str:
        """Name of the memory format."""
        return "channels last" if self._layout == torch.channels_last else "contiguous"

    def set_layout(self, layout: torch.memory_format) -> None:
        """Keep weights and slices in another memory format; answers stay the same but for rounding."""
        self.model.to(memory_format=layout)
        self._layout = layout

    def compile(self, size: int) -> None:
        """Compile the body for logits by `torch.compile`; the first batches take half a minute. CAMs stay as they are.

        Raises TonnoError where it does not work, as without a C++ compiler on a CPU or Triton on a GPU.
        """
        plain = self.model.forward_features
        try:
            self.model.forward_features = torch.compile(plain)
            self.logits(torch.zeros(2, size, size, device=self.device))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of the compiler, of the network that cannot be traced
            self.model.forward_features = plain
            raise TonnoError(
                f"`compiled`: torch.compile does not work for this encoder here ({first_line(error)}); leave it out"
            ) from error

    @property
    def stages(self) -> int:
        """Number of feature stages after the stem."""
        return len(self._stages)

    def stages_with_maps(self, class_index: int, size: int) -> tuple[int, ...]:
        """The stages on whose cells a class's logit depends, for slices of ``size`` pixels (`cam` refuses others)."""
        found = []
        for stage in range(1, self.stages + 1):
            try:
                self._known_gradient(size, class_index, stage)
            except TonnoError:
                continue
            found.append(stage)
        return tuple(found)

    @torch.no_grad()
    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """``B V U`` to ``B K``."""
        with self._autocast():
            features = self.model.forward_features(self._input(slices))
        return self._head(features)

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind
    ) -> tuple[torch.Tensor, ClassMaps]:
        """``B V U`` to logits ``B K``, and maps ``B h w`` by class index and stage (1 is the finest).

        One forward pass, and for each class one backward pass to the finest stage whose gradient is not constant.
        Raises TonnoError at a stage on which the logit does not depend.
        """
        constant = {key: self._known_gradient(slices.shape[-1], *key) for key in asked}
        varying = [key for key in asked if constant[key] is None]
        stages = {stage for _, stage in asked}
        if varying:
            logits, activations, gradients = self._forward_backward(slices, varying, stages)
        else:
            gradients = {}
            with torch.no_grad():
                features, activations = self._forward(self._input(slices), stages)
                logits = self._head(features)
        known = {key: gradient for key, gradient in constant.items() if gradient is not None} | gradients
        exact = {stage: activation.to(logits.dtype) for stage, activation in activations.items()}
        return logits, {key: activation_map(exact[key[1]], known[key].to(logits.dtype), kind) for key in asked}

    def _forward(self, inputs: torch.Tensor, stages: Collection[int]) -> tuple[Features, dict[int, torch.Tensor]]:
        """What the head gets, and some stages' activations ``B C h w``."""
        wanted = sorted(set(stages))  # timm returns them in the order of the network
        with self._autocast():
            features, activations = self.model.forward_intermediates(
                inputs, indices=[self._stages[stage - 1][0] for stage in wanted]
            )
        return features, dict(zip(wanted, activations, strict=True))

    def _forward_backward(
        self, slices: torch.Tensor, varying: Collection[tuple[int, int]], stages: Collection[int]
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[tuple[int, int], torch.Tensor]]:
        """Logits ``B K``, activations of the stages, and gradients ``B C h w`` by class index and varying stage.

        The graph is recorded from the finest varying stage's last weight on, so that nothing before it is kept
        or retraced; from the input on in the few models whose stage has no weight on the way to its output.
        """
        inputs = self._input(slices)
        finest = min(stage for _, stage in varying)
        _, module = self._stages[finest - 1]
        found = dict(self.model.named_modules()).get(module)
        weights = [] if found is None else list(found.parameters())
        for anchor in (*weights[-1:], inputs):
            anchor.requires_grad_(True)
            try:
                with torch.enable_grad():
                    features, activations = self._forward(inputs, stages)
                    logits = self._head(features)
            finally:
                anchor.requires_grad_(False)
            if all(activations[stage].requires_grad for _, stage in varying):
                break
        gradients: dict[tuple[int, int], torch.Tensor] = {}
        for index in dict.fromkeys(index for index, _ in varying):
            keys = [key for key in varying if key[0] == index]
            of_class = gradients_at(logits[:, index], [activations[stage] for _, stage in keys])
            gradients.update(zip(keys, of_class, strict=True))
        detached = {stage: activation.detach() for stage, activation in activations.items()}
        return logits.detach(), detached, gradients

    def _known_gradient(self, size: int, class_index: int, stage: int) -> torch.Tensor | None:
        """The gradient (1 C h w) where it is the same for every input, else None; looked for once."""
        key = (class_index, stage, size)
        if key not in self._constant:
            self._constant[key] = self._constant_gradient(size, class_index, stage)
        return self._constant[key]

    def _constant_gradient(self, size: int, class_index: int, stage: int) -> torch.Tensor | None:
        """The gradient (1 C h w) where it is the same for every input, else None.

        It is where the head gets this stage's very output and is linear; random features of three magnitudes
        show whether. (Random slices would not: a network that expects intensities of thousands answers
        nearly alike to all small ones.) Raises TonnoError where the gradient is zero or does not exist.
        """
        generator = torch.Generator().manual_seed(0)
        dtype = next(self.model.parameters()).dtype

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(3, *shape, generator=generator, dtype=dtype).to(self.device)

        slices = noise(size, size)
        self._check_gradient(slices, class_index, stage)
        with torch.no_grad():
            features, activations = self._forward(self._input(slices), [stage])
        activation = activations[stage]
        if not isinstance(features, torch.Tensor) or features.shape != activation.shape:
            return None
        if not torch.equal(features, activation):
            return None
        magnitudes = torch.tensor([0.1, 1.0, 10.0], dtype=dtype, device=self.device)
        random = (noise(*activation.shape[1:]) * magnitudes[:, None, None, None]).requires_grad_(True)
        with torch.enable_grad():
            (gradients,) = torch.autograd.grad(self._head(random)[:, class_index].sum(), random)
        # Rounding of a linear layer's gradient is 1e-7; any curvature shows over two decades.
        constant = torch.allclose(gradients, gradients[:1].expand_as(gradients), rtol=1e-5, atol=0.0)
        return gradients[:1].clone() if constant else None

    def _check_gradient(self, slices: torch.Tensor, class_index: int, stage: int) -> None:
        try:
            _, _, gradients = self._forward_backward(slices, [(class_index, stage)], [stage])
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise TonnoError(
                f"`stage` {stage}: this encoder gives no map there ({first_line(error)}); "
                f"choose another of 1 to {self.stages}"
            ) from error
        if not gradients[class_index, stage].any():
            raise TonnoError(
                f"`stage` {stage}: the logit of class '{self._classes[class_index]}' does not depend on this stage's "
                "cells, so its map would be empty (after a transformer's last block only the class token counts); "
                f"choose {f'a `stage` from 1 to {stage - 1}' if stage > 1 else 'a classifier that was trained'}"
            )

    def _input(self, slices: torch.Tensor) -> torch.Tensor:
        """Repeat the slice for each input channel: ``B C V U``."""
        return slices[:, None].expand(-1, self._channels, -1, -1).contiguous(memory_format=self._layout)

    def _head(self, features: Features) -> torch.Tensor:
        dtype = next(self.model.parameters()).dtype
        exact = features.to(dtype) if isinstance(features, torch.Tensor) else [one.to(dtype) for one in features]
        logits: torch.Tensor = self.model.forward_head(exact)
        return logits

    def _autocast(self) -> torch.autocast:
        reduced = self._precision != torch.float32
        return torch.autocast(self.device.type, dtype=self._precision, enabled=reduced)
