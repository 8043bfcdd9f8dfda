r"""PDP, parameter-free differentiable pruning: Cho, Adya and Naik (2023), NeurIPS.

Each layer computes with :math:`\hat w = m(w) w`, where the soft mask is a function of the weight:

.. math:: m(w) = \sigma\bigl((w^2 - t^2)/\tau\bigr),\qquad
          t = \tfrac12(|w|_{(k)} + |w|_{(k+1)})

with ``k`` the number of weights that stay, so gradients flow through both factors and a weight
near the edge can come back. The share that goes rises linearly to its target; then the mask
becomes :math:`m \ge 1/2` and the rest is trained. The shares of the layers are those of one
magnitude threshold over all layers.

The soft mask is an exact E-step: it is the posterior probability of the slab under
:math:`w \sim \pi N(0, s_1^2) + (1 - \pi) N(0, s_0^2)` with
:math:`1/\tau = \tfrac12(s_0^{-2} - s_1^{-2})` and
:math:`t^2/\tau = \ln\frac{(1 - \pi) s_1}{\pi s_0}`; a budget on the count is a choice of the prior
inclusion :math:`\pi` (`slab_probability`).

Departures: the layer shares are refreshed with the threshold, every ``refresh`` steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.baselines.engine import Fit, Schedule, WeightTerm
from probcomp.inference.baselines.preparing import Setting, finish, run, seeded, working_copy
from probcomp.inference.baselines.readout import Limit, Pruned, cut, settle
from probcomp.inference.baselines.reweighting import reweight, undo


@dataclass(frozen=True, kw_only=True)
class PDPConfig(Schedule):
    """Settings of PDP.

    Attributes:
        temperature: ``tau``, in units of squared weights.
        dense_share: Share of the epochs before pruning begins.
        ramp: Share of the epochs at which the target sparsity is reached.
        refresh: Steps between updates of the thresholds.
        refit_epochs: Passes over the data with the hard mask; the publication has such a phase.
    """

    epochs: int = 15
    refit_epochs: int = 10
    temperature: float = 1e-5
    dense_share: float = 0.05
    ramp: float = 0.7
    refresh: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.temperature > 0 and 0 <= self.dense_share < self.ramp <= 1):
            raise InputError(
                "temperature must be positive and 0 <= dense_share < ramp <= 1, got "
                f"{self.temperature}, {self.dense_share}, {self.ramp}"
            )


def soft_mask(weight: Tensor, edge: float | Tensor, temperature: float) -> Tensor:
    """``sigmoid((w^2 - t^2) / tau)``, elementwise."""
    return torch.sigmoid((weight.square() - edge**2) / temperature)


def slab_probability(weight: Tensor, inclusion: float, slab: float, spike: float) -> Tensor:
    """Posterior probability of the slab of two Gaussians with deviations ``slab``, ``spike``."""
    odds = math.log(inclusion / (1 - inclusion)) + math.log(spike / slab)
    return torch.sigmoid(odds + 0.5 * (spike**-2 - slab**-2) * weight.square())


class _SoftMask(torch.autograd.Function):
    """``m(w) w`` and its slope ``m + 2 w^2 m (1 - m) / tau``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, edge: float, temperature: float) -> Tensor:
        squares = weight.square()
        mask = torch.sigmoid((squares - edge * edge) / temperature)
        ctx.save_for_backward(mask + squares.mul_(2 / temperature).mul_(mask).mul_(1 - mask))
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None


class Edges(WeightTerm):
    """Thresholds that leave a rising share of the cost out; a term of the engine without cost."""

    def __init__(self, layers: dict[str, Any], limit: Limit, config: PDPConfig, steps: int) -> None:
        self.layers, self.config, self.steps = layers, config, steps
        ones = {n: torch.ones_like(m.weight, dtype=torch.bool) for n, m in layers.items()}
        whole = limit.spent(ones, {})
        count = sum(m.weight.numel() for m in layers.values())
        # What is not a weight of these layers is paid for first.
        fixed = limit.spent({n: torch.zeros_like(m) for n, m in ones.items()}, {})
        share = (limit.allowed - fixed) / (whole - fixed) if whole > fixed else 1.0
        self.target = round(min(max(share, 0.0), 1.0) * count)
        self.count, self.step = count, 0
        self.edge = dict.fromkeys(layers, 0.0)

    def value(self) -> Tensor:
        """Nothing is added to the loss."""
        return torch.zeros(())

    def add_gradient(self, pull: float) -> None:
        """Nothing is added to the loss."""

    def state(self) -> dict[str, Tensor]:
        """The step, and the thresholds in use."""
        edges = {f"edge/{n}": torch.tensor(e, dtype=torch.double) for n, e in self.edge.items()}
        return {**edges, "step": torch.tensor(self.step)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.step = int(state["step"])
        for name in self.edge:  # in place: the layers read this dict
            self.edge[name] = float(state[f"edge/{name}"])

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the thresholds every ``refresh`` steps."""
        self.step += 1
        if self.step % self.config.refresh and self.step > 1:
            return
        begin, end = self.config.dense_share, self.config.ramp
        rise = min(max((self.step / self.steps - begin) / (end - begin), 0.0), 1.0)
        kept = round(self.count - rise * (self.count - self.target))
        if kept >= self.count:
            return
        sizes = torch.cat([m.weight.abs().flatten() for m in self.layers.values()])
        everywhere = sizes.kthvalue(self.count - kept).values
        for name, layer in self.layers.items():
            size = layer.weight.abs()
            gone, left = size[size <= everywhere], size[size > everywhere]
            # Halfway between the largest that goes and the smallest that stays.
            high = float(left.min()) if left.numel() else float(everywhere)
            self.edge[name] = 0.5 * (float(gone.max()) + high) if gone.numel() else 0.0


def pdp(setting: Setting, config: PDPConfig | None = None) -> Pruned:
    """Train with soft masks, then with hard ones; see the module.

    Raises:
        InputError: No budget, or a model without layers to prune.
        BudgetError: The budget is out of reach.
        DivergenceError: The loss is not finite.
    """
    config = config or PDPConfig()
    if setting.limit is None:
        raise InputError("PDP has no rule of its own: give a budget")
    with seeded(setting.seed) as noise:
        model, names = working_copy(setting)
        edges: list[Edges] = []

        def effective(layer: Any) -> Tensor:
            return _SoftMask.apply(layer.weight, edges[0].edge[layer.own], config.temperature)

        layers = reweight(model, names, effective)
        for name, layer in layers.items():
            layer.own = name
        steps = config.epochs * sum(1 for _ in setting.batches(0))
        edges.append(Edges(layers, setting.limit, config, steps))
        fit = Fit(model, setting.batches, setting.loss, config, noise, terms=edges)
        history = run(fit, setting, config)
        for layer in layers.values():
            del layer.own
        undo(layers)
        scores = {name: layer.weight.detach().abs() for name, layer in layers.items()}
        masks, keep, _ = cut(
            scores,
            dict.fromkeys(scores, 0.0),
            lambda alive: settle(model, alive, setting.units),
            setting.limit,
        )
        refitted = finish(model, setting, config, masks, keep)
    meta = {"method": "pdp", "edges": edges[0].edge, "refit_nll": refitted}
    return Pruned(model=model, masks=masks, keep=keep, history=history, meta=meta)
