"""timm's own sources of models: a folder (``local-dir:PATH``) or a repository of its hub (``hf-hub:OWNER/NAME``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch

from tonno_core.encoding.arguments import check_arguments
from tonno_core.encoding.hub import quick_hub
from tonno_core.errors import TonnoError, first_line
from tonno_core.output import Json

_FOLDER, _HUB = "local-dir:", "hf-hub:"
# Names of weights in timm's order.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
# What a bundle says elsewhere.
_SAID_ELSEWHERE = ("num_classes", "in_chans", "img_size")


@dataclass(frozen=True)
class Source:
    """A published classifier.

    Attributes:
        architecture: timm's name.
        arguments: What timm makes its network with beside classes, channels and size, as pooling.
        classes: Names of its outputs.
        channels: Of its input.
        slice_size: Pixels along its input's side.
        mean: Of its input's intensities from 0 to 1, by channel.
        std: Their standard deviation.
        weights: File.
    """

    architecture: str
    arguments: Json
    classes: tuple[str, ...]
    channels: int
    slice_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: Path

    @property
    def is_plain(self) -> bool:
        """Tell whether timm makes the same network by the name alone."""
        with torch.device("meta"):
            return repr(timm.create_model(self.architecture)) == repr(
                timm.create_model(self.architecture, **self.arguments)
            )


def is_source(encoder: str) -> bool:
    """Tell whether the name of an encoder is that of a source.

    Args:
        encoder: The name.

    Returns:
        Whether it begins as one.
    """
    return encoder.startswith((_FOLDER, _HUB))


def read_source(encoder: str) -> Source:
    """Read what a source says of its classifier, and find its weights, which the hub's client fetches and keeps.

    Args:
        encoder: ``local-dir:PATH`` or ``hf-hub:OWNER/NAME``, which may end with ``@REVISION``.

    Returns:
        The classifier. Its weights are not read yet.

    Raises:
        TonnoError: There is no such source, it is incomplete, or timm has no such network.
    """
    config_path = _file(encoder, ("config.json",))
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        own: Json = config.get("pretrained_cfg", config)  # older files have no parts
        arguments: Json = config.get("model_args") or {}
        side = own.get("input_size", (3, 224, 224))
        size = arguments.get("img_size") or side[1:]
        count = int(config.get("num_classes", own.get("num_classes", 1000)))
        source = Source(
            architecture=str(config["architecture"]),
            arguments={name: value for name, value in arguments.items() if name not in _SAID_ELSEWHERE},
            classes=_classes(config.get("label_names") or own.get("label_names") or own.get("labels"), count),
            channels=int(arguments.get("in_chans") or side[0]),
            slice_size=int(size[0] if isinstance(size, Sequence) else size),
            mean=tuple(map(float, own.get("mean", ()))),
            std=tuple(map(float, own.get("std", ()))),
            weights=_file(encoder, _WEIGHTS),
        )
    except (OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise TonnoError(f"`encoder` {encoder}: its config.json is not timm's ({first_line(error)})") from error
    if not timm.is_model(source.architecture):
        raise TonnoError(f"`encoder` {encoder}: is a {source.architecture:.80}, which this version of timm has not")
    check_arguments(source.architecture, source.arguments)
    return source


def _classes(labels: Any, count: int) -> tuple[str, ...]:
    """Name the outputs, by number where the source does not."""
    if isinstance(labels, dict):
        labels = [labels.get(str(index)) for index in range(count)]
    if isinstance(labels, list) and len(labels) == count and all(labels):
        return tuple(map(str, labels))
    return ("finding",) if count == 1 else tuple(f"output {index}" for index in range(count))


def _file(encoder: str, names: Sequence[str]) -> Path:
    """Return the first of some files that a source has."""
    if encoder.startswith(_FOLDER):
        folder = Path(encoder.removeprefix(_FOLDER))
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is None:
            raise TonnoError(f"`encoder` {encoder}: the folder has no {' or '.join(names)}, as timm saves a model")
        return found
    repository, _, revision = encoder.removeprefix(_HUB).partition("@")
    reason = ""
    with quick_hub():
        for name in names:
            try:
                return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision or None))
            except Exception as error:  # of the client: no network, no such file or repository, proxies
                reason = reason or first_line(error)
    raise TonnoError(
        f"`encoder` {encoder}: {names[0]} could not be fetched ({reason}); without internet, copy the repository to a "
        f"folder and give {_FOLDER}PATH"
    )
