"""Compression methods as pruning rules of pilots: ``probcomp.recipes.pilot_masks:METHOD``.

Pilots know rules by their address and nothing of this package's methods; here is what they find
there. Each name of `probcomp.recipes.methods.METHODS` is an attribute of this module.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from probcomp.allocation import Budget
from probcomp.recipes.compress import compress
from probcomp.recipes.methods import METHODS

if TYPE_CHECKING:
    from probcomp.regime.tasks import PilotTask


def address(method: str) -> str:
    """What a pilot calls a method of the package."""
    return f"{__name__}:{method}"


def masks(
    model: nn.Module, task: "PilotTask", density: float, seed: int, *, method: str
) -> dict[str, Tensor]:
    """Masks by a method that decides over all layers; the survivors keep their trained values.

    It is given the budget that leaves ``density`` of the task's prunable weights if everything
    else stays.
    """
    from probcomp.regime.pruning import prunable_weights

    total = sum(p.numel() for p in model.parameters())
    inside = sum(w.numel() for w in prunable_weights(model, task.prunable).values())
    share = (total - inside + density * inside) / total
    result = compress(
        model, task.train, budget=Budget(params=share), method=method, seed=seed,
        test=task.test, kinds=(), progress=False,
    )  # fmt: skip
    return dict(result.masks)


def __getattr__(name: str) -> Callable[..., dict[str, Tensor]]:
    """The rule of a method."""
    if name not in METHODS:
        raise AttributeError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    return partial(masks, method=name)
