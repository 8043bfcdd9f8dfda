r"""How sure a pruned classifier is: one factor on its outputs, against the dense model's.

A refit restores the size of the outputs, and with it how sure the dense model is, but not all of
its right answers: sure answers that are now wrong cost much. So logits ``z'`` of the pruned model
are multiplied by the factor

.. math:: \min_s \sum_n \mathrm{KL}\bigl(\mathrm{softmax}(z_n) \,\|\, \mathrm{softmax}(s z'_n)\bigr)

with :math:`s \le 1`, over calibration samples that no weights were fitted to (how many units each
axis keeps was measured on them): temperature scaling (Guo, Pleiss, Sun and Weinberger 2017, arXiv
1706.04599, section 4.2, with ``s = 1 / T``), with the dense model's predictions in the place of
labels, since labels of images that a network was trained on say nothing about its errors. Nothing
is made surer: where none of a few answers changed, the sum asks for it by a fraction of a nat, and
the dense model is surer of images that it was trained on than of new ones. The sum is convex in
``s``. Decisions stay the same. Of few samples the factor is noise and does harm, so it needs
`FEWEST`, and tokens of one text are not so many samples: of `FEW_TEXTS` it takes `MANY_TOKENS`. Of
that many it still rests on the few samples whose answers changed most, and the factors of two
halves differ much. It goes into the last layer, so it needs one of its own: logits straight out of
a linear layer whose weight nothing else uses.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.evidence.collect import batch_size, evaluating
from probcomp.evidence.fisher import Categorical, Likelihood
from probcomp.recipes.task import Task

FEWEST, ENOUGH = 64, 1024
"""Samples that one number is fitted on at least, and samples or tokens at most, to the next batch.
"""
FEW_TEXTS, MANY_TOKENS = 8, 512
"""Texts, and tokens in all of them, that are enough as well."""
RANGE = (0.1, 10.0)
"""Factors that are tried."""
STEPS = 40
GOLDEN = (math.sqrt(5) - 1) / 2


def scale_outputs(
    model: nn.Module,
    dense: nn.Module,
    task: Task,
    likelihood: Likelihood | None,
    batches: Iterable[Any],
) -> float | None:
    """Multiply the last layer by the best factor, and give it; ``None`` where there is none.

    Args:
        model: The pruned model; its last layer is changed.
        dense: The dense model.
        task: How they are run.
        likelihood: The likelihood behind the loss; factors matter to classes alone.
        batches: Calibration batches; of few samples in all nothing is learnt.
    """
    if not isinstance(likelihood, Categorical):
        return None
    pairs: list[tuple[Tensor, Tensor]] = []
    head, count, samples, enough = None, 0, 0, False
    with evaluating(model), evaluating(dense), torch.no_grad():
        for batch in batches:
            targets = task.targets(batch)
            if targets is None:
                return None
            if head is None:
                head = head_of(model, task, batch)
                if head is None:
                    return None
            first, second = (
                likelihood.rows(task.logits(m, batch), targets).double() for m in (model, dense)
            )
            pairs.append((first, second))
            count, samples = count + len(first), samples + batch_size(batch)
            enough = min(count, samples) >= FEWEST or (
                samples >= FEW_TEXTS and count >= MANY_TOKENS
            )
            if count >= ENOUGH and enough:
                break
        if head is None or not enough:
            return None
        found, wanted = (torch.cat(part) for part in zip(*pairs))
        scale = min(best_scale(found, wanted), 1.0)  # convex: the best that is no surer
        for parameter in head.parameters():
            parameter.mul_(scale)
    return scale


def divergences(found: Tensor, dense: Tensor) -> Tensor:
    """``KL(softmax(dense) || softmax(found))`` of each unit, nats."""
    wanted = dense.log_softmax(-1)
    return (wanted.exp() * (wanted - found.log_softmax(-1))).sum(-1)


def best_scale(found: Tensor, dense: Tensor) -> float:
    """The factor of the least divergence, by golden section; 1 where no factor is better.

    Args:
        found: Logits of the pruned model, [units, classes].
        dense: Those of the dense model.
    """

    def divergence(log: float) -> float:
        return float(divergences(math.exp(log) * found, dense).sum())

    low, high = (math.log(end) for end in RANGE)
    first, second = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    values = [divergence(first), divergence(second)]
    for _ in range(STEPS):
        if values[0] <= values[1]:
            high, second, values[1] = second, first, values[0]
            first = high - GOLDEN * (high - low)
            values[0] = divergence(first)
        else:
            low, first, values[0] = first, second, values[1]
            second = low + GOLDEN * (high - low)
            values[1] = divergence(second)
    best = 0.5 * (low + high)
    return math.exp(best) if divergence(best) < divergence(0.0) else 1.0


def head_of(model: nn.Module, task: Task, batch: Any) -> nn.Linear | None:
    """The linear layer that gives out the logits, where no other module uses its parameters."""
    given: list[tuple[nn.Module, Tensor]] = []

    def seen(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        given.append((module, output))

    layers = [m for m in model.modules() if type(m) is nn.Linear]
    handles = [layer.register_forward_hook(seen) for layer in layers]
    try:
        logits = task.logits(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    last = [module for module, output in given if output is logits]
    if len(last) != 1 or sum(module is last[0] for module, _ in given) != 1:
        return None
    own = {id(p) for p in last[0].parameters()}
    users = sum(
        any(id(p) in own for p in module.parameters(recurse=False)) for module in model.modules()
    )
    head = last[0]
    return head if users == 1 and isinstance(head, nn.Linear) else None
