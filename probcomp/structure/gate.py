"""The comparison that a cut module has to pass: equal outputs, on two input sizes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.structure.axes import Structure
from probcomp.structure.export import Inputs, inference
from probcomp.structure.ir import hint

# Two executions of the same sums in another order: a few hundred roundings, relative to the
# largest output. Coarser than the invariants the tests hold the surgery to, fine enough that a
# wrong head, order or scale (1e-3 and more) cannot hide.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The floating-point tensors a model returns, in order, without gradients or cache."""
    with torch.no_grad(), inference(model):
        if isinstance(inputs, Mapping):
            return list(_tensors(model(**inputs)))
        return list(_tensors(model(*inputs)))


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        if result.is_floating_point():
            yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from _tensors(value)
    elif isinstance(result, tuple | list):
        for value in result:
            yield from _tensors(value)


def difference(ours: list[Tensor], theirs: list[Tensor]) -> str | None:
    """Why two lists of outputs differ, or None when they agree."""
    if len(ours) != len(theirs):
        return f"it returns {len(ours)} tensors instead of {len(theirs)}"
    for a, b in zip(ours, theirs):
        if a.shape != b.shape:
            return f"its output has shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        a, b = a.double(), b.double()
        scale = float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 1.0
        same = torch.where(a == b, 0.0, (a - b).abs())
        error = float(same.nan_to_num(nan=torch.inf).max()) if a.numel() else 0.0
        if bool((a.isnan() & b.isnan()).any()):
            error = float(same[~(a.isnan() & b.isnan())].nan_to_num(nan=torch.inf).max())
        if error > _TOLERANCE.get(theirs[0].dtype, 1e-9) * max(scale, 1e-30):
            return f"its output differs by {error / max(scale, 1e-30):.1e} relative"
    return None


def two_sizes(structure: Structure, model: nn.Module) -> list[Inputs]:
    """The example inputs, and inputs of another batch size and length where the model allows.

    Dimensions the export kept symbolic grow; entries repeat, so that token ids and masks stay
    valid. Example inputs on the meta device are replaced by small valid numbers.
    """
    first = structure.inputs
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    given = list(first.values()) if isinstance(first, Mapping) else list(first)
    real = [_real(t).to(device) for t in given]

    def named(tensors: list[Tensor]) -> Inputs:
        return dict(zip(first, tensors)) if isinstance(first, Mapping) else tuple(tensors)

    placeholders = [i.value for i in structure.program.inputs]
    if structure.dynamic and len(placeholders) == len(given):
        # A network may want even extents, or fix all but the batch: take what the dense one takes.
        for grow in (_by_some, _by_doubling, _batch_only):
            symbols: dict[str, int] = {}
            grown = [_grown(t, f, grow, symbols) for t, f in zip(real, placeholders)]
            if any(a.shape != b.shape for a, b in zip(real, grown)) and _runs(model, named(grown)):
                return [named(real), named(grown)]
    return [named(real)]


Grow = Callable[[int, int, int], int]
"""(old size, dimension, how many sizes grew before) -> new size."""


def _by_some(old: int, dim: int, before: int) -> int:
    return old + 1 + before % 2


def _by_doubling(old: int, dim: int, before: int) -> int:
    return old + 1 if dim == 0 else 2 * old


def _batch_only(old: int, dim: int, before: int) -> int:
    return old + 1 if dim == 0 else old


def _grown(tensor: Tensor, fake: Any, grow: Grow, symbols: dict[str, int]) -> Tensor:
    """``tensor`` with its free dimensions grown: equal symbols alike, others differently."""
    for dim, n in enumerate(fake.shape):
        # A single channel looks free to the exporter, but weights fix it.
        if not isinstance(n, torch.SymInt) or (dim > 0 and hint(n) == 1):
            continue
        expression = n.node.expr
        values = {}
        for symbol in sorted(expression.free_symbols, key=str):
            old = n.node.shape_env.backed_var_to_val.get(symbol)
            old = int(hint(n) if old is None else old)
            if str(symbol) not in symbols:
                symbols[str(symbol)] = grow(old, dim, len(symbols))
            values[symbol] = symbols[str(symbol)]
        new = int(expression.subs(values))
        index = torch.arange(new, device=tensor.device) % tensor.shape[dim]
        tensor = tensor.index_select(dim, index)
    return tensor


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        run(model, inputs)
    except Exception:  # user code may refuse a size in any way
        return False
    return True


def _real(tensor: Tensor) -> Tensor:
    if tensor.device.type != "meta":
        return tensor.detach().clone()
    generator = torch.Generator().manual_seed(0)
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    if tensor.dtype == torch.bool:
        return torch.ones(tensor.shape, dtype=torch.bool)
    return torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.dtype)


def cache_differs(model: Any, dense: Any, inputs: Inputs) -> str | None:
    """Whether greedy generation with a cache differs from generation without, for models that
    generate and for which the two agree in the dense model."""
    able = getattr(dense, "can_generate", None)
    if able is None or not able() or not isinstance(inputs, Mapping):
        return None
    if "input_ids" not in inputs or _generation_gap(dense, inputs["input_ids"]) is not None:
        return None
    gap = _generation_gap(model, inputs["input_ids"])
    return None if gap is None else f"generation with a cache goes wrong: {gap}"


def _generation_gap(model: Any, ids: Tensor) -> str | None:
    def scores(use_cache: bool) -> list[Tensor]:
        result = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
            num_beams=1,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return list(result.logits)

    try:
        with torch.no_grad():
            return difference(scores(True), scores(False))
    except Exception as error:  # whatever the generation loop stumbles over
        return f"{type(error).__name__}: {error}"
