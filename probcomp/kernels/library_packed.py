"""The inference-only formats as custom ops: clustered runs and N:M."""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autocast

from probcomp.kernels import gather
from probcomp.kernels.activations import activation_function
from probcomp.kernels.derived import derived
from probcomp.kernels.dispatch import Problem, choose
from probcomp.kernels.fast_dense import dense_product
from probcomp.kernels.nm import GroupWeight
from probcomp.kernels.ready import Run
from probcomp.kernels.runs import RunWeight


def _run_dense(val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, k: int) -> Tensor:
    """The dense weight of clustered runs ``[N, k]``."""
    shape = (inverse.shape[0], k)
    return RunWeight(
        shape=shape, bias=None, live=0, val=val.detach(), ptr=ptr, seg=seg,
        order=torch.argsort(inverse), inverse=inverse,
    ).dense()  # fmt: skip


def group_dense(val: Tensor, code: Tensor, kept: int, group: int) -> Tensor:
    """The dense weight of N:M groups ``[N, K]``."""
    shape = (val.shape[0], val.shape[1] // kept * group)
    weight = GroupWeight(
        shape=shape, bias=None, live=0, val=val.detach(), code=code, n=kept, m=group
    )
    return weight.dense()


def run_backend(x: Tensor, val: Tensor, n: int, ask: str) -> str:
    """The backend of a product of x ``[M, K]`` with clustered runs ``val``."""
    shape, block = (n, x.shape[1]), (val.shape[2], val.shape[1])
    density = val.numel() / (shape[0] * shape[1])
    return choose(
        Problem("runs", x.device, x.dtype, shape, block, density, x.shape[0], True), ask
    ).backend


def run_product(
    backend: str, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, bias: Tensor | None,
    k: int, rows: int, activation: str,
) -> Run:  # fmt: skip
    """act(x W^T + b) with W in clustered runs, as a function of x ``[M, k]``, M > 0.

    ``rows`` is the largest M that it will see often.
    """
    if backend == "dense":
        shape = (inverse.shape[0], k)
        return dense_product(
            val, lambda: _run_dense(val, ptr, seg, inverse, k), shape, rows, val.dtype, bias,
            activation,
        )  # fmt: skip
    act = activation_function(activation)

    def run(x: Tensor) -> Tensor:
        if backend == "triton":
            from probcomp.kernels.gpu.launch import run_linear as launch

            y = launch(x, val, ptr, seg).index_select(1, inverse)
        else:
            y = gather.run_forward(x, val, ptr, seg, inverse)
        return act(y if bias is None else y + bias)

    return run


def group_backend(x: Tensor, val: Tensor, kept: int, group: int, ask: str) -> str:
    """The backend of a product of x ``[M, K]`` with N:M groups ``val``."""
    shape = (val.shape[0], x.shape[1])
    return choose(
        Problem(
            "nm", x.device, x.dtype, shape, (kept, group), kept / group, x.shape[0], True
        ),
        ask,
    ).backend  # fmt: skip


def group_product(
    backend: str, val: Tensor, code: Tensor, bias: Tensor | None, kept: int, group: int,
    rows: int, activation: str,
) -> Run:  # fmt: skip
    """act(x W^T + b) with W in N:M groups, as `run_product`."""
    if backend == "dense":
        shape = (val.shape[0], val.shape[1] // kept * group)
        return dense_product(
            val, lambda: group_dense(val, code, kept, group), shape, rows, val.dtype, bias,
            activation,
        )  # fmt: skip
    act = activation_function(activation)

    def run(x: Tensor) -> Tensor:
        from probcomp.kernels.gpu.groups import launch

        y = launch(x, val, code, kept, group)
        return act(y if bias is None else y + bias)

    return run


@custom_op("probcomp::run_linear", mutates_args=())
def run_linear(
    x: Tensor, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, bias: Tensor | None,
    activation: str, backend: str,
) -> Tensor:  # fmt: skip
    """act(x W^T + b) with W in clustered runs (`probcomp.kernels.RunWeight`); ``[M, N]``."""
    n, (m, k) = inverse.shape[0], x.shape
    if m == 0:
        return x.new_empty(0, n)
    name = run_backend(x, val, n, backend)
    return run_product(name, val, ptr, seg, inverse, bias, k, m, activation)(x)


@run_linear.register_fake
def _(x: Tensor, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape[0], inverse.shape[0])


@custom_op("probcomp::group_linear", mutates_args=())
def group_linear(
    x: Tensor, val: Tensor, code: Tensor, bias: Tensor | None, kept: int, group: int,
    activation: str, backend: str,
) -> Tensor:  # fmt: skip
    """act(x W^T + b) with W in N:M groups (`probcomp.kernels.GroupWeight`); ``[M, N]``."""
    if x.shape[0] == 0:
        return x.new_empty(0, val.shape[0])
    name = group_backend(x, val, kept, group, backend)
    return group_product(name, val, code, bias, kept, group, x.shape[0], activation)(x)


@group_linear.register_fake
def _(x: Tensor, val: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape[0], val.shape[0])


@custom_op("probcomp::run_backward_input", mutates_args=())
def run_backward_input(
    grad: Tensor, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, k: int
) -> Tensor:
    """dx = dy W for clustered runs, by the expanded weight; ``[M, k]``."""
    return grad @ derived(val, ("dense", k), lambda: _run_dense(val, ptr, seg, inverse, k))


@run_backward_input.register_fake
def _(grad: Tensor, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, k: int) -> Tensor:
    return grad.new_empty(grad.shape[0], k)


@custom_op("probcomp::group_backward_input", mutates_args=())
def group_backward_input(grad: Tensor, val: Tensor, code: Tensor, kept: int, group: int) -> Tensor:
    """dx = dy W for N:M groups, by the expanded weight; ``[M, K]``."""
    return grad @ derived(val, ("dense", group), lambda: group_dense(val, code, kept, group))


@group_backward_input.register_fake
def _(grad: Tensor, val: Tensor, code: Tensor, kept: int, group: int) -> Tensor:
    return grad.new_empty(grad.shape[0], val.shape[1] // kept * group)


def _keep_run(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, val, ptr, seg, inverse, bias, activation, _ = inputs
    _refuse(activation)
    ctx.save_for_backward(val, ptr, seg, inverse)
    ctx.k, ctx.biased = x.shape[1], bias is not None


def _back_run(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    val, ptr, seg, inverse = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        raise NotImplementedError("clustered runs are for inference: no gradient of the weight")
    read = ctx.needs_input_grad[0]
    dx = run_backward_input(grad, val, ptr, seg, inverse, ctx.k) if read else None
    dbias = grad.sum(0) if ctx.biased and ctx.needs_input_grad[5] else None
    return (dx, None, None, None, None, dbias, None, None)


def _keep_group(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, val, code, bias, kept, group, activation, _ = inputs
    _refuse(activation)
    ctx.save_for_backward(val, code)
    ctx.pattern, ctx.biased = (kept, group), bias is not None


def _back_group(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    val, code = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        raise NotImplementedError("N:M weights are for inference: no gradient of the weight")
    dx = group_backward_input(grad, val, code, *ctx.pattern) if ctx.needs_input_grad[0] else None
    dbias = grad.sum(0) if ctx.biased and ctx.needs_input_grad[3] else None
    return (dx, None, None, dbias, None, None, None, None)


def _refuse(activation: str) -> None:
    if activation != "none":
        raise NotImplementedError("no gradient through an activation: apply it outside")


run_linear.register_autograd(_back_run, setup_context=_keep_run)
group_linear.register_autograd(_back_group, setup_context=_keep_group)
for _device in ("cpu", "cuda"):
    register_autocast("probcomp::run_linear", _device, torch.bfloat16)
    register_autocast("probcomp::group_linear", _device, torch.bfloat16)
