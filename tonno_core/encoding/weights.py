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
# Number of batches that a batch norm saw: absent from many exported files, and not used for inference.
_COUNTER = "num_batches_tracked"


def read_weights(path: Path) -> StateDict:
    """Read tensors by name from a ``.safetensors`` file or a ``torch.save`` of plain tensors.

    A checkpoint may hold the weights under ``state_dict`` or ``model``, and names may start with ``module.``.

    Args:
        path: the file. Nothing in it is executed.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        TonnoError: there is no such file, or it holds anything else.
    """
    if not path.is_file():
        raise TonnoError(f"{path}: no such file, expected weights as .safetensors or a torch file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unusual pickle ends in an error anyway
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise TonnoError(f"{path}: not a readable safetensors file ({error})") from error
    except pickle.UnpicklingError as error:
        raise TonnoError(
            f"{path}: refused, not a file of plain tensors: it is damaged, or could run code when loaded; "
            "save model.state_dict() again, best as .safetensors"
        ) from error
    except Exception as error:  # damaged bytes make torch's unpickler raise nearly any kind
        if "weights_only" in str(error):  # torch advises to run what is in a TorchScript archive or its old .tar
            raise TonnoError(
                f"{path}: refused, a TorchScript archive or torch's old .tar, which run code "
                "when loaded; save model.state_dict() again, best as .safetensors"
            ) from error
        raise TonnoError(f"{path}: not a readable weights file ({first_line(error)})") from error
    return _tensors_only(loaded, path)


def _tensors_only(loaded: object, path: Path) -> StateDict:
    """Find the tensors in what a file held; raises TonnoError where there are none."""
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
    """Put weights into a model; every name and shape must agree.

    Args:
        model: changed in place.
        weights: tensors by name.
        source: of the weights, for messages.

    Raises:
        TonnoError: a name or shape does not agree; the message gives the first.
    """
    state = model.state_dict()
    missing, unexpected = sorted(state.keys() - weights.keys()), sorted(weights.keys() - state.keys())
    missing = [name for name in missing if not name.endswith(_COUNTER)]
    if missing or unexpected:
        raise TonnoError(
            f"{source}: weights are of another model: {len(missing)} tensors missing"
            f"{f' (first {missing[0]})' if missing else ''}, {len(unexpected)} unknown"
            f"{f' (first {unexpected[0]})' if unexpected else ''}"
        )
    for name, tensor in weights.items():
        if tensor.shape != state[name].shape:
            raise TonnoError(
                f"{source}: tensor {name} has shape {tuple(tensor.shape)}, this encoder expects "
                f"{tuple(state[name].shape)}; check the encoder's name, classes, channels and slice size"
            )
    model.load_state_dict(weights, strict=False)


def load_pretrained(model: nn.Module, weights: StateDict, *, channels: int, source: str) -> bool:
    """Start training from weights of the same encoder with another last layer or number of channels.

    The last layer's weights are taken only where their shape agrees; the first convolution is adapted to
    ``channels`` the way timm does it (summed for 1, repeated and scaled for more). Everything else must agree. Names
    may be another library's, if they stand for the same tensors in the same order.

    Args:
        model: changed in place.
        weights: tensors by name.
        channels: input channels of the model.
        source: of the weights, for messages.

    Returns:
        Whether the last layer, or a part of it, stayed as it was.

    Raises:
        TonnoError: another name or shape does not agree.
    """
    state = model.state_dict()
    weights = _renamed(weights, state)
    of_head = {id(parameter) for layer in classifier_layers(model) for parameter in layer.parameters()}
    replaceable = {name for name, parameter in model.named_parameters() if id(parameter) in of_head}
    adapted: StateDict = {}
    for name, tensor in weights.items():
        target = state.get(name)
        if target is not None and name not in replaceable and _differs_in_channels_only(tensor, target):
            tensor = adapt_input_conv(channels, tensor)
        if name in replaceable and (target is None or tensor.shape != target.shape):
            continue
        adapted[name] = tensor
    new = replaceable - adapted.keys()
    load_exactly(model, {**adapted, **{name: state[name] for name in new}}, source)
    return bool(new)


def classifier_layers(model: nn.Module) -> list[nn.Module]:
    """List the modules of a model's last layer; a few of timm's models have several last layers.

    Args:
        model: a timm model.

    Returns:
        The layers with all their parts.
    """
    head = type(model).get_classifier(model)  # type: ignore[attr-defined]
    heads: tuple[nn.Module, ...] = head if isinstance(head, tuple) else (head,)
    return [layer for head in heads for layer in head.modules()]


def _renamed(weights: StateDict, state: StateDict) -> StateDict:
    """Give weights the model's names, if no name is known but kind (weight, bias, ...) and shape agree in turn.

    The last layer and the first convolution may differ in shape, see `load_pretrained`; there the number of
    dimensions has to agree.
    """
    given, expected = (
        {name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTER)}
        for tensors in (weights, state)
    )
    if given.keys() & expected.keys() or len(given) != len(expected):
        return weights
    pairs = list(zip(given.items(), expected.items(), strict=True))
    kinds = all(theirs.rpartition(".")[2] == ours.rpartition(".")[2] for (theirs, _), (ours, _) in pairs)
    ranks = all(tensor.ndim == target.ndim for (_, tensor), (_, target) in pairs)
    unequal = sum(tensor.shape != target.shape for (_, tensor), (_, target) in pairs)
    if not (kinds and ranks and unequal <= 3):  # one kernel, one matrix and its bias
        return weights
    return {ours: tensor for (_, tensor), (ours, _) in pairs}


def _differs_in_channels_only(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    """Tell whether a convolution's kernel for 3 channels fits a target of another number of channels."""
    return (
        tensor.ndim == 4
        and target.ndim == 4
        and tensor.shape[1] == 3
        and tensor.shape[1] != target.shape[1]
        and (tensor.shape[0], *tensor.shape[2:]) == (target.shape[0], *target.shape[2:])
    )
