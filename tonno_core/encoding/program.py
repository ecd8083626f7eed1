"""Exported programs (`torch.export`, .pt2): a network as a list of torch's operators, which is data and no code.

`torch.export.load` unpickles parts of a file and evaluates others. Here the list is read as JSON, tensors as plain
bytes (or with ``weights_only``), and only operators of torch's own ``aten`` are called.
"""

from __future__ import annotations

import io
import json
import math
import operator
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tonno_core.encoding.normalization import exact_group_norm
from tonno_core.encoding.weights import StateDict
from tonno_core.errors import TonnoError, first_line
from tonno_core.output import Json

_OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
# Arithmetic of sizes.
_NUMBERS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg")
}
# Operators that may be told a word (a mode); of others it could be the name of a file.
_WITH_WORDS = ("conv1d", "conv2d", "conv3d", "div", "einsum", "gelu", "pad")
# Torch's numbers for types in its files.
_TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_PLAIN = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string", "as_int_lists")
_EXPORT = (
    "torch.export.export(model.eval(), (torch.zeros(2, C, S, S),), dynamic_shapes=({0: torch.export.Dim('batch')},))"
)
_VERSION = 1
# How far an archive may be packed, and how many numbers a tensor may have that repeats fewer.
_MOST_PACKED, _MOST_REPEATED = 64, 1 << 20


class Program(nn.Module):
    """A network that calls operators one after another; its layers are modules that hand on what the network's put out.

    Attributes:
        channels: Of its input.
        slice_size: Pixels along a side, 0 where it takes any.
    """

    def __init__(self, text: str, tensors: StateDict) -> None:
        """Build the network.

        Args:
            text: As `read_program` returns it.
            tensors: By name.

        Raises:
            TonnoError: The text is no program, or calls what it must not.
        """
        super().__init__()
        try:
            described = json.loads(text)
            if described["version"] != _VERSION:
                raise ValueError(f"version {described['version']}, this build reads {_VERSION}")
            self.channels, self.slice_size = int(described["channels"]), int(described["slice_size"])
            self._input, self._output = str(described["input"]), str(described["output"])
            self._calls = [(_function(call), call) for call in described["calls"]]
            self._layers: dict[str, str] = {value: layer for layer, value in described["layers"].items()}
            self._tensors = [str(value) for value in described["tensors"]]
            for number, name in enumerate(described["tensors"].values()):
                tensor = tensors[name]
                if tensor.is_floating_point():
                    self.register_parameter(f"tensor {number}", nn.Parameter(tensor, requires_grad=False))
                else:
                    self.register_buffer(f"tensor {number}", tensor)
            for layer in described["layers"]:
                self._add(layer)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise TonnoError(f"the exported program is not readable ({first_line(error)})") from error

    def _add(self, layer: str) -> None:
        """Add a layer and those that it is in."""
        holder: nn.Module = self
        for part in layer.split("."):
            if part not in dict(holder.named_children()):
                holder.add_module(part, nn.Identity())
            holder = holder.get_submodule(part)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify images.

        Args:
            images: ``B C V U``.

        Returns:
            Logits ``B K``.
        """
        values: dict[str, Any] = {
            value: getattr(self, f"tensor {number}") for number, value in enumerate(self._tensors)
        }
        values[self._input] = images
        for function, call in self._calls:
            given = {name: _value(argument, values, images.device) for name, argument in call["arguments"]}
            result = function(*given.values()) if call["operator"] in _NUMBERS else function(**given)
            for name, each in _outputs(call["outputs"], result):
                layer = self._layers.get(name)
                values[name] = each if layer is None else self.get_submodule(layer)(each)
        logits: torch.Tensor = values[self._output]
        return logits


def _function(call: Json) -> Callable[..., Any]:
    """Find the function of a call; raises TonnoError for any but torch's own operators on numbers."""
    name = call["operator"]
    if name in _NUMBERS:
        return _NUMBERS[name]
    match = _OPERATOR.fullmatch(name)
    words = any(isinstance(argument, str) for _, argument in call["arguments"])
    if match is None or (words and match[1] not in _WITH_WORDS):
        raise TonnoError(f"the exported program calls {name}, expected operators of torch (aten) alone")
    found = getattr(getattr(torch.ops.aten, match[1]), match[2])
    if not isinstance(found, torch._ops.OpOverload):
        raise TonnoError(f"the exported program calls {name}, which is no operator")
    return exact_group_norm if found is torch.ops.aten.group_norm.default else found


def _value(argument: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    """Make an argument of a call."""
    if isinstance(argument, list):
        return [_value(each, values, device) for each in argument]
    if not isinstance(argument, dict):
        return argument
    ((kind, given),) = argument.items()
    if kind == "value":
        return values[given]
    if kind == "type":
        return _TYPES[given]
    if kind == "memory_format":
        return _FORMATS[given]
    if kind == "layout":
        return torch.strided
    return device


def _outputs(names: Any, result: Any) -> Iterator[tuple[str, Any]]:
    """Name what a call returned."""
    if isinstance(names, str):
        yield names, result
    else:
        for name, each in zip(names, result, strict=True):
            yield from _outputs(name, each)


def read_program(path: Path, layers: Sequence[str]) -> tuple[str, StateDict]:
    """Read a file of `torch.export.save`. Nothing in it is executed, and no pickle is read but of plain tensors.

    Args:
        path: The file.
        layers: Names of the network's layers whose output is wanted.

    Returns:
        What `Program` is made of: the network as JSON, and its tensors by name.

    Raises:
        TonnoError: It is no such file, has no such layers, or needs more than torch's own operators.
    """
    if not path.is_file():
        raise TonnoError(f"{path}: no such file, expected an exported program (.pt2)")
    try:
        with zipfile.ZipFile(path) as archive:
            held, packed = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
            if held > _MOST_PACKED * packed:
                raise TonnoError(f"unpacks from {packed:,} to {held:,} bytes; torch packs nothing, export it again")
            root = next((name for name in archive.namelist() if name.endswith("/models/model.json")), None)
            if root is None:
                raise TonnoError(
                    f"{path}: no exported program of torch 2.9 or later (it has no models/model.json); a compiled one "
                    f"could run code and is refused; export and save it anew: torch.export.save({_EXPORT}, FILE)"
                )
            folder = root.removesuffix("models/model.json")
            byteorder = f"{folder}byteorder"
            if byteorder in archive.namelist() and archive.read(byteorder).strip() != b"little":
                raise TonnoError(f"{path}: its numbers are big-endian; export it on another machine")
            tensors = _read_tensors(archive, folder, "weights") | _read_tensors(archive, folder, "constants")
            exported = json.loads(archive.read(root))
        program = _program(exported["graph_module"], layers)
        tensors = {name: tensors[name] for name in program["tensors"].values()}
    except TonnoError as error:
        message = str(error)
        raise TonnoError(message if message.startswith(f"{path}") else f"{path}: {message}") from error
    except Exception as error:  # damaged bytes, or a version of the file that is laid out differently
        raise TonnoError(f"{path}: not a readable exported program ({first_line(error)})") from error
    return json.dumps(program), tensors


def _read_tensors(archive: zipfile.ZipFile, folder: str, kind: str) -> StateDict:
    """Read the weights or constants of an archive."""
    place = f"{folder}data/{kind}/"
    entries = json.loads(archive.read(f"{place}model_{kind}_config.json"))["config"]
    tensors = {}
    for name, entry in entries.items():
        meta = entry["tensor_meta"]
        content = archive.read(f"{place}{entry['path_name']}") if meta or entry["use_pickle"] else b""
        if not meta and not str(entry["path_name"]).startswith(("weight_", "tensor_")):
            raise TonnoError(f"holds '{name}', which is no tensor and could run code when loaded")
        if entry["use_pickle"]:
            tensors[name] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            continue
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        if math.prod(sizes) > max(len(content), _MOST_REPEATED):
            raise TonnoError(f"holds '{name}' of {math.prod(sizes):,} numbers in {len(content):,} bytes")
        if math.prod(sizes):
            flat = torch.frombuffer(bytearray(content), dtype=_TYPES[meta["dtype"]])
            tensors[name] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()
        else:
            tensors[name] = torch.zeros(sizes, dtype=_TYPES[meta["dtype"]])
    return tensors


def _program(module: Json, layers: Sequence[str]) -> Json:
    """Turn torch's description of a network into ours, without the places of source files that it holds."""
    graph, signature = module["graph"], module["signature"]
    tensors, inputs = {}, []
    for spec in signature["input_specs"]:
        ((kind, given),) = spec.items()
        if kind == "user_input":
            inputs.append(given["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            tensors[given["arg"]["name"]] = given[f"{kind}_name"]
        else:
            raise TonnoError(f"needs a {kind} as input, expected a network of tensors alone")
    outputs = [spec.get("user_output", {}).get("arg", {}) for spec in signature["output_specs"]]
    if len(inputs) != 1 or len(outputs) != 1 or "as_tensor" not in outputs[0]:
        raise TonnoError(
            f"has {len(inputs)} inputs and {len(outputs)} outputs, expected images B C H W alone, and logits; "
            "a network in training mode has more outputs: export model.eval()"
        )
    batch, channels, height, width = (size.get("as_int") for size in graph["tensor_values"][inputs[0]]["sizes"])
    if batch is not None or channels is None or height != width:
        raise TonnoError(
            f"was exported for {batch or 'any number of'} images of {channels} channels, {height} x {width}; expected "
            f"any number of square ones: {_EXPORT}"
        )
    calls = [_call(node) for node in graph["nodes"]]
    for call in calls:
        _function(call)
    program = {
        "version": _VERSION, "channels": channels, "slice_size": height or 0, "input": inputs[0],
        "output": outputs[0]["as_tensor"]["name"], "tensors": tensors, "calls": calls,
    }  # fmt: skip
    return program | {"layers": {layer: _output_of(layer, graph, program) for layer in layers}}


def _call(node: Json) -> Json:
    """Turn torch's description of a call into ours."""
    arguments = [(each["name"], _argument(each["arg"])) for each in node["inputs"]]
    modes = [name for name, argument in arguments if name in ("train", "training") and argument is True]
    if modes:
        raise TonnoError("was exported in training mode (batch norm or dropout); export model.eval()")
    names = [_names(output) for output in node["outputs"]]
    return {"operator": node["target"], "arguments": arguments, "outputs": names[0] if len(names) == 1 else names}


def _argument(argument: Json) -> Any:
    """Turn torch's description of an argument into ours."""
    ((kind, given),) = argument.items()
    if kind == "as_none":
        return None
    if kind in _PLAIN:
        return given
    if kind == "as_tensor":
        return {"value": given["name"]}
    if kind == "as_tensors":
        return [{"value": each["name"]} for each in given]
    if kind in ("as_optional_tensor", "as_sym_int"):
        ((inner, held),) = given.items()
        if inner in ("as_tensor", "as_name"):
            return {"value": held["name"] if inner == "as_tensor" else held}
        return held if inner == "as_int" else None
    if kind in ("as_optional_tensors", "as_sym_ints"):
        return [_argument({kind.removesuffix("s"): each}) for each in given]
    if kind == "as_scalar_type":
        return {"type": given}
    if kind in ("as_memory_format", "as_layout", "as_device"):
        return {kind.removeprefix("as_"): given if kind == "as_memory_format" else None}
    raise TonnoError(f"has an argument of a kind that is not read ({kind.removeprefix('as_')})")


def _names(output: Json) -> Any:
    """Return the name, or names, of what a call puts out."""
    ((kind, given),) = output.items()
    if kind == "as_tensor":
        return given["name"]
    if kind == "as_tensors":
        return [each["name"] for each in given]
    if kind == "as_sym_int":
        return given["as_name"]
    return ""  # nothing, as of an assertion


def _output_of(layer: str, graph: Json, program: Json) -> str:
    """Find the value that a layer puts out: of those made in it the one that is used outside."""
    stacks = [  # of the modules that a call is in: key, name, type
        [entry.split(",")[:2] for entry in node["metadata"].get("nn_module_stack", "").split(";") if "," in entry]
        for node in graph["nodes"]
    ]
    known = dict.fromkeys(name for stack in stacks for key, name in stack if name and key != name)
    if layer not in known:
        raise TonnoError(f"`layers` {layer}: the program has no such layer; it has {', '.join(known) or 'none'}")
    if any(name == layer and "@" in key for stack in stacks for key, name in stack):
        raise TonnoError(f"`layers` {layer}: is called several times for a slice, expected once; name another")
    inside = [any(name == layer for _, name in stack) for stack in stacks]
    made = {
        name
        for within, call in zip(inside, program["calls"], strict=True)
        if within
        for name, _ in _outputs(call["outputs"], call["outputs"])
    }
    used = {program["output"]} | {
        name
        for within, call in zip(inside, program["calls"], strict=True)
        if not within
        for _, argument in call["arguments"]
        for name in _used(argument)
    }
    if len(made & used) != 1:
        raise TonnoError(f"`layers` {layer}: puts out {len(made & used)} tensors, expected one; name another")
    return (made & used).pop()


def _used(argument: Any) -> Iterator[str]:
    """List the values that an argument is made of."""
    if isinstance(argument, list):
        for each in argument:
            yield from _used(each)
    elif isinstance(argument, dict) and "value" in argument:
        yield argument["value"]
