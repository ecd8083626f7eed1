"""Any classifier of images as an encoder of slices: its feature stages are layers that somebody names."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from tonno_core.errors import TonnoError, first_line


class LayeredModel(nn.Module):
    """A module with the methods of a timm model; its stages are what some of its layers put out, read by hooks.

    Attributes:
        body: The module, from ``B C V U`` to logits ``B K``.
        layers: Names of the layers in the body, in the order in which they are called.
        classes: K.
    """

    def __init__(self, body: nn.Module, layers: Sequence[str], *, channels: int, slice_size: int) -> None:
        """Copy a module, and look at what its layers put out for a blank slice.

        Args:
            body: Any module from images ``B C V U`` to logits ``B K``.
            layers: Names of layers that put out ``B C h w``, as `nn.Module.named_modules` has them, in any order.
            channels: C.
            slice_size: Pixels along a slice's side.

        Raises:
            TonnoError: There is no such layer, or it puts out something else, or the module does.
        """
        super().__init__()
        known = [name for name, _ in body.named_modules() if name]
        for name in layers:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3) or known[:8]
                raise TonnoError(f"`layers` {name}: the classifier has no such layer; it has {', '.join(near)}, ...")
        if not layers or len(set(layers)) != len(layers):
            raise TonnoError(f"`layers` '{','.join(layers)}': expected one or more different names of layers")
        self.body = copy.deepcopy(body).eval()
        self.layers = tuple(layers)
        weight = next(self.body.parameters(), torch.zeros(0))
        image = torch.zeros(1, channels, slice_size, slice_size, dtype=weight.dtype, device=weight.device)
        try:
            with torch.no_grad(), self._outputs(layers) as outputs:
                logits = self.body(image)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            raise TonnoError(
                f"the classifier cannot take {channels} channels of {slice_size} x {slice_size} pixels "
                f"({first_line(error)}); choose other `channels` or another `slice_size`"
            ) from error
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 1:
            raise TonnoError(f"the classifier puts out {_described(logits)}, expected logits, B x classes")
        for name in layers:
            calls = outputs.get(name, [])
            if len(calls) != 1:
                raise TonnoError(
                    f"`layers` {name}: is called {len(calls)} times for a slice, expected once; name another"
                )
            if not isinstance(calls[0], torch.Tensor) or calls[0].ndim != 4:
                found = _described(calls[0])
                raise TonnoError(f"`layers` {name}: puts out {found}, expected B x channels x height x width")
        self.layers = tuple(outputs)
        self.classes = logits.shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify images.

        Args:
            images: ``B C V U``.

        Returns:
            Logits ``B K``.
        """
        logits: torch.Tensor = self.body(images)
        return logits

    forward_features = forward

    def forward_head(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits, which `forward_features` made already.

        Args:
            logits: ``B K``.

        Returns:
            The same.
        """
        return logits

    def forward_intermediates(
        self, images: torch.Tensor, indices: Sequence[int], *, stop_early: bool = False
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Classify images, and collect what layers put out on the way.

        Args:
            images: ``B C V U``.
            indices: Of layers, from 0.
            stop_early: Of no effect.

        Returns:
            Logits ``B K``, and ``B C h w`` of each layer.
        """
        names = [self.layers[index] for index in indices]
        with self._outputs(names) as outputs:
            logits = self.body(images)
        return logits, [outputs[name][0] for name in names]

    @contextmanager
    def _outputs(self, names: Collection[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
        """Collect the outputs of layers; later layers get copies, so that none changes them in place."""
        outputs: dict[str, list[torch.Tensor]] = {}

        def collect(name: str, output: torch.Tensor) -> torch.Tensor:
            outputs.setdefault(name, []).append(output)
            return output.clone() if isinstance(output, torch.Tensor) else output

        with ExitStack() as hooks:
            for name in names:
                layer = self.body.get_submodule(name)
                hook = layer.register_forward_hook(lambda *call, name=name: collect(name, call[-1]))
                hooks.callback(hook.remove)
            yield outputs


def _described(value: object) -> str:
    """Say what a value is: a tensor by its shape, anything else by its type."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
