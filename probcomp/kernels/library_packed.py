"""The inference-only formats as custom ops: clustered runs and N:M."""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autocast

from probcomp.kernels import gather
from probcomp.kernels.activations import activation_function
from probcomp.kernels.derived import derived
from probcomp.kernels.dispatch import Problem, choose
from probcomp.kernels.fast_dense import frozen_linear
from probcomp.kernels.nm import GroupWeight
from probcomp.kernels.runs import RunWeight


def _run_dense(val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, k: int) -> Tensor:
    def build() -> Tensor:
        n = inverse.shape[0]
        return RunWeight(
            shape=(n, k), bias=None, live=0, val=val.detach(), ptr=ptr, seg=seg,
            order=torch.argsort(inverse), inverse=inverse,
        ).dense()  # fmt: skip

    return derived(val, ("dense", k), build)


def _group_dense(val: Tensor, code: Tensor, kept: int, group: int) -> Tensor:
    def build() -> Tensor:
        shape = (val.shape[0], val.shape[1] // kept * group)
        return GroupWeight(
            shape=shape, bias=None, live=0, val=val.detach(), code=code, n=kept, m=group
        ).dense()

    return derived(val, ("dense", group), build)


@custom_op("probcomp::run_linear", mutates_args=())
def run_linear(
    x: Tensor,
    val: Tensor,
    ptr: Tensor,
    seg: Tensor,
    inverse: Tensor,
    bias: Tensor | None,
    activation: str,
    backend: str,
) -> Tensor:
    """act(x W^T + b) with W in clustered runs (`probcomp.kernels.RunWeight`); ``[M, N]``."""
    n = inverse.shape[0]
    if x.shape[0] == 0:
        return x.new_empty(0, n)
    shape, block = (n, x.shape[1]), (val.shape[2], val.shape[1])
    density = val.numel() / (shape[0] * shape[1])
    problem = Problem("runs", x.device, x.dtype, shape, block, density, x.shape[0], True)
    name = choose(problem, backend).backend
    if name == "dense":
        return frozen_linear(x, _run_dense(val, ptr, seg, inverse, x.shape[1]), bias, activation)
    if name == "triton":
        from probcomp.kernels.gpu.launch import run_linear as launch

        y = launch(x, val, ptr, seg).index_select(1, inverse)
    else:
        y = gather.run_forward(x, val, ptr, seg, inverse)
    return activation_function(activation)(y if bias is None else y + bias)


@run_linear.register_fake
def _(x: Tensor, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape[0], inverse.shape[0])


@custom_op("probcomp::group_linear", mutates_args=())
def group_linear(
    x: Tensor,
    val: Tensor,
    code: Tensor,
    bias: Tensor | None,
    kept: int,
    group: int,
    activation: str,
    backend: str,
) -> Tensor:
    """act(x W^T + b) with W in N:M groups (`probcomp.kernels.GroupWeight`); ``[M, N]``."""
    n = val.shape[0]
    if x.shape[0] == 0:
        return x.new_empty(0, n)
    problem = Problem(
        "nm", x.device, x.dtype, (n, x.shape[1]), (kept, group), kept / group, x.shape[0], True
    )
    if choose(problem, backend).backend == "triton":
        from probcomp.kernels.gpu.groups import launch

        y = launch(x, val, code, kept, group)
        return activation_function(activation)(y if bias is None else y + bias)
    return frozen_linear(x, _group_dense(val, code, kept, group), bias, activation)


@group_linear.register_fake
def _(x: Tensor, val: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape[0], val.shape[0])


@custom_op("probcomp::run_backward_input", mutates_args=())
def run_backward_input(
    grad: Tensor, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, k: int
) -> Tensor:
    """dx = dy W for clustered runs, by the expanded weight; ``[M, k]``."""
    return grad @ _run_dense(val, ptr, seg, inverse, k)


@run_backward_input.register_fake
def _(grad: Tensor, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor, k: int) -> Tensor:
    return grad.new_empty(grad.shape[0], k)


@custom_op("probcomp::group_backward_input", mutates_args=())
def group_backward_input(grad: Tensor, val: Tensor, code: Tensor, kept: int, group: int) -> Tensor:
    """dx = dy W for N:M groups, by the expanded weight; ``[M, K]``."""
    return grad @ _group_dense(val, code, kept, group)


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
