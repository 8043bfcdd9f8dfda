"""Multiply-accumulates as they are done: every matrix product and convolution of a forward pass."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Found = tuple[float, Sequence[Tensor]]
"""Multiply-accumulates of a product, and its operands; a weight is the last operand."""

_LOOKUPS = "embedding _embedding_bag index index_select gather cat stack repeat copy_"
_OTHERS = "add add_ sub rsub native_layer_norm native_group_norm _fused_rms_norm upsample_bicubic2d"
QUIET = frozenset(f"{_LOOKUPS} {_OTHERS}".split())
"""Operators that read a table without multiplying a matrix by it."""


class Products(TorchDispatchMode):
    """Counts the products that run under it, each for the parameter that is an operand.

    Weights are known by their memory, so views count (transposes, slices of one expert or of fused
    projections), and so do copies in another type and masked copies.

    Args:
        parameters: Names and tensors; each tensor once.

    Attributes:
        weights: Parameter name to multiply-accumulates.
        others: Those of products without a parameter, as in attention.
        readers: Parameter name to the operators that read it other than by a product, as far as
            they may multiply by it.
        touched: Names of parameters that any operator read.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.weights: dict[str, float] = {}
        self.others = 0.0
        self.readers: dict[str, set[str]] = {}
        self.touched: set[str] = set()
        self._held: list[Tensor] = []  # memory that is known must not be given away
        self._known: dict[int, list[tuple[int, int, str]]] = {}
        for name, tensor in parameters:
            self._remember(tensor.detach(), name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        op = func.overloadpacket.__name__
        found = _product(op, args, kwargs or {}, result)
        for macs, operands in found:
            names = [name for t in operands if (name := self._name(t)) is not None]
            self.touched.update(names)
            if names:
                self.weights[names[-1]] = self.weights.get(names[-1], 0.0) + macs
            else:
                self.others += macs
        if not found and not func.is_view:
            self._follow(func, op, args, result)
        return result

    def _follow(self, func: Any, op: str, args: tuple[Any, ...], result: Any) -> None:
        """A result of the size of a weight that it was made of stands for that weight."""
        tensors = [t for a in args for t in (a if isinstance(a, list | tuple) else (a,))]
        for tensor in tensors:
            name = self._name(tensor) if isinstance(tensor, Tensor) else None
            if name is None:
                continue
            self.touched.add(name)
            copies = torch.Tag.pointwise in func.tags or op in ("clone", "_to_copy", "_unsafe_view")
            if copies and isinstance(result, Tensor) and result.numel() == tensor.numel():
                if self._name(result) is None:
                    self._remember(result, name)
            elif op not in QUIET:
                self.readers.setdefault(name, set()).add(op)

    def _remember(self, tensor: Tensor, name: str) -> None:
        start = int(tensor.storage_offset())
        spans = self._known.setdefault(tensor.untyped_storage()._cdata, [])
        spans.append((start, start + tensor.numel(), name))
        self._held.append(tensor)

    def _name(self, tensor: Tensor) -> str | None:
        """The parameter whose memory a tensor lies in."""
        if tensor.layout != torch.strided:
            return None
        spans = self._known.get(tensor.untyped_storage()._cdata, ())
        at = tensor.storage_offset()
        return next((name for start, end, name in spans if start <= at < end), None)


def _product(op: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> list[Found]:
    if op in ("mm", "bmm", "mv", "dot", "vdot"):
        return [(out.numel() * args[0].shape[-1], args[:2])]
    if op in ("addmm", "addmv", "baddbmm", "addbmm"):
        rows = math.prod(args[1].shape[:-1]) * (1 if op == "addmv" else args[2].shape[-1])
        return [(rows * args[1].shape[-1], args[1:3])]
    if op in ("convolution", "_convolution", "convolution_overrideable"):
        x, weight, transposed = args[0], args[1], args[6]
        each = math.prod(weight.shape[1:])
        return [((x if transposed else out).numel() * each, (x, weight))]
    if "grouped_mm" in op:
        x, weight = (*args, *kwargs.values())[:2]
        return [(x.shape[0] * math.prod(weight.shape[1:]), (x, weight))]
    if "scaled_dot_product" in op:
        query, key, value = args[:3]
        scores = math.prod(query.shape[:-1]) * key.shape[-2]
        return [(scores * (query.shape[-1] + value.shape[-1]), ())]
    if op == "mkldnn_rnn_layer":
        steps = math.prod(args[0].shape[:2])
        return [(steps * weight.numel(), (weight,)) for weight in args[1:3]]
    if op == "_trilinear":
        return [(len(args[0]) * args[1].numel(), (args[1],))]
    return []


def count_products(model: nn.Module, run: Callable[[nn.Module], Any]) -> Products:
    """Run a model once, without gradients, in the modes its modules are in."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it does a whole layer in one operator
    try:
        with torch.no_grad(), Products(model.named_parameters()) as products:
            run(model)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return products
