"""Curved mode connectivity: a Bezier path whose middle is trained."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from probcomp.errors import DivergenceError, InputError
from probcomp.progress import progress
from probcomp.regime.landscape import (
    Loader,
    classification_error,
    connectivity_of,
    refresh_batch_norm,
    tensor_of,
)
from probcomp.regime.randomness import seeded

Loss = Callable[[Tensor, Tensor], Tensor]


def bezier_connectivity(
    first: nn.Module,
    second: nn.Module,
    loader: Loader,
    *,
    epochs: int = 50,
    lr: float = 0.01,
    momentum: float = 0.9,
    points: int = 5,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
) -> tuple[float, np.ndarray]:
    """Mode connectivity along a trained curve, a fraction of the train error; no unit.

    ``g(t) = (1-t)^2 a + 2 t (1-t) phi + t^2 b`` with the ends a and b fixed; phi starts half way
    between them and minimises ``E_t loss(g(t))``, t uniform, by stochastic gradients (Garipov et
    al. 2018, eq. 2 and 10). ``mc = (E(0) + E(1)) / 2 - E(t*)``, t* the evaluated point where the
    two differ most (Yang et al. 2021, eq. 1): negative at a barrier, near zero where the ends are
    joined by a valley, positive where the curve holds better networks than its ends.

    Args:
        first, second: Networks of one shape; neither is changed.
        loader: Batches of ``(inputs, targets)``, read once an epoch and at each point.
        epochs, lr, momentum: Of the training of phi, which has the parameters of a network.
        points: Evaluated points, equally spaced with both ends.
        seed: Of the values of t and of what the network draws.

    Returns:
        mc, and the error at each point.

    Raises:
        DivergenceError: the loss on the curve is not finite, or logits at a point of it.
    """
    a, b = (dict(model.named_parameters()) for model in (first, second))
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape for k in a):
        raise InputError("the two networks differ in their parameters; they must share one shape.")
    if points < 3 or epochs < 0:
        raise InputError(f"points is {points}, epochs {epochs}; need at least 3 and 0.")
    ends = {k: (a[k].detach(), b[k].detach()) for k in a}
    phi = {k: ((x + y) / 2).requires_grad_() for k, (x, y) in ends.items()}
    model = copy.deepcopy(first)
    optimiser = torch.optim.SGD(list(phi.values()), lr, momentum)
    generator = torch.Generator().manual_seed(seed)
    errors = np.empty(points)
    with progress("Bezier curve", epochs + points) as advance:
        model.train()
        with seeded(model) as set_seed:
            set_seed(seed)
            for _ in range(epochs):
                for inputs, targets in loader:
                    t = float(torch.rand((), generator=generator))
                    weights = _at(ends, phi, t)
                    said = tensor_of(functional_call(model, weights, (inputs,)), "network")
                    value = loss(said, targets)
                    if not torch.isfinite(value):
                        raise DivergenceError(f"the loss on the curve is {value}; lower lr {lr:g}.")
                    optimiser.zero_grad(set_to_none=True)
                    value.backward()
                    optimiser.step()
                advance(f"loss {value.item():.3f}")
        with torch.no_grad():
            for i, t in enumerate(np.linspace(0, 1, points)):
                model.load_state_dict({**second.state_dict(), **_at(ends, phi, float(t))})
                refresh_batch_norm(model, loader)
                errors[i] = classification_error(model, loader)
                advance(f"error {errors[i]:.3f}")
    return connectivity_of(errors), errors


def _at(
    ends: dict[str, tuple[Tensor, Tensor]], phi: dict[str, Tensor], t: float
) -> dict[str, Tensor]:
    return {k: (1 - t) ** 2 * a + 2 * t * (1 - t) * phi[k] + t**2 * b for k, (a, b) in ends.items()}
