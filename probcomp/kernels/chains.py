"""Messages along binary chains, and sweeps of them over a lattice."""

import torch
from torch import Tensor
from torch.library import custom_op

from probcomp.errors import InputError, unknown
from probcomp.kernels.dispatch import on_triton


def chain_messages(
    base: Tensor, coupling: Tensor | float, *, reverse: bool = False, backend: str = "auto"
) -> Tensor:
    r"""Message into each site of a chain from the sites before it.

    .. math:: m_{t+1} = \ln\frac{1 + e^{J + \theta_t}}{1 + e^{\theta_t}},
              \qquad \theta_t = b_t + m_t,\quad m_0 = 0

    for p(s) proportional to exp(sum_t b_t s_t + J sum_t s_t s_{t+1}). A message does not contain
    its own site's evidence, so b + forward + backward messages are the exact posterior log-odds.

    Args:
        base: ``[T, *batch]`` log-odds (field plus evidence), time first. Clipped to +-60 by the
            Triton kernel.
        coupling: J, broadcasts against ``[*batch]``.
        reverse: Messages from the sites after each site instead.
        backend: ``"auto"``, ``"torch"`` (differentiable), or ``"triton"`` (a GPU).

    Returns:
        ``[T, *batch]``, in nats.

    Raises:
        InputError: ``base`` is not floating or empty, or gradients are asked of ``"triton"``.
    """
    if backend not in ("auto", "torch", "triton"):
        raise unknown("chain backend", backend, ("auto", "torch", "triton"))
    if base.dim() < 1 or base.shape[0] < 1 or not base.is_floating_point():
        raise InputError(f"base must be floating [T, ...] with T > 0, got {list(base.shape)}")
    strength = torch.as_tensor(coupling, dtype=base.dtype, device=base.device)
    strength = strength.expand(base.shape[1:])
    learns = torch.is_grad_enabled() and (base.requires_grad or strength.requires_grad)
    if backend == "triton" and learns:
        raise InputError("the Triton chain kernel has no gradient; use backend='torch'")
    if backend == "triton" or (backend == "auto" and on_triton(base) and not learns):
        flat = base if base.dim() == 2 else base.reshape(base.shape[0], -1)
        return chain_sweep(flat, strength.reshape(-1).contiguous(), reverse).view(base.shape)
    return _steps(base, strength, reverse)


def _steps(base: Tensor, coupling: Tensor, reverse: bool) -> Tensor:
    gain = torch.expm1(coupling)
    message = torch.zeros_like(base[0])
    found = [message]
    for theta in (base.flip(0) if reverse else base)[:-1]:
        message = torch.log1p(gain * torch.sigmoid(theta + message))
        found.append(message)
    return torch.stack(found[::-1] if reverse else found)


@custom_op("probcomp::chain_sweep", mutates_args=())
def chain_sweep(base: Tensor, coupling: Tensor, reverse: bool) -> Tensor:
    """The Triton kernel as an operator; ``[T, C]``."""
    from probcomp.kernels.gpu.chains import launch

    return launch(base, coupling, reverse)


@chain_sweep.register_fake
def _(base: Tensor, coupling: Tensor, reverse: bool) -> Tensor:
    return torch.empty_like(base, memory_format=torch.contiguous_format)


def lattice_extrinsic(
    base: Tensor,
    coupling: float,
    *,
    sweeps: int = 50,
    damping: float = 0.0,
    tolerance: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, bool]:
    r"""Loopy belief propagation on a lattice by whole rows and columns: exact on each in turn.

    A sweep passes messages along every row, with those from above and below as evidence, and then
    along every column. Its fixed points are those of ordinary loopy propagation.

    Args:
        base: ``[H, W]`` log-odds (field plus evidence).
        coupling: J of each edge.
        sweeps: At most this many.
        damping: Share of the old messages that stays, in [0, 1).
        tolerance: Stop when no message changes by more, in nats.
        backend: As in `chain_messages`.

    Returns:
        The sum of the four messages into each site ``[H, W]``, and whether the sweeps converged.

    Raises:
        InputError: ``base`` is not a matrix, or damping is out of range.
    """
    if base.dim() != 2:
        raise InputError(f"base must be a lattice [H, W], got {list(base.shape)}")
    if not 0.0 <= damping < 1.0:
        raise InputError(f"damping must lie in [0, 1), got {damping}")

    def along(lattice: Tensor, axis: int) -> Tensor:
        chains = lattice if axis == 0 else lattice.t()
        found = chain_messages(chains, coupling, backend=backend)
        found = found + chain_messages(chains, coupling, reverse=True, backend=backend)
        return found if axis == 0 else found.t()

    across, down = torch.zeros_like(base), torch.zeros_like(base)
    for _ in range(sweeps):
        new = torch.lerp(along(base + down, 1), across, damping)
        change = (new - across).abs().max()
        across = new
        new = torch.lerp(along(base + across, 0), down, damping)
        change = torch.maximum(change, (new - down).abs().max())
        down = new
        if float(change) <= tolerance:
            return across + down, True
    return across + down, False
