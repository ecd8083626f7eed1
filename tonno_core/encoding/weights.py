"""Weight files: safetensors, or torch files that hold plain tensors. Nothing here runs code from a file."""

from __future__ import annotations

import argparse
import importlib
import itertools
import pickle
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import nn

from tonno_core.errors import TonnoError, first_line

StateDict = dict[str, torch.Tensor]
# Number of batches that a batch norm saw: absent from many exported files, and not used for inference.
_COUNTER = "num_batches_tracked"
# Keys of the weights in checkpoints, in timm's order.
_AVERAGES = ("state_dict_ema", "model_ema")
_KNOWN_KEYS = (*_AVERAGES, "state_dict", "model")
_UNKNOWN_TYPE = re.compile(r"GLOBAL (\S+) was not an allowed global|but got <class '([^']+)'>")
_SAVE = "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
_NUMPY_2 = int(np.__version__.partition(".")[0]) >= 2


def read_weights(path: Path) -> StateDict:
    """Read tensors by name from a ``.safetensors`` file or a ``torch.save`` of plain tensors.

    Args:
        path: the file. Nothing in it is executed.

    Returns:
        Tensors by the file's own names, on the CPU; of a checkpoint those that `read_checkpoint` chooses.

    Raises:
        TonnoError: there is no such file, or it holds anything else.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[StateDict, tuple[str, ...]]:
    """Read tensors by name, and say which of a checkpoint's dictionaries they are.

    As by timm's own loader the moving average goes before the raw weights. A dictionary under another key is taken
    where it is the only one that holds tensors.

    Args:
        path: the file. Nothing in it is executed.

    Returns:
        Tensors by the file's own names, on the CPU, and what is worth saying of the choice.

    Raises:
        TonnoError: there is no such file, it holds anything else, or which weights are meant is not clear.
    """
    if not path.is_file():
        raise TonnoError(f"{path}: no such file, expected weights as .safetensors or a torch file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path)), ()
        with warnings.catch_warnings(), torch.serialization.safe_globals(_plain_types()):
            warnings.simplefilter("ignore")  # an unusual pickle ends in an error anyway
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise TonnoError(f"{path}: not a readable safetensors file ({error})") from error
    except pickle.UnpicklingError as error:
        unknown = _UNKNOWN_TYPE.search(str(error))
        if unknown:
            kind = unknown[1] or unknown[2]
            raise TonnoError(
                f"{path}: refused, it holds a {kind} beside its tensors, which could run code when loaded; where the "
                f"model was made, save model.state_dict() again, best as .safetensors: {_SAVE}"
            ) from error
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
    return _chosen(loaded, path)


def _plain_types() -> list[Any]:
    """List what checkpoints hold beside tensors and cannot run code: a parser's options, paths, numpy's numbers.

    numpy's arrays of objects stay refused: their type is not among these.
    """
    multiarray = importlib.import_module("numpy._core.multiarray" if _NUMPY_2 else "numpy.core.multiarray")
    functions = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ]
    paths = [
        (kind, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for kind, name in ((PurePosixPath, "PosixPath"), (PureWindowsPath, "WindowsPath"))
    ]
    numbers = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"}
    return [argparse.Namespace, np.dtype, np.ndarray, *functions, *paths, *numbers]


def _chosen(loaded: object, path: Path) -> tuple[StateDict, tuple[str, ...]]:
    """Choose the dictionary of tensors in what a file held; raises TonnoError where there is none, or several."""
    if not isinstance(loaded, dict):
        raise TonnoError(f"{path}: holds a {type(loaded).__name__}, expected a dictionary of tensors by name")
    found = dict(_dictionaries(loaded))
    if not found:
        held = ", ".join(f"{key} ({type(value).__name__})" for key, value in list(loaded.items())[:8])
        raise TonnoError(
            f"{path}: holds no tensors, expected a dictionary of tensors by name; it holds {held or 'nothing'}"
        )
    known = next((key for key in _KNOWN_KEYS if key in found), None)
    nested = [key for key in found if key]
    if known is None and len(nested) > 1:
        keys = "".join(f"[{key!r}]" for key in nested[0].split("."))
        raise TonnoError(
            f"{path}: holds several dictionaries of tensors ({', '.join(nested)}); choose one and save it: "
            f"torch.save(torch.load(FILE, weights_only=True){keys}, OTHER)"
        )
    chosen = known or (nested[0] if nested and len(found[nested[0]]) >= len(found.get("", ())) else "")
    left = [key for key in found if key not in ("", chosen)]
    said = [f"those under '{chosen}'"] if chosen else []
    if chosen in _AVERAGES:
        said[0] += ", a moving average (EMA)"
    if left:
        said[0] += f", not those under {', '.join(repr(key) for key in left)}"
    return found[chosen], tuple(said)


def _dictionaries(loaded: dict[Any, Any], under: str = "") -> Iterator[tuple[str, StateDict]]:
    """List the dictionaries that hold tensors by their keys, joined by points; an optimizer's are passed over."""
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if any(tensor.ndim for tensor in tensors.values()):
        yield under, {name: tensor.detach() for name, tensor in tensors.items()}
    for key, value in loaded.items():
        if isinstance(value, dict) and isinstance(key, str) and "optim" not in key.lower():
            yield from _dictionaries(value, f"{under}.{key}" if under else key)


def weights_for(model: nn.Module, path: Path) -> tuple[StateDict, tuple[str, ...]]:
    """Read a weights file, and give its tensors the names of a model.

    Args:
        model: what the weights are for; stays as it is.
        path: the file.

    Returns:
        Tensors by name, and what is worth saying of how they were found.

    Raises:
        TonnoError: there is no such file, it holds anything else, or which weights are meant is not clear.
    """
    weights, said = read_checkpoint(path)
    weights, also = named_as(model, weights, str(path))
    return weights, (*said, *also)


def named_as(model: nn.Module, weights: StateDict, source: str) -> tuple[StateDict, tuple[str, ...]]:
    """Give weights the names of a model, as far as it is clear which tensor is which.

    A prefix before the model's names goes, whatever it is, and with it what stands under no such prefix (a loss's
    weights beside ``model.``). Names of the model's own authors are converted by timm. Names of other libraries are
    taken if they stand for tensors of the same kind and shape in the same order.

    Args:
        model: a timm model; stays as it is.
        weights: tensors by name.
        source: of the weights, for messages.

    Returns:
        The same tensors, and what is worth saying of their names. Where nothing fits, they are as they were.

    Raises:
        TonnoError: several prefixes lead to all of the model's names.
    """
    state = model.state_dict()
    weights, said = _without_prefix(weights, state, source)
    if weights.keys() & state.keys() == state.keys() or not weights.keys() - state.keys():
        return weights, said
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            converted: StateDict = convert(dict(weights), model)
        except Exception:  # made for the files of its authors; of others it raises anything
            converted = {}
        if converted.keys() == state.keys():
            return converted, (*said, "with names that timm converts")
    renamed = _renamed(weights, state)
    if renamed is weights:
        return weights, said
    note = (
        "named as in another library, taken in their order; norms and padding are timm's, so compare a logit with yours"
    )
    return renamed, (*said, note)


def _without_prefix(weights: StateDict, state: StateDict, source: str) -> tuple[StateDict, tuple[str, ...]]:
    """Remove the prefix under which most of a model's names stand, or else one that all names share."""
    matches: Counter[str] = Counter()
    for name in weights:
        parts = name.split(".")
        for count in range(len(parts)):
            if ".".join(parts[count:]) in state:
                matches["".join(f"{part}." for part in parts[:count])] += 1
    most = max(matches.values(), default=0)
    best = [prefix for prefix, count in matches.items() if count == most and 2 * count > len(state)]
    if len(best) > 1:
        first, second = sorted(best)[:2]
        raise TonnoError(
            f"{source}: holds the weights twice, as {first}... and as {second}...; choose one and save it: "
            f"{{k.removeprefix({first!r}): v for k, v in weights.items() if k.startswith({first!r})}}"
        )
    prefix = best[0] if best else _shared_prefix(weights)
    if not prefix:
        return weights, ()
    inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    beside = [name for name in weights if not name.startswith(prefix)]
    left = f", without {', '.join(beside[:3])}{', ...' if len(beside) > 3 else ''}" if beside else ""
    return inside, (f"without the prefix '{prefix}'{left}",)


def _shared_prefix(weights: StateDict) -> str:
    """Return the longest start that all names share, up to a point."""
    first, last = min(weights).split("."), max(weights).split(".")
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last[:-1], strict=False))
    return "".join(f"{part}." for part, _ in shared) if len(weights) > 1 else ""


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
    ``channels`` the way timm does it (summed for 1, repeated and scaled for more). A transformer's embeddings of
    positions are resized by timm where slices have another size. Everything else must agree.

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
    of_head = {id(parameter) for layer in classifier_layers(model) for parameter in layer.parameters()}
    replaceable = {name for name, parameter in model.named_parameters() if id(parameter) in of_head}
    adapted: StateDict = {}
    for name, tensor in _resized(model, weights).items():
        target = state.get(name)
        if target is not None and name not in replaceable and _differs_in_channels_only(tensor, target):
            tensor = adapt_input_conv(channels, tensor)
        if name in replaceable and (target is None or tensor.shape != target.shape):
            continue
        adapted[name] = tensor
    new = replaceable - adapted.keys()
    load_exactly(model, {**adapted, **{name: state[name] for name in new}}, source)
    return bool(new)


def _resized(model: nn.Module, weights: StateDict) -> StateDict:
    """Let timm resize embeddings of positions that were learned for another size of images."""
    state = model.state_dict()
    sized = [name for name in weights.keys() & state.keys() if "pos" in name.rpartition(".")[2]]
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or all(weights[name].shape == state[name].shape for name in sized):
        return weights
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm's interpolation
            converted: StateDict = convert(dict(weights), model)
    except Exception:  # as above; then the shapes are what is wrong
        return weights
    return converted


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
