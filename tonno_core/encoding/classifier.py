"""A timm image classifier as an encoder of slices."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import timm
import torch
from torch import nn

from tonno_core.encoding.arguments import check_arguments
from tonno_core.encoding.cam import activation_map, channel_masks, gradients_at, score_map
from tonno_core.encoding.convention import Convention
from tonno_core.encoding.encoder import ClassMaps, check_finite, no_features, without_map
from tonno_core.encoding.fusion import (
    batched,
    convolutions,
    describe_to_compiler,
    fuse,
    library_for,
    overflow_shown,
    slices_at_once,
)
from tonno_core.encoding.hub import quick_hub
from tonno_core.encoding.layers import LayeredModel
from tonno_core.encoding.normalization import (
    ExactGroupNorm,
    NormKind,
    fold_batch_norm,
    to_group_norm,
    use_exact_group_norm,
)
from tonno_core.errors import TonnoError, first_line
from tonno_core.settings import CamKind

# Behind a stride of 4, slices of fewer pixels have no map of 1024 cells or more.
_SMALL_SLICE = 128
# Networks of depthwise convolutions, whose time is group norm's for the most part, gain up to here (measured).
_SMALL_SLICE_DEPTHWISE = 192
# Last parts of names that a first feature has where it comes from the stem.
_STEM = re.compile(r"layer0|(conv|bn|norm|act)\d*|")
# Names of parts that are no stem, also where one is a single convolution.
_BLOCKS = ("blocks", "stages", "serial_blocks")
# Random slices by which a rewritten network is compared with the network as it was, and how much may differ, of what
# there is: rounding alone is 1e-6, and where it turns a ReLU's gradient on or off, 3e-3; of another network it is 1.
_COMPARED, _TOLERANCE = 2, 1e-2
# Numbers that convolutions put out in a run from which on compiling pays. On an H100, fused convolutions of resnet10t
# take 12.3 us a slice of 224 px (2.4 million numbers), compiled 7.6; compiling takes up to 14 s. A CPU is no faster.
_WORTH_COMPILING = 14 / ((12.3e-6 - 7.6e-6) / 2.4e6)
# Of so many batches one is looked at for activations that half precision cannot hold.
_LOOK_EVERY = 8
# What a model's body hands to its head; models of several branches hand over a list.
Features = torch.Tensor | list[torch.Tensor]
_Answers = list[torch.Tensor | None]


def create_model(
    name: str,
    *,
    channels: int,
    classes: int,
    norm: NormKind,
    slice_size: int,
    imagenet: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Create a timm model with random weights, or with the ImageNet weights that timm fetches from its hub.

    Args:
        name: timm's name of the model.
        channels: input channels.
        classes: outputs of the last layer.
        norm: ``group`` replaces every batch norm by a group norm; the others leave the model as it is.
        slice_size: pixels along a side, which models of a fixed input size are made for.
        imagenet: start from ImageNet weights.
        arguments: what else timm makes it with, such as ``{"global_pool": "max"}``.

    Returns:
        The model on the CPU, in training mode.

    Raises:
        TonnoError: timm does not know the name, the model cannot have this slice size, or the hub is out of reach.
    """
    if not timm.is_model(name):
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise TonnoError(f"encoder '{name}' is not a timm model{hint} (timm.list_models() lists all)")
    check_arguments(name, arguments or {})
    options = {"in_chans": channels, "num_classes": classes, **size_options(name, slice_size), **(arguments or {})}
    try:
        with quick_hub() if imagenet else nullcontext():
            model: nn.Module = timm.create_model(name, pretrained=imagenet, **options)
    except Exception as error:  # assertions of the model; the hub's client: no network, no such file, proxy
        reason = first_line(error)
        if not imagenet:
            raise TonnoError(
                f"encoder {name} cannot be made for {channels} channels and slices of {slice_size} pixels ({reason})"
            ) from error
        raise TonnoError(
            f"`weights` imagenet: the weights of {name} could not be fetched ({reason}); without internet, save "
            f"timm.create_model('{name}', pretrained=True).state_dict() where there is some, and give `weights` FILE"
        ) from error
    if norm == "group":
        to_group_norm(model)
    return model


def size_options(name: str, slice_size: int) -> dict[str, int]:
    """Return the keyword that models of a fixed input size (vision transformers) need.

    Args:
        name: timm's name of the model.
        slice_size: pixels along a side.

    Returns:
        Options of `timm.create_model`; empty for models that take any size.
    """
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    return {"img_size": slice_size} if fixed else {}


def stage_modules(model: nn.Module) -> list[tuple[int, str]]:
    """List the feature stages after the stem, finest first.

    Args:
        model: a timm model, or one whose layers were named.

    Returns:
        For each stage timm's feature index and the module's name.

    Raises:
        TonnoError: timm knows no feature stages of this model.
    """
    if isinstance(model, LayeredModel):
        return [(index, f"body.{name}") for index, name in enumerate(model.layers)]
    entries = getattr(model, "feature_info", None)
    if entries is None or not hasattr(model, "forward_intermediates"):
        raise TonnoError(
            f"encoder {type(model).__name__} has no feature stages in timm (forward_intermediates); "
            "choose another, such as resnet10t"
        )
    names = [str(entry["module"]) for entry in entries]
    layers = dict(model.named_modules())
    first = 0
    while first < len(names) - 1 and _is_stem(names[first], layers.get(names[first]), first=first == 0):
        first += 1
    return list(enumerate(names))[first:]


def earlier_stages(model: nn.Module) -> list[str]:
    """List the stages as earlier versions numbered them, which took the first feature alone for a stem, if any.

    Models that they wrote do not name the modules, and mean these.

    Args:
        model: a timm model that `stage_modules` accepts.

    Returns:
        Names of modules, finest first.
    """
    names = [str(entry["module"]) for entry in model.feature_info]  # type: ignore[union-attr]
    layer = dict(model.named_modules()).get(names[0])
    kernels = layer is None or any(weight.ndim > 1 for weight in layer.parameters())
    return names[1:] if not names[0] or names[0].startswith("stem") or not kernels else names


def _is_stem(name: str, layer: nn.Module | None, *, first: bool) -> bool:
    """Tell whether a feature comes before the first block: named so, or a convolution with its norm and activation.

    The first feature may also be nameless, or an activation or norm without kernels. timm's names are not always those
    of modules.
    """
    if "stem" in name:
        return True
    if name.startswith(_BLOCKS):
        return False
    if first and _STEM.fullmatch(name.rpartition(".")[2]):
        return True
    kernels = None if layer is None else sum(weight.ndim > 1 for weight in layer.parameters())
    return kernels == 1 or (first and kernels == 0)


def place(model: nn.Module, device: torch.device, memory_format: torch.memory_format = torch.channels_last) -> None:
    """Move a model to a device and its weights to a memory format, in place.

    Args:
        model: a model of images; one with 3D kernels, for which channels last does not exist, is only moved.
        device: where to.
        memory_format: of its weights.
    """
    model.to(device=device)
    if all(weight.ndim < 5 for weight in model.parameters()):
        model.to(memory_format=memory_format)


def try_slice(encoder: Classifier, size: int, name: str) -> None:
    """Classify one blank slice, to see early that the model takes slices of this size.

    Args:
        encoder: the classifier.
        size: pixels along a side.
        name: of the model, for the message.

    Raises:
        TonnoError: the model refuses this size, or its logits are not finite.
    """
    error = _refusal(lambda: encoder.logits(torch.zeros(1, size, size, device=encoder.device)))
    if error is None:
        return
    remedy = "choose another `slice_size`"
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is not None:
        channels, _, side = config.input_size

        def takes(channels: int, side: int) -> bool:
            return not _refusal(lambda: encoder.model(torch.zeros(1, channels, side, side, device=encoder.device)))

        if takes(encoder.channels, side):
            remedy = f"choose another `slice_size`, such as {side}"
        elif channels != encoder.channels and takes(channels, size):
            remedy = f"it takes {channels} channels only: choose `channels` {channels}"
        elif channels != encoder.channels and takes(channels, side):
            remedy = f"it takes {channels} channels only: choose `channels` {channels} and `slice_size` {side}"
    raise TonnoError(
        f"encoder {name} cannot take slices of {size} x {size} pixels ({first_line(error)}); {remedy}"
    ) from error


def _refusal(classify: Callable[[], torch.Tensor]) -> Exception | None:
    """Return the error with which a model refuses a slice, None if it takes it."""
    try:
        check_finite(classify())
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # the ways in which models refuse
        return error
    return None


class Classifier:
    """A trained timm model in evaluation mode on a device at a precision, its batch norms folded.

    The body runs in ``precision``; pooling and the last layer in float32, because a logit of 4 in
    bfloat16 has steps of 0.03, which the second derivative would magnify. The gradient of a CAM is taken
    back to its stage only, and not at all where it is the same for every input (last stage, average
    pooling, linear layer).

    Attributes:
        device: on which the model runs.
        model: the network.
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
        convention: Convention | None = None,
    ) -> None:
        """Copy a model and make it ready.

        Args:
            model: a timm model, or one whose layers were named, with one output per class.
            classes: names of the K classes.
            channels: of the model's input; a slice is repeated for each.
            device: where it runs.
            precision: of the body.
            fold: fold batch norms into the convolutions before them.
            convention: what it expects of its input and what its outputs mean; None for slices as they are, and
                outputs that are logits.
        """
        self._classes = classes
        self._channels = channels
        self._convention = convention or Convention(channels)
        self.device = torch.device(device)
        self._precision = precision
        self._stages = stage_modules(model)
        # timm's methods (forward_features, forward_intermediates, forward_head) are not nn.Module's.
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        if fold and not isinstance(model, LayeredModel):  # whose hooks a trace does not see
            fold_batch_norm(self.model)
        self._exact = next(self.model.parameters()).dtype  # of the head, whatever the body's is
        self._numbers = 0  # that its convolutions put out for a slice
        self._calls = 0  # of the network
        self._at_once: int | None = None  # slices whose activations stay in a CPU's cache
        self.set_memory_format(torch.channels_last)
        self._constant: dict[tuple[int, int, int], torch.Tensor | None] = {}
        self._channels_of: dict[int, int] = {}  # by stage
        self._with_maps: dict[tuple[int, int], tuple[int, ...]] = {}
        self._read: set[int] = set()  # stages whose module's output is read instead of timm's feature

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self._classes

    @property
    def channels(self) -> int:
        """Number of channels of the network's input."""
        return self._channels

    @property
    def precision(self) -> torch.dtype:
        """Number type in which the body runs."""
        return self._precision

    @property
    def depthwise(self) -> bool:
        """Whether some convolutions take each channel by itself."""
        layers = self.model.modules()
        return any(isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels for layer in layers)

    @property
    def layout(self) -> str:
        """Name of the memory format of weights and slices, as reports give it."""
        return "channels last" if self._memory_format == torch.channels_last else "contiguous"

    def set_memory_format(self, memory_format: torch.memory_format) -> None:
        """Keep weights and slices in another memory format; outputs change by rounding alone.

        Args:
            memory_format: ``torch.channels_last`` or ``torch.contiguous_format``.
        """
        place(self.model, self.device, memory_format)
        self._memory_format = memory_format

    def fit_memory_format(self, size: int) -> None:
        """Choose the memory format in which the network runs fastest on slices of a size.

        Channels last is as fast or faster nearly everywhere. The exception is group norm below float32 on a CPU, where
        torch's kernel for channels last is slow on maps of fewer than 1024 cells (docs/notes/speed.md).

        Args:
            size: S, pixels along a slice's side.
        """
        grouped = any(isinstance(layer, (nn.GroupNorm, ExactGroupNorm)) for layer in self.model.modules())
        small = size < (_SMALL_SLICE_DEPTHWISE if self.depthwise else _SMALL_SLICE)
        slow = grouped and small and self.device.type == "cpu" and self._precision != torch.float32
        self.set_memory_format(torch.contiguous_format if slow else torch.channels_last)

    def fit(self, size: int, precision: torch.dtype | None = None) -> None:
        """Make the network run fast on slices of a size: its memory format, operations fused, slices at once.

        What is fused is compared with the network as it was, on random slices, and left where it differs.

        Args:
            size: S, pixels along a slice's side.
            precision: of the body; None for the one that it has.
        """
        self._precision = precision or self._precision
        if self.device.type == "cpu":
            use_exact_group_norm(self.model)
        self.fit_memory_format(size)
        if isinstance(self.model, LayeredModel):  # whose hooks a trace does not see
            return
        blank = self._input(torch.zeros(_COMPARED, size, size, dtype=self._exact, device=self.device))
        with self._autocast():
            shapes = convolutions(self.model, lambda: self.model.forward_features(blank))
        self._numbers = sum(math.prod(output[1:]) for _, output in shapes.values())
        if self.device.type == "cpu" and shapes:
            self._at_once = slices_at_once(shapes, blank.itemsize)
            shapes = batched(shapes, self._at_once)
        dtype = self._exact if self._precision == torch.float32 else self._precision
        library = library_for(self.device, dtype) if self._memory_format == torch.channels_last else "torch"
        rewritten, exact = copy.copy(self), copy.copy(self)
        exact._precision = torch.float32
        try:
            rewritten.model = fuse(self.model, shapes, library, dtype if library != "torch" else self._exact)
            found = [] if rewritten.model is self.model else rewritten._answers(size)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a library says that lacks an operation, or a network's own code
            return
        if found:
            expected = self._answers(size)
            reduced = self._precision != torch.float32
            if _agree(found, expected, exact._answers(size) if reduced else expected):
                self.model = rewritten.model

    def _answers(self, size: int) -> _Answers:
        """Collect logits, activations and gradients for random slices, to compare networks that should be the same."""
        slices, every = self._noise(size, size)[:_COMPARED], range(1, self.stages + 1)
        try:
            of_stages = self._forward_backward(slices, [(0, stage) for stage in every], every)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError):  # the ways in which timm's feature stages fail
            return [self.logits(slices)]
        return [self.logits(slices), *(each for found in of_stages[1:] for each in found.values())]

    def compile(self, size: int) -> None:
        """Compile the body for logits with `torch.compile`; CAMs keep using the plain body.

        The first batches then take half a minute.

        Args:
            size: S, pixels along a slice's side.

        Raises:
            TonnoError: it does not work here, e.g. without a C++ compiler on a CPU or Triton on a GPU.
        """
        plain = self.model.forward_features
        try:
            describe_to_compiler()
            self.model.forward_features = torch.compile(plain)
            self.logits(torch.zeros(2, size, size, device=self.device))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # raised by the compiler, or by a network that cannot be traced
            self.model.forward_features = plain
            raise TonnoError(
                f"`compiled`: torch.compile does not work for this encoder here ({first_line(error)}); leave it out"
            ) from error

    def compiling_pays(self, slices: int) -> bool:
        """Tell whether `compile` saves more time than it takes; never by a timing, so that results stay repeatable.

        Args:
            slices: that are to be classified, no maps asked.

        Returns:
            Whether it does: on CUDA, where Triton is there, for millions of slices.
        """
        there = self.device.type == "cuda" and find_spec("triton") is not None
        return there and slices * self._numbers >= _WORTH_COMPILING

    @property
    def stages(self) -> int:
        """Number of feature stages after the stem."""
        return len(self._stages)

    def stages_with_maps(self, class_index: int, size: int) -> tuple[int, ...]:
        """List the stages on whose cells a class's logit depends; `cam` refuses the others.

        Args:
            class_index: the class's number, from 0.
            size: S, pixels along a slice's side.

        Returns:
            Numbers of the stages, 1 is the finest.
        """
        key = (class_index, size)
        if key not in self._with_maps:
            try:
                gradients = self._gradients_of_all(class_index, size)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError) as error:  # the ways in which timm's feature stages fail
                raise TonnoError(
                    f"this encoder gives no maps of slices of {size} pixels ({first_line(error)}); choose another, or "
                    "`method` tonno, which needs none"
                ) from error
            self._with_maps[key] = tuple(
                stage for stage, gradient in gradients.items() if gradient is not None and gradient.any()
            )
        return self._with_maps[key]

    def _gradients_of_all(self, class_index: int, size: int) -> dict[int, torch.Tensor | None]:
        """Compute the gradients at all stages for random slices, and find the stages whose module is to be read.

        Of some stages timm computes a copy beside the path to the logit, which has no gradient. The stage's module puts
        out the same numbers on the path: that tensor is read instead.
        """
        slices, every = self._noise(size, size), range(1, self.stages + 1)
        asked = [(class_index, stage) for stage in every]
        with self._outputs(every) as outputs:
            _, activations, gradients = self._forward_backward(slices, asked, every)
        beside = {
            stage
            for (_, stage), gradient in gradients.items()
            if gradient is None
            and isinstance(outputs.get(stage), torch.Tensor)
            and torch.equal(outputs[stage], activations[stage])
        }
        if beside - self._read:
            self._read |= beside
            _, _, gradients = self._forward_backward(slices, asked, every)
        return {stage: gradient for (_, stage), gradient in gradients.items()}

    @torch.no_grad()
    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """Classify slices.

        Args:
            slices: ``B V U``, square.

        Returns:
            Logits ``B K`` in float32.
        """
        logits = []
        for part in self._parts(slices):
            with self._autocast(), self._overflow_shown() as shown:
                features = self.model.forward_features(self._input(part))
            logits.append(shown(self._head(features)))
        return torch.cat(logits)

    @torch.no_grad()
    def features(self, slices: torch.Tensor) -> torch.Tensor:
        """Compute the feature vectors of slices, which the last layer weighs to logits.

        Args:
            slices: ``B V U``, square.

        Returns:
            ``B D`` in float32: of a timm model its pooled features as they enter the last layer, of any other the mean
            over the cells of its last stage.

        Raises:
            TonnoError: The model has no such vector.
        """
        vectors = []
        for part in self._parts(slices):
            with self._overflow_shown() as shown:
                vectors.append(shown(self._vector(self._input(part))))
        return torch.cat(vectors)

    def _vector(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute feature vectors ``B D`` of the network's input."""
        if isinstance(self.model, LayeredModel):
            _, activations = self._forward(inputs, [self.stages])
            return activations[self.stages].to(self._exact).mean(dim=(2, 3))
        with self._autocast():
            features = self.model.forward_features(inputs)
        try:
            vector = self.model.forward_head(self._in_full(features), pre_logits=True)
        except TypeError as error:  # a head that hands on nothing but logits
            raise no_features() from error
        if not isinstance(vector, torch.Tensor) or vector.ndim != 2:
            raise no_features()
        return vector

    def _overflow_shown(self) -> AbstractContextManager[Callable[[torch.Tensor], torch.Tensor]]:
        """Look now and then for activations beyond half precision, which the fused network would hide."""
        self._calls += 1
        return overflow_shown(looked_for=self._calls % _LOOK_EVERY == 1)

    def _parts(self, slices: torch.Tensor) -> Sequence[torch.Tensor]:
        """Split a batch into parts whose activations stay in a CPU's cache."""
        return slices.chunk(max(1, math.ceil(len(slices) / (self._at_once or len(slices) or 1))))

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind, at_once: int = 0
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Classify slices and compute class activation maps.

        One forward pass, and for each class one backward pass to the finest stage whose gradient is not constant; for
        ScoreCAM no backward pass, but a forward pass for each channel of each stage.

        Args:
            slices: ``B V U``, square.
            asked: pairs of class index and stage (1 is the finest).
            kind: how activations and gradients are combined.
            at_once: masked slices of ScoreCAM that go through the network together; 0 for as many as are given.

        Returns:
            Logits ``B K``, and maps ``B h w`` by class index and stage, in float32.

        Raises:
            TonnoError: the logit does not depend on a stage.
        """
        parts = []
        for index, stage in asked if kind == "scorecam" else ():
            usable = self.stages_with_maps(index, slices.shape[-1])
            if stage not in usable:
                raise without_map(stage, self._classes[index], usable)
        for part in self._parts(slices):
            with self._overflow_shown() as shown:
                if kind == "scorecam":
                    logits, of_part = self._score_cam(part, asked, at_once or len(slices))
                else:
                    logits, of_part = self._cam(part, asked, kind)
            parts.append((shown(logits), of_part))
        if len(parts) == 1:
            return parts[0]
        maps = {key: torch.cat([each[key] for _, each in parts]) for key in asked}
        return torch.cat([logits for logits, _ in parts]), maps

    def _cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Do what `cam` does, with all slices at once."""
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
        known = {key: gradient for key, gradient in (constant | gradients).items() if gradient is not None}
        exact = {stage: activation.to(logits.dtype) for stage, activation in activations.items()}
        return logits, {key: activation_map(exact[key[1]], known[key].to(logits.dtype), kind) for key in asked}

    def passes(self, stages: Collection[int], size: int) -> int:
        """Count how often the network looks at a slice for ScoreCAM's maps.

        Args:
            stages: whose maps are wanted.
            size: S, pixels along a slice's side.

        Returns:
            Once as it is, and once for each channel of each stage.
        """
        missing = set(stages) - set(self._channels_of)
        if missing:
            with torch.no_grad():
                _, activations = self._forward(self._input(self._noise(size, size)[:1]), missing)
            self._channels_of.update({stage: each.shape[1] for stage, each in activations.items()})
        return 1 + sum(self._channels_of[stage] for stage in set(stages))

    @torch.no_grad()
    def _score_cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], at_once: int
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Compute ScoreCAM: a channel's weight is how much the logit grows where its mask shows the slice.

        What a mask hides is 0 in the network's input, as in the paper, and so is all of its baseline.
        """
        size, stages = slices.shape[-1], {stage for _, stage in asked}
        inputs = self._input(slices)
        features, activations = self._forward(inputs, stages)
        logits = self._head(features)
        with self._autocast():
            nothing = self.model.forward_features(torch.zeros_like(inputs[:1]))
        baseline = self._head(nothing)
        maps: ClassMaps = {}
        for stage, activation in activations.items():
            exact = activation.to(logits.dtype)
            count, channels = exact.shape[:2]
            flat, found = exact.flatten(0, 1), []
            for start in range(0, len(flat), at_once):
                masks = channel_masks(flat[start : start + at_once], size, activation.dtype).to(inputs.dtype)
                of_slice = torch.arange(start, start + len(masks), device=inputs.device) // channels
                for part, which in zip(self._parts(masks), self._parts(of_slice), strict=True):
                    masked = (inputs[which] * part[:, None]).contiguous(memory_format=self._memory_format)
                    with self._autocast():
                        features = self.model.forward_features(masked)
                    found.append(self._head(features) - baseline)
            weights = torch.cat(found).view(count, channels, -1)
            for index in {index for index, other in asked if other == stage}:
                maps[index, stage] = score_map(exact, weights[:, :, index])
        return logits, maps

    def _forward(self, inputs: torch.Tensor, stages: Collection[int]) -> tuple[Features, dict[int, torch.Tensor]]:
        """Run the body; return the head's input and some stages' activations ``B C h w``."""
        ordered = sorted(set(stages))  # timm returns them in the order of the network
        with self._autocast(), self._outputs(self._read.intersection(stages)) as outputs:
            features, activations = self.model.forward_intermediates(
                inputs, indices=[self._stages[stage - 1][0] for stage in ordered], stop_early=False
            )
        return features, dict(zip(ordered, activations, strict=True)) | outputs

    @contextmanager
    def _outputs(self, stages: Collection[int]) -> Iterator[dict[int, torch.Tensor]]:
        """Collect what the modules of some stages put out."""
        outputs: dict[int, torch.Tensor] = {}
        layers = dict(self.model.named_modules())
        with ExitStack() as hooks:
            for stage in stages:
                layer = layers.get(self._stages[stage - 1][1])
                if layer is not None:
                    hook = layer.register_forward_hook(lambda *call, stage=stage: outputs.update({stage: call[-1]}))
                    hooks.callback(hook.remove)
            yield outputs

    def _forward_backward(
        self, slices: torch.Tensor, varying: Collection[tuple[int, int]], stages: Collection[int]
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[tuple[int, int], torch.Tensor | None]]:
        """Compute logits ``B K``, activations by stage, and gradients ``B C h w`` by class index and varying stage.

        A gradient is None where the logit does not depend on the stage.
        The graph is recorded from the finest varying stage's last weight on, so that nothing before it is kept
        or retraced; from the input on in the few models whose stage has no weight on the way to its output.
        """
        inputs = self._input(slices)
        finest = min(stage for _, stage in varying)
        _, module = self._stages[finest - 1]
        layer = dict(self.model.named_modules()).get(module)
        weights = [] if layer is None else list(layer.parameters())
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
        gradients: dict[tuple[int, int], torch.Tensor | None] = {}
        for index in dict.fromkeys(index for index, _ in varying):
            keys = [key for key in varying if key[0] == index]
            of_class = gradients_at(logits[:, index], [activations[stage] for _, stage in keys])
            gradients.update(zip(keys, of_class, strict=True))
        detached = {stage: activation.detach() for stage, activation in activations.items()}
        return logits.detach(), detached, gradients

    def _known_gradient(self, size: int, class_index: int, stage: int) -> torch.Tensor | None:
        """Return the gradient (1 C h w) where it is the same for every input, else None; computed once."""
        key = (class_index, stage, size)
        if key not in self._constant:
            self._constant[key] = self._constant_gradient(size, class_index, stage)
        return self._constant[key]

    def _constant_gradient(self, size: int, class_index: int, stage: int) -> torch.Tensor | None:
        """Compute the gradient (1 C h w) where it is the same for every input, else return None.

        The gradient is constant where the head takes this stage's output and is linear, which random features of
        three magnitudes show. Random slices would not: a network that expects intensities of thousands gives
        nearly the same output for all small ones. Raises TonnoError where the gradient is zero or does not exist.
        """
        usable = self.stages_with_maps(class_index, size)
        if stage not in usable:
            raise without_map(stage, self._classes[class_index], usable)
        slices = self._noise(size, size)
        with torch.no_grad():
            features, activations = self._forward(self._input(slices), [stage])
        activation = activations[stage]
        if not isinstance(features, torch.Tensor) or features.shape != activation.shape:
            return None
        if not torch.equal(features, activation) or not self._convention.linear(len(self._classes)):
            return None
        random = self._noise(*activation.shape[1:])
        magnitudes = torch.tensor([0.1, 1.0, 10.0], dtype=random.dtype, device=self.device)
        random = (random * magnitudes[:, None, None, None]).requires_grad_(True)
        with torch.enable_grad():
            (gradients,) = torch.autograd.grad(self._head(random)[:, class_index].sum(), random)
        # Rounding of a linear layer's gradient is 1e-7; any curvature shows over two decades.
        constant = torch.allclose(gradients, gradients[:1].expand_as(gradients), rtol=1e-5, atol=0.0)
        return gradients[:1].clone() if constant else None

    def _noise(self, *shape: int) -> torch.Tensor:
        """Draw three random tensors, always the same."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(3, *shape, generator=generator, dtype=self._exact).to(self.device)

    def _input(self, slices: torch.Tensor) -> torch.Tensor:
        """Make the network's input of slices: ``B C V U``."""
        return self._convention.input(slices).contiguous(memory_format=self._memory_format)

    def _head(self, features: Features) -> torch.Tensor:
        """Run pooling and the last layer in the weights' own precision; return the classes' logits ``B K``."""
        return self._convention.logits(self.model.forward_head(self._in_full(features)))

    def _in_full(self, features: Features) -> Features:
        """Bring what the body hands to the head to the weights' own precision."""
        dtype = self._exact
        return features.to(dtype) if isinstance(features, torch.Tensor) else [each.to(dtype) for each in features]

    def _autocast(self) -> torch.autocast:
        """Return the context in which the body runs at its precision."""
        reduced = self._precision != torch.float32
        return torch.autocast(self.device.type, dtype=self._precision, enabled=reduced)


def _agree(found: _Answers, expected: _Answers, exact: _Answers) -> bool:
    """Tell whether a network answers as another does, but for rounding: not much further from what is exact."""
    if not len(found) == len(expected) == len(exact):
        return False
    for a, b, c in zip(found, expected, exact, strict=True):
        if a is None or b is None or c is None:
            if a is not b:
                return False
        elif not (a.to(c.dtype) - c).norm() <= 2 * (b.to(c.dtype) - c).norm() + _TOLERANCE * c.norm():
            return False
    return True
