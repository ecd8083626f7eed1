"""Weight files: safetensors, or torch files that hold plain tensors. Nothing here runs code from a file."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import nn

from tonno_core.errors import TonnoError, first_line

StateDict = dict[str, torch.Tensor]
# Of the batches that a batch norm saw: absent from many exported files, and not used for inference.
_COUNTER = "num_batches_tracked"


def read_weights(path: Path) -> StateDict:
    """Tensors by name from a ``.safetensors`` file or a ``torch.save`` of plain tensors.

    A checkpoint with the weights under ``state_dict`` or ``model``, and names that start with
    ``module.``, are understood. Raises TonnoError for anything else, without executing it.
    """
    if not path.is_file():
        raise TonnoError(f"{path}: no such file, expected weights as .safetensors or a torch file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles, beside the error that they end in
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise TonnoError(f"{path}: not a readable safetensors file ({error})") from error
    except pickle.UnpicklingError as error:
        raise TonnoError(
            f"{path}: refused, not a file of plain tensors: it is damaged, or could run code when loaded; "
            "save model.state_dict() again, best as .safetensors"
        ) from error
    except Exception as error:  # damaged bytes make torch's unpickler raise nearly any kind
        raise TonnoError(f"{path}: not a readable weights file ({first_line(error)})") from error
    return _tensors_only(loaded, path)


def _tensors_only(loaded: object, path: Path) -> StateDict:
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise TonnoError(f"{path}: holds a {type(loaded).__name__}, expected a dictionary of tensors by name")
    tensors = {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise TonnoError(f"{path}: holds no tensors, expected a dictionary of tensors by name")
    return tensors


def load_exactly(model: nn.Module, weights: StateDict, source: str) -> None:
    """Put weights into a model; every name and shape must agree (TonnoError names the first that does not)."""
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    missing = [name for name in missing if not name.endswith(_COUNTER)]
    if missing or unexpected:
        raise TonnoError(
            f"{source}: weights are of another model: {len(missing)} tensors missing"
            f"{f' (first {missing[0]})' if missing else ''}, {len(unexpected)} unknown"
            f"{f' (first {unexpected[0]})' if unexpected else ''}"
        )
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise TonnoError(
                f"{source}: tensor {name} has shape {tuple(tensor.shape)}, this encoder expects "
                f"{tuple(own[name].shape)}; check the encoder's name, classes, channels and slice size"
            )
    model.load_state_dict(weights, strict=False)


def load_pretrained(model: nn.Module, weights: StateDict, *, channels: int, source: str) -> bool:
    """Start training from weights of the same encoder with another last layer or number of channels.

    The classifier's own layer is taken only where its shape agrees; the first convolution is adapted to
    ``channels`` as timm does (summed for 1, repeated and scaled for more). Anything else must agree, but for
    the names, where those of another library's edition of the network stand for the same tensors in the same order.
    Returns whether the last layer, or a part of it, stayed as it was.
    """
    own = model.state_dict()
    weights = _renamed(weights, own)
    of_head = {id(parameter) for layer in classifier_layers(model) for parameter in layer.parameters()}
    replaceable = {name for name, parameter in model.named_parameters() if id(parameter) in of_head}
    adapted: StateDict = {}
    for name, tensor in weights.items():
        target = own.get(name)
        if target is not None and name not in replaceable and _differs_in_channels_only(tensor, target):
            tensor = adapt_input_conv(channels, tensor)
        if name in replaceable and (target is None or tensor.shape != target.shape):
            continue
        adapted[name] = tensor
    new = replaceable - adapted.keys()
    load_exactly(model, {**adapted, **{name: own[name] for name in new}}, source)
    return bool(new)


def classifier_layers(model: nn.Module) -> list[nn.Module]:
    """The last layer with all its parts; a few of timm's models have several."""
    head = type(model).get_classifier(model)  # type: ignore[attr-defined]
    heads: tuple[nn.Module, ...] = head if isinstance(head, tuple) else (head,)
    return [layer for one in heads for layer in one.modules()]


def _renamed(weights: StateDict, own: StateDict) -> StateDict:
    """Weights under the model's names, if no name is known but kind (weight, bias, ...) and shape agree one by one.

    The last layer and the first convolution may differ in shape, as in `load_pretrained`; there the number of
    dimensions has to agree.
    """
    given, wanted = (
        {name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTER)} for tensors in (weights, own)
    )
    if given.keys() & wanted.keys() or len(given) != len(wanted):
        return weights
    pairs = list(zip(given.items(), wanted.items(), strict=True))
    kinds = all(theirs.rpartition(".")[2] == ours.rpartition(".")[2] for (theirs, _), (ours, _) in pairs)
    ranks = all(tensor.ndim == target.ndim for (_, tensor), (_, target) in pairs)
    unequal = sum(tensor.shape != target.shape for (_, tensor), (_, target) in pairs)
    if not (kinds and ranks and unequal <= 3):  # one kernel, one matrix and its bias
        return weights
    return {ours: tensor for (_, tensor), (ours, _) in pairs}


def _differs_in_channels_only(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    return (
        tensor.ndim == 4
        and target.ndim == 4
        and tensor.shape[1] == 3
        and tensor.shape[1] != target.shape[1]
        and (tensor.shape[0], *tensor.shape[2:]) == (target.shape[0], *target.shape[2:])
    )
