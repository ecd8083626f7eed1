"""Convolution, bias, activation and residual of a folded network as one operation of cuDNN or oneDNN.

A pass over memory less for each of them. Networks keep their own code: convolutions are replaced in place by
`FusedConv2d`, activations by the identity; a block that adds its input is replaced by its own traced graph.
"""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from tonno_core.encoding.normalization import Tracer, trace

# Whose operations are used; "torch" fuses nothing, and still makes padding static.
Library = Literal["cudnn", "onednn", "torch"]
Activation = Literal["none", "relu", "relu6"]
_KINDS: dict[type[nn.Module], Activation] = {nn.Identity: "none", nn.ReLU: "relu", nn.ReLU6: "relu6"}
# oneDNN's names, with their arguments. It has others (SiLU), which brought nothing on the CPU.
_ONEDNN: dict[Activation, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}
_ADDITIONS = (operator.add, operator.iadd, torch.add)
# Bytes of the largest activation of the slices that a CPU classifies at once. Beyond 32 MB, memory comes fresh from the
# system each time (glibc), page by page; larger batches are no faster where this is quick. Measured with 16 to 48 MB.
_CACHED = 24 * 2**20
# The greatest numbers that fused operations put out, while somebody looks for them.
_GREATEST: ContextVar[list[torch.Tensor] | None] = ContextVar("greatest", default=None)
# Shapes of a convolution's input and output, by the module's name.
Shapes = dict[str, tuple[Sequence[int], Sequence[int]]]


def library_for(device: torch.device, dtype: torch.dtype) -> Library:
    """Find whose fused operations there are.

    Args:
        device: where a network runs.
        dtype: of its convolutions.

    Returns:
        The library.
    """
    if dtype == torch.float64:
        return "torch"
    if device.type == "cuda" and torch.backends.cudnn.is_available() and not torch.version.hip:  # type: ignore[no-untyped-call]
        return "cudnn"
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return "onednn" if device.type == "cpu" and there else "torch"


@contextmanager
def overflow_shown(*, looked_for: bool) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Look for activations that half precision cannot hold: cuDNN's ReLU makes 0 of the NaN that comes of infinities.

    Args:
        looked_for: whether to look; it costs a pass over each activation.

    Yields:
        What makes all logits of the block NaN where an activation was infinite; nothing is waited for.
    """
    greatest: list[torch.Tensor] = []
    token = _GREATEST.set(greatest if looked_for else None)
    try:
        yield lambda logits: logits + 0.0 * torch.stack(greatest).amax().to(logits.dtype) if greatest else logits
    finally:
        _GREATEST.reset(token)


@lru_cache(maxsize=1)
def describe_to_compiler() -> torch.library.Library:
    """Tell `torch.compile` the shapes of what cuDNN's operations put out, where torch does not.

    Returns:
        What holds as long as it is kept.
    """
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]

    def relu(x, weight, bias, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
        return torch.ops.aten.convolution(x, weight, bias, stride, padding, dilation, False, [0, 0], groups)

    def add_relu(x, weight, z, alpha, bias, *layout):  # type: ignore[no-untyped-def]
        return relu(x, weight, bias, *layout)  # type: ignore[no-untyped-call]

    for name, described in {"cudnn_convolution_relu": relu, "cudnn_convolution_add_relu": add_relu}.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            library.impl(name, described, "Meta")  # type: ignore[no-untyped-call]
    return library


class FusedConv2d(nn.Module):
    """A convolution, then a residual where one is given, then an activation, as one operation.

    It keeps its weights in the precision in which it runs, to which it brings its input, as autocast would. Slices of
    another size than it was made for, and whatever cannot be fused, run as torch has it.
    """

    def __init__(
        self, conv: nn.Conv2d, activation: Activation, library: Library, shape: Sequence[int], dtype: torch.dtype
    ) -> None:
        """Get a convolution ready.

        Args:
            conv: the convolution; stays as it is.
            activation: what follows.
            library: whose operation to use.
            shape: of the inputs ``B C V U``. Zeros around them are counted for this size, if by their number at all.
            dtype: in which it runs.
        """
        super().__init__()
        self.conv = conv if conv.weight.dtype == dtype else copy.deepcopy(conv).to(dtype)
        self.activation = activation
        self._library = library
        self._same = type(conv) is Conv2dSame
        self._size = tuple(shape[-2:])
        self._weight, self._padding, self._around = self._padded()
        if library == "onednn":
            layout = (self._padding, list(conv.stride), list(conv.dilation), conv.groups, list(shape))
            self._weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(self._weight.to_mkldnn(), *layout)

    def _padded(self) -> tuple[torch.Tensor, list[int], list[int] | None]:
        """Return weight, padding of both sides, and zeros to be put around the input.

        Zeros of TensorFlow's "same" padding, of which there may be one more at the end than at the beginning: on a CPU
        the kernel then begins with a row of zeros, which is faster than a larger copy of the input and adds but zeros.
        """
        conv, weight = self.conv, self.conv.weight.detach()
        if not self._same:
            return weight, [int(side) for side in conv.padding], None
        sides = zip(self._size, conv.kernel_size, conv.stride, conv.dilation, strict=True)
        missing = [
            max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            for size, kernel, stride, dilation in sides
        ]
        odd = [count % 2 for count in missing]
        if not any(odd):
            return weight, [count // 2 for count in missing], None
        if self._library != "cudnn" and weight.device.type == "cpu" and conv.dilation == (1, 1):
            larger = F.pad(weight, (odd[1], 0, odd[0], 0)).contiguous(memory_format=torch.channels_last)
            return larger, [-(-count // 2) for count in missing], None
        (above, left), (below, right) = [count // 2 for count in missing], [-(-count // 2) for count in missing]
        return weight, [0, 0], [left, right, above, below]

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve, add and activate.

        Args:
            x: ``B C V U``.
            residual: ``B K V U`` of the output's shape.

        Returns:
            ``B K V U``.
        """
        weight, bias = self.conv.weight, self.conv.bias
        x = x.to(weight.dtype)
        residual = None if residual is None else residual.to(weight.dtype)
        recorded = torch.is_grad_enabled() and any(
            each is not None and each.requires_grad for each in (x, weight, bias, residual)
        )
        y: torch.Tensor
        other = self._same and (recorded or tuple(x.shape[-2:]) != self._size)
        if other or (torch.compiler.is_compiling() and self._library == "onednn"):  # the compiler fuses by itself there
            y = self.conv(x) if residual is None else self.conv(x) + residual
            return _activate(y, self.activation)
        y = _Recorded.apply(x, weight, bias, residual, self) if recorded else self.run(x, residual)
        return y

    def run(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Run the operation, of which autograd knows nothing.

        Args:
            x: ``B C V U``.
            residual: ``B K V U``, if any.

        Returns:
            ``B K V U``.
        """
        conv, weight, bias, kind = self.conv, self._weight, self.conv.bias, self.activation
        if self._around is not None:
            x = F.pad(x, self._around)
        y: torch.Tensor
        if self._library == "onednn":
            name, scalars = _ONEDNN[kind]
            how = (self._padding, conv.stride, conv.dilation, conv.groups)
            pointwise = torch.ops.mkldnn._convolution_pointwise
            if residual is None:
                y = pointwise(x, weight, bias, *how, name, scalars, "")
            else:
                after = None if kind == "none" else name
                y = pointwise.binary(x, residual, weight, bias, *how, "add", 1.0, after, scalars, "")
            return y
        layout = (conv.stride, self._padding, conv.dilation, conv.groups)
        if kind == "none":
            y = F.conv2d(x, weight, bias, *layout)
            return y if residual is None else y + residual
        if residual is None:
            y = torch.ops.aten.cudnn_convolution_relu(x, weight, bias, *layout)
        else:
            y = torch.ops.aten.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *layout)
        if not torch.compiler.is_compiling() and (greatest := _GREATEST.get()) is not None:
            greatest.append(y.detach().amax())
        return y.clamp_max_(6.0) if kind == "relu6" else y

    def works(self, shapes: tuple[Sequence[int], Sequence[int]], *, residual: bool) -> bool:
        """Tell whether cuDNN's operation for inputs of a shape is there and right; oneDNN has all.

        Args:
            shapes: of input and output.
            residual: whether one is given.

        Returns:
            Whether it was run, and gave what the steps give one by one, whatever the memory held before.
        """
        if self._library != "cudnn" or self.activation == "none":
            return True
        like = self.conv.weight.detach()
        x, z = (torch.linspace(-1.0, 1.0, math.prod(shape)).reshape(shape).to(like) for shape in shapes)
        x, z = (each.contiguous(memory_format=torch.channels_last) for each in (x, z))
        y = self.conv(x) + z if residual else self.conv(x)
        expected = _activate(y, self.activation).float()
        torch.full_like(z, torch.nan)  # where the output will be
        try:
            found = self.run(x, z if residual else None).float()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return False
        # Half precision's rounding is 5e-4; a convolution may add up in another order.
        return bool((found - expected).abs().max() <= 1e-2 * expected.abs().max().clamp_min(1e-6))


def _activate(x: torch.Tensor, kind: Activation) -> torch.Tensor:
    return x if kind == "none" else F.relu(x) if kind == "relu" else F.relu6(x)


class _Recorded(torch.autograd.Function):
    """The operation of a `FusedConv2d`, with the gradients of its input and residual; weights have none."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        layer: FusedConv2d,
    ) -> torch.Tensor:
        """Run the operation, and keep what the gradients need."""
        y = layer.run(x, residual)
        # Where no activation is fused, one that follows may change the output in place.
        ctx.save_for_backward(x, weight, None if layer.activation == "none" else y)
        ctx.layer = layer
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Send a gradient back to where the output grew with it."""
        x, weight, y = ctx.saved_tensors
        (gradient,), conv, kind = gradients, ctx.layer.conv, ctx.layer.activation
        if kind == "relu":
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        elif kind == "relu6":
            gradient = torch.ops.aten.hardtanh_backward(gradient, y, 0.0, 6.0)
        before = None
        if ctx.needs_input_grad[0]:
            layout = (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
            before, _, _ = torch.ops.aten.convolution_backward(gradient, x, weight, None, *layout, [True, False, False])
        return before, None, None, gradient if ctx.needs_input_grad[3] else None, None


def convolutions(model: nn.Module, run: Callable[[], object]) -> Shapes:
    """List a model's 2D convolutions that are called once.

    Args:
        model: whose modules to look at.
        run: runs the model, or a part of it.

    Returns:
        Shapes of inputs and outputs by name, in the order of the calls.
    """
    shapes: dict[str, list[tuple[Sequence[int], Sequence[int]]]] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in model.named_modules():
            if type(layer) in (nn.Conv2d, Conv2dSame):
                hook = layer.register_forward_hook(
                    lambda _, given, y, name=name: shapes.setdefault(name, []).append((given[0].shape, y.shape))
                )
                hooks.callback(hook.remove)
        run()
    return {name: calls[0] for name, calls in shapes.items() if len(calls) == 1}


def batched(shapes: Shapes, count: int) -> Shapes:
    """Return the shapes that a number of slices has.

    Args:
        shapes: for another number.
        count: of slices.

    Returns:
        The same, with this number first.
    """
    return {name: ((count, *given[1:]), (count, *output[1:])) for name, (given, output) in shapes.items()}


def slices_at_once(shapes: Shapes, itemsize: int) -> int:
    """Return how many slices a CPU should classify at once, for their activations to stay in its cache.

    Args:
        shapes: of the convolutions.
        itemsize: bytes of a number.

    Returns:
        Number of slices, at least 1.
    """
    return max(1, _CACHED // (itemsize * max((math.prod(output[1:]) for _, output in shapes.values()), default=1)))


def fuse(model: nn.Module, shapes: Shapes, library: Library, dtype: torch.dtype) -> nn.Module:
    """Make a copy of a model in which convolutions and what follows them are one operation each.

    What follows which convolution is read from the traced data flow; what is read elsewhere, as a feature stage too,
    stays. A graph does not show values that are changed in place: compare the copy with the model.

    Args:
        model: in evaluation mode, norms folded, on its device.
        shapes: of the convolutions that may be replaced, as `convolutions` lists them.
        library: whose operations to use.
        dtype: in which these convolutions run.

    Returns:
        The copy, with the same weights in memory where they are of that type; the model itself where nothing changes.
    """
    fusion = _Fusion(copy.deepcopy(model, {id(each): each for each in model.parameters()}), shapes, library, dtype)
    traced = trace(fusion.model, head=False) if library != "torch" else None
    if traced is not None:
        root, graph = traced
        prefix = "" if root is fusion.model else "model."
        for block in dict.fromkeys(_owner(node).removeprefix(prefix) for node in graph.nodes if _adds(node)):
            fusion.take_residuals(block)
        fusion.take_activations(root, graph, prefix)
    fusion.take_rest()
    return fusion.model if fusion.done else model


class _Fusion:
    """Replaces convolutions of a model, each once."""

    def __init__(self, model: nn.Module, shapes: Shapes, library: Library, dtype: torch.dtype) -> None:
        self.done: set[str] = set()
        self.model, self._shapes, self._library, self._dtype = model, shapes, library, dtype

    def take_residuals(self, name: str) -> None:
        """Replace a block by its graph, where that adds to a convolution's output."""
        block = self.model.get_submodule(name)
        try:
            traced = torch.fx.GraphModule(block, Tracer().trace(block)) if name else None
        except Exception:  # a block that cannot be called by itself, of whatever its own code raises then
            return
        if traced is None:
            return
        graph, calls, before = traced.graph, _calls(traced.graph), len(self.done)
        for node in [node for node in graph.nodes if _adds(node)]:
            activation = _activation_after(node, traced, calls)
            if self._library == "cudnn" and activation is None:
                continue
            for term, residual in (node.args, node.args[::-1]):
                conv = _beyond_identities(term, traced)
                path = f"{name}.{conv.target}"
                alone = len(conv.users) == 1 and calls[str(conv.target)] == 1
                if conv.op != "call_module" or not alone or not self._may(path):
                    continue
                followed = nn.Identity() if activation is None else traced.get_submodule(str(activation.target))
                layer = self._fused(path, followed, residual=True)
                if layer is None:
                    continue
                traced.set_submodule(str(conv.target), layer)
                last = node if activation is None else activation
                with graph.inserting_before(last):
                    last.replace_all_uses_with(graph.call_module(str(conv.target), (conv.args[0], residual)))
                break
        if len(self.done) > before:
            graph.eliminate_dead_code()
            traced.recompile()
            self.model.set_submodule(name, traced)

    def take_activations(self, root: nn.Module, graph: torch.fx.Graph, prefix: str) -> None:
        """Replace convolutions that an activation follows, and these by the identity."""
        calls = _calls(graph)
        for node in graph.nodes:
            name = str(node.target).removeprefix(prefix)
            if node.op != "call_module" or calls[str(node.target)] > 1 or not self._may(name):
                continue
            activation = _activation_after(node, root, calls)
            if activation is None:
                continue
            followed = str(activation.target)
            layer = self._fused(name, root.get_submodule(followed))
            if layer is not None:
                self.model.set_submodule(name, layer)
                root.set_submodule(followed, nn.Identity())

    def take_rest(self) -> None:
        """Replace convolutions whose weights are kept in another precision or form, or whose padding is static."""
        for name in self._shapes:
            conv = None if name in self.done else self.model.get_submodule(name)
            if isinstance(conv, nn.Conv2d) and _regular(conv):
                another = self._library == "onednn" or conv.weight.dtype != self._dtype or isinstance(conv, Conv2dSame)
                layer = self._fused(name, nn.Identity()) if another else None
                if layer is not None:
                    self.model.set_submodule(name, layer)

    def _may(self, name: str) -> bool:
        """Tell whether a module is a convolution whose activation can be fused."""
        if name not in self._shapes or name in self.done:
            return False
        conv = self.model.get_submodule(name)
        # How fast cuDNN's operations are with groups has not been measured.
        return isinstance(conv, nn.Conv2d) and _regular(conv) and (self._library != "cudnn" or conv.groups == 1)

    def _fused(self, name: str, activation: nn.Module, *, residual: bool = False) -> FusedConv2d | None:
        """Make a convolution's replacement; None where the library lacks the operation."""
        conv, shapes = self.model.get_submodule(name), self._shapes[name]
        assert isinstance(conv, nn.Conv2d)
        layer = FusedConv2d(conv, _KINDS[type(activation)], self._library, shapes[0], self._dtype)
        if not layer.works(shapes, residual=residual):
            return None
        self.done.add(name)
        return layer


def _regular(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution pads by zeros whose number is known."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _calls(graph: torch.fx.Graph) -> Counter[str]:
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_module")


def _adds(node: torch.fx.Node) -> bool:
    """Tell whether a node adds two tensors."""
    known = node.op == "call_function" and node.target in _ADDITIONS and not node.kwargs
    return known and len(node.args) == 2 and all(isinstance(term, torch.fx.Node) for term in node.args)


def _owner(node: torch.fx.Node) -> str:
    """Name the module in whose own code a node was made; "" for the outermost."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def _is_identity(node: torch.fx.Node, root: nn.Module) -> bool:
    return node.op == "call_module" and type(root.get_submodule(str(node.target))) is nn.Identity


def _beyond_identities(node: Any, root: nn.Module) -> torch.fx.Node:
    """Go back to what was made of a value that one node alone uses."""
    found: torch.fx.Node = node
    while len(found.users) == 1 and _is_identity(found, root) and isinstance(found.args[0], torch.fx.Node):
        found = found.args[0]
    return found


def _activation_after(node: torch.fx.Node, root: nn.Module, calls: Counter[str]) -> torch.fx.Node | None:
    """Find the activation that alone uses a value, identities left out; None where there is none that can be fused."""
    while len(node.users) == 1:
        (user,) = node.users
        if not _is_identity(user, root):
            known = user.op == "call_module" and type(root.get_submodule(str(user.target))) in _KINDS
            return user if known and calls[str(user.target)] == 1 else None
        node = user
    return None
