r"""Statistics on the pruned prefix: what a read-out should still give out, and what it now sees.

Two models run side by side: the dense one, and the one whose read-outs up to here are already
pruned and refitted. With dense inputs ``x``, present inputs ``x'`` and the columns ``K`` that stay,
the target of the refit is

.. math:: y_t = W x_t - W_K x'_{tK} + (r_t - r'_t)

The last term is there where the output is added to a residual stream: ``r`` is what it is added
to, so that a block also makes up for what earlier blocks left undone. It is found as it happens,
by watching the first addition that takes the output; a batch norm in between is undone.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from probcomp.errors import InputError
from probcomp.evidence.collect import Run, at_least_single, batch_size, evaluating, row_mask
from probcomp.evidence.matrices import Matrix
from probcomp.recovery.ridge import Moments

NORMS = (F.batch_norm, torch.batch_norm)
ADDITIONS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__)
PASSED = (F.dropout, torch.dropout)


def prefix_moments(
    dense: nn.Module,
    pruned: nn.Module,
    matrix: Matrix,
    kept: Tensor,
    batches: Iterable[Any],
    run: Run,
    *,
    residual: bool = True,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[Moments, Moments]:
    """Moments of the kept inputs and the target, for even and for odd samples of the data.

    With a single sample the second half is empty (count 0), and `fit` changes nothing.

    Args:
        dense: The dense model.
        pruned: The same architecture; every read-out before this one is in its final state, and
            this one still has its dense weights.
        matrix: The read-out.
        kept: Columns that stay, boolean [di].
        batches: Calibration batches.
        run: Runs a model on a batch.
        residual: Whether to add what earlier blocks left undone.
        on_batch: Called after each batch.

    Raises:
        InputError: The read-out's module was never called.
    """
    weight = at_least_single(matrix.of(dense.get_parameter(f"{matrix.module}.weight").detach()))
    nothing = _moments(weight[:0][:, kept.to(weight.device)], weight[:0, :1].expand(0, len(weight)))
    folds = [nothing, nothing]
    offset = 0
    with evaluating(dense), evaluating(pruned), torch.no_grad():
        for batch in batches:
            first = _capture(dense, matrix, batch, run, residual)
            second = _capture(pruned, matrix, batch, run, residual)
            inputs = at_least_single(second[0][..., kept])
            target = F.linear(at_least_single(first[0]), weight)
            target = target - F.linear(inputs, weight[:, kept])
            if first[1] is not None and second[1] is not None:
                left = first[1] - second[1]
                target = target + (left if first[2] is None else _through(left, first[2]))
            _add(folds, inputs, target, batch, offset)
            offset += batch_size(batch)
            on_batch()
    if not folds[0].count + folds[1].count:
        raise InputError(f"no rows reached {matrix.module}")
    return folds[0], folds[1]


def call_order(model: nn.Module, matrices: Mapping[str, Matrix], batch: Any, run: Run) -> list[str]:
    """Names of the read-outs in the order in which the model first calls their modules."""
    order: list[str] = []
    modules = dict(model.named_modules())

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: order.append(name) if name not in order else None

    handles = [modules[m.module].register_forward_hook(hook(n)) for n, m in matrices.items()]
    try:
        with evaluating(model), torch.no_grad():
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return order


@dataclass(frozen=True)
class BiasPlace:
    """The tensor of a model that can take up a constant in a read-out's output.

    Attributes:
        name: Its name among the parameters and buffers.
        sign: What to multiply the constant by before it is added: a batch norm's running mean is
            subtracted from its input.
    """

    name: str
    sign: int = 1


def bias_place(model: nn.Module, matrix: Matrix, batch: Any, run: Run) -> BiasPlace | None:
    """Where a read-out's mean error can go: its own bias, or the batch norm that follows it."""
    if isinstance(getattr(model.get_submodule(matrix.module), "bias", None), Tensor):
        return BiasPlace(f"{matrix.module}.bias")
    with evaluating(model), torch.no_grad():
        mean = _capture(model, matrix, batch, run, True)[3]
    names = [name for name, value in model.named_buffers() if value is mean]
    return BiasPlace(names[0], -1) if mean is not None and names else None


def _through(left: Tensor, scale: Tensor) -> Tensor:
    """What must come out before a norm's scale; channels that it all but closes are left."""
    usable = scale.abs() > 1e-3 * scale.abs().max()
    return torch.where(usable, left / torch.where(usable, scale, 1.0), 0.0)


class _Done(Exception):
    """The forward pass has shown all that is wanted."""


class _Watch(TorchFunctionMode):
    """Waits for the tensor ``watched`` to be added to something, and stops there."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: Tensor | None = None
        self.residual: Tensor | None = None
        self.scale: Tensor | None = None
        self.mean: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.watched is None:
            return func(*args, **kwargs)
        mine = [a is self.watched for a in args]
        if not any(mine):
            return func(*args, **kwargs)
        if func in ADDITIONS and len(args) == 2 and mine.count(True) == 1:
            other = args[mine.index(False)]
            if isinstance(other, Tensor) and other.shape == self.watched.shape:
                self.residual = other
            raise _Done
        result = func(*args, **kwargs)
        if func in PASSED:
            self.watched = result
        elif func in NORMS and self.mean is None and mine[0] and args[1] is not None:
            mean, variance = args[1:3]
            weight = kwargs.get("weight", args[3] if len(args) > 3 else None)
            self.mean, self.watched = mean, result
            # torch.batch_norm takes eps by position, with a flag behind it.
            eps = kwargs.get("eps", next((a for a in reversed(args) if type(a) is float), 0.0))
            scale = (variance + eps).rsqrt()
            self.scale = scale if weight is None else scale * weight
        elif isinstance(result, Tensor) and result.dim() > 0:
            raise _Done  # something else reads the output: it joins no residual stream
        return result


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    with contextlib.suppress(_Done):
        yield


def _capture(
    model: nn.Module, matrix: Matrix, batch: Any, run: Run, residual: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Input rows of a read-out, the rows its output is added to, and the norm in between.

    Of the norm: the scale of each output, and the running mean; ``None`` where there is none.
    """
    seen: list[Tensor] = []
    watch = _Watch()

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append(matrix.rows(module, inputs[0]))
        if not residual:
            raise _Done
        watch.watched = output

    handle = model.get_submodule(matrix.module).register_forward_hook(hook)
    try:
        with _stopping(), watch:
            run(model, batch)
    finally:
        handle.remove()
    if not seen:
        raise InputError(f"{matrix.module} was never called as a module")
    other = None if watch.residual is None else matrix.outputs(watch.residual)
    return seen[0], other, watch.scale, watch.mean


def _add(folds: list[Moments], inputs: Tensor, target: Tensor, batch: Any, offset: int) -> None:
    """Samples that are even over the whole data to the first half, odd ones to the second.

    In a flat list of positions equal stretches stand for the samples, so that the positions of a
    text stay together.
    """
    mask = row_mask(batch, inputs)
    if mask is None:
        mask = inputs.new_ones(inputs.shape[:2], dtype=torch.bool)
    rows = torch.arange(mask.numel(), device=inputs.device)
    owner = offset + (rows * batch_size(batch) // max(1, mask.numel())).view(mask.shape)
    for fold in (0, 1):
        chosen = mask.to(inputs.device) & (owner % 2 == fold)
        folds[fold] = folds[fold] + _moments(inputs[chosen], target[chosen])


def _moments(x: Tensor, y: Tensor) -> Moments:
    x, y = at_least_single(x), at_least_single(y)
    return Moments(
        (x.T @ x).double(),
        (x.T @ y).double(),
        x.double().sum(0),
        y.double().sum(0),
        float(y.double().square().sum()),
        len(x),
    )
