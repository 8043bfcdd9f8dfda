"""Sharpness of the loss at a network: Hessian trace, top eigenvalue, worst loss in a ball.

The Hessian is that of the mean loss over a loader, with respect to the parameters named, in
evaluation mode (batch norm uses its stored statistics). Its unit is nats per sample and squared
unit of weight.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.errors import DivergenceError, InputError
from probcomp.progress import progress
from probcomp.regime.landscape import Loader, logits_of

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Estimate:
    """A number and the standard error of its estimate (0 for one that is not random).

    ``converged`` is false where the iteration ended before its tolerance was met.
    """

    value: float
    error: float
    steps: int
    converged: bool


class Curvature:
    """Products of the Hessian of a network's mean loss with vectors.

    Each measure raises `DivergenceError` where a product is not finite.

    Args:
        model: The network; it is not changed.
        loader: Batches of ``(inputs, targets)``; read once for each product.
        loss: Mean loss of a batch.
        names: Parameters; all that require gradients by default.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        *,
        loss: Loss = F.cross_entropy,
        names: Sequence[str] | None = None,
    ) -> None:
        self.model = copy.deepcopy(model).eval()
        named = dict(self.model.named_parameters())
        wanted = list(names or [n for n, p in named.items() if p.requires_grad])
        missing = [name for name in wanted if name not in named]
        if missing or not wanted:
            raise InputError(f"no parameter {missing[0]!r}." if missing else "no parameters.")
        self.parameters = [named[name] for name in wanted]
        self.loader, self.loss = loader, loss
        self.size = sum(p.numel() for p in self.parameters)

    def product(self, vector: Tensor) -> Tensor:
        """``H v`` for a flat vector [parameters], by a gradient of a directional derivative."""
        if vector.shape != (self.size,):
            raise InputError(f"vector {tuple(vector.shape)}; there are {self.size} parameters.")
        parts = self._parts(vector)
        total = [torch.zeros_like(p) for p in self.parameters]
        seen = 0
        for inputs, targets in self.loader:
            value = self.loss(logits_of(self.model, inputs), targets)
            first = torch.autograd.grad(value, self.parameters, create_graph=True)
            dot = sum((g * v).sum() for g, v in zip(first, parts))
            if not isinstance(dot, Tensor) or not dot.requires_grad:  # the loss is linear
                second: Sequence[Tensor | None] = [None] * len(total)
            else:
                second = torch.autograd.grad(dot, self.parameters, allow_unused=True)
            for t, s in zip(total, second):
                if s is not None:
                    t += len(inputs) * s
            seen += len(inputs)
        if seen == 0:
            raise InputError("the loader gave no batch; if it is a generator, pass a list instead.")
        out = torch.cat([t.flatten() for t in total]) / seen
        if not bool(out.isfinite().all()):
            raise DivergenceError(
                "the curvature is not finite: the network has diverged (lower the lr it is trained "
                "with), or its inputs hold NaN."
            )
        return out

    def _parts(self, vector: Tensor) -> list[Tensor]:
        pieces = vector.split([p.numel() for p in self.parameters])
        return [v.view_as(p).to(p) for v, p in zip(pieces, self.parameters)]

    def trace(
        self, *, probes: int = 100, tolerance: float = 1e-3, seed: int = 0, show: bool = True
    ) -> Estimate:
        """Trace by Hutchinson's estimator, ``mean of v'Hv`` over random signs v.

        Stops when the standard error falls below ``tolerance`` of the mean, or after ``probes``;
        exact after one for a diagonal Hessian.
        """
        if probes < 2:
            raise InputError(f"probes is {probes}; at least two tell how far off the mean is.")
        generator = torch.Generator().manual_seed(seed)
        values: list[float] = []
        error, mean = float("inf"), 0.0
        with progress("Hessian trace", probes, show=show) as advance:
            while len(values) < probes and not (
                len(values) >= 8 and error <= tolerance * abs(mean)
            ):
                v = torch.randint(0, 2, (self.size,), generator=generator).float() * 2 - 1
                v = v.to(self.parameters[0])
                values.append(float(v.double() @ self.product(v).double()))
                mean = sum(values) / len(values)
                if len(values) > 1:
                    spread = sum((x - mean) ** 2 for x in values) / (len(values) - 1)
                    error = (spread / len(values)) ** 0.5
                advance(f"{mean:.3g}")
        return Estimate(mean, error, len(values), error <= tolerance * abs(mean))

    def top_eigenvalue(
        self, *, steps: int = 100, tolerance: float = 1e-3, seed: int = 0, show: bool = True
    ) -> Estimate:
        """Eigenvalue of largest size, by power iteration; its sign is kept."""
        vector = self._start(seed)
        value, change = 0.0, float("inf")
        with progress("top eigenvalue", steps, show=show) as advance:
            for step in range(1, steps + 1):
                moved = self.product(vector)
                before, value = value, float(vector @ moved)
                norm = moved.norm()
                advance(f"{value:.3g}")
                if norm == 0:
                    return Estimate(0.0, 0.0, step, True)
                vector = moved / norm
                change = abs(value - before)
                if step > 1 and change <= tolerance * abs(value):
                    return Estimate(value, change, step, True)
        return Estimate(value, change, steps, False)

    def lanczos(self, steps: int = 20, *, seed: int = 0, show: bool = True) -> Tensor:
        """Ritz values, ascending: the ends of the spectrum settle first.

        Lanczos' three-term recurrence with full reorthogonalisation (Golub and Van Loan, section
        10.1); exact once ``steps`` reaches the number of distinct eigenvalues.
        """
        if steps < 1:
            raise InputError(f"steps is {steps}; at least one is needed.")
        basis = [self._start(seed)]
        diagonal: list[float] = []
        beside: list[float] = []
        with progress("Lanczos", min(steps, self.size), show=show) as advance:
            for _ in range(min(steps, self.size)):
                moved = self.product(basis[-1])
                diagonal.append(float(basis[-1] @ moved))
                known = torch.stack(basis)
                for _ in range(2):  # once is not enough in float32
                    moved = moved - known.T @ (known @ moved)
                norm = float(moved.norm())
                advance(f"{diagonal[-1]:.3g}")
                if norm <= 1e-6 * max(map(abs, diagonal)) or len(diagonal) == steps:
                    break
                beside.append(norm)
                basis.append(moved / norm)
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        off = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
        matrix += torch.diag(off, 1) + torch.diag(off, -1)
        return torch.linalg.eigvalsh(matrix)

    def _start(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        vector = torch.randn(self.size, generator=generator).to(self.parameters[0])
        return vector / vector.norm()


def worst_case_sharpness(
    model: nn.Module,
    loader: Loader,
    *,
    rho: float = 0.05,
    norm: str = "l2",
    adaptive: bool = False,
    steps: int = 20,
    loss: Loss = F.cross_entropy,
) -> float:
    """``max over |d| <= rho of L(w + d) - L(w)``, in nats per sample; at least 0 at a minimum.

    By projected ascent with steps of ``2.5 rho / steps``: along the gradient for ``l2``, along its
    sign for ``linf`` (Foret et al. 2021, eq. 1; Kwon et al. 2021, eq. 3: ``adaptive`` measures
    each coordinate of d in units of ``|w|``). A lower bound, exact on a loss that is linear or,
    with enough steps, an isotropic quadratic.

    Raises:
        DivergenceError: the loss is NaN at the network or in the ball.
    """
    if not rho > 0 or steps < 1:
        raise InputError(f"rho is {rho}, steps {steps}; both must be positive.")
    if norm not in ("l2", "linf"):
        raise InputError(f"norm is {norm!r}; it must be 'l2' or 'linf'.")
    probe = copy.deepcopy(model).eval()
    parameters = [p for p in probe.parameters() if p.requires_grad]
    start = torch.cat([p.detach().flatten() for p in parameters])
    unit = start.abs() if adaptive else torch.ones_like(start)
    moved = torch.zeros_like(start)  # in the coordinates where the ball is a ball
    before, gradient = _loss_and_gradient(probe, parameters, loader, loss)
    best = before
    with progress("sharpness", steps) as advance:
        for _ in range(steps):
            uphill = unit * gradient
            direction = uphill.sign() if norm == "linf" else uphill / (uphill.norm() + 1e-30)
            moved = moved + 2.5 * rho / steps * direction
            if norm == "linf":
                moved = moved.clamp(-rho, rho)
            else:
                moved = moved * min(1.0, rho / (float(moved.norm()) + 1e-30))
            torch.nn.utils.vector_to_parameters(start + unit * moved, parameters)
            value, gradient = _loss_and_gradient(probe, parameters, loader, loss)
            best = max(best, value)
            advance(f"{best - before:.3g}")
    return best - before


def _loss_and_gradient(
    model: nn.Module, parameters: list[nn.Parameter], loader: Loader, loss: Loss
) -> tuple[float, Tensor]:
    total, seen = 0.0, 0
    gradient = parameters[0].new_zeros(sum(p.numel() for p in parameters))
    for inputs, targets in loader:
        value = loss(logits_of(model, inputs), targets)
        parts = torch.autograd.grad(value, parameters, allow_unused=True)
        flat = [
            (torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, parts)
        ]
        total += len(inputs) * value.item()
        gradient += len(inputs) * torch.cat(flat)
        seen += len(inputs)
    if seen == 0:
        raise InputError("the loader gave no batch; if it is a generator, pass a list instead.")
    if total != total:
        raise DivergenceError(
            "the loss is NaN: the network has diverged, its inputs hold NaN, or rho is too large."
        )
    return total / seen, gradient / seen
