r"""Layers settled in the order of the forward pass, each on the pruned prefix before it.

What a layer sees behind the pruned prefix, and what it should still give out, come as sums
(`probcomp.evidence.lockstep`, or `probcomp.evidence.prefix` under a memory limit or where batches
get out of step). With the change :math:`D` that makes up for the prefix while all weights are there
(`probcomp.recovery.ridge`), the layer's likelihood is the quadratic around :math:`W + D` with the
Gram matrix of what it now sees. Which weights stay is decided on it, and each row of the survivors
is the least-squares solution on its own mask, the end point of Optimal Brain Surgeon (Hassibi and
Stork 1993) for that mask.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.evidence import Matrix, Statistics
from probcomp.evidence.lockstep import Targets, walk
from probcomp.evidence.obs import alive
from probcomp.evidence.prefix import prefix_moments
from probcomp.evidence.watch import BiasPlace, OutOfStep, call_order
from probcomp.inference.quadratic import Quadratic, refit
from probcomp.inference.quadratic.likelihood import RESOLVED
from probcomp.recipes.job import Job
from probcomp.recipes.post_units import damping_of, input_gram
from probcomp.recipes.post_weights_config import WeightsConfig
from probcomp.recovery.ridge import Moments, fit

Choose = Callable[[str, Quadratic], Tensor]
"""``choose(name, quadratic) -> mask``, boolean ``[do, di]``."""


def dense_quadratic(
    weight: Tensor, statistics: Statistics, config: WeightsConfig, *, centred: bool
) -> Quadratic:
    """A layer's loss from dense statistics, all outputs alike; nats for half a squared unit.

    Args:
        weight: The layer as a matrix.
        statistics: What it saw.
        config: The settings.
        centred: Whether a bias takes up the mean error.
    """
    gram = input_gram(statistics, centred)
    return resolved(Quadratic(weight.double(), gram, damping_of(config.damping, statistics)))


def resolved(quadratic: Quadratic) -> Quadratic:
    """In single precision where the damping is no less than that resolves."""
    return quadratic.single() if quadratic.jitter >= RESOLVED else quadratic


def output_weights(statistics: Statistics) -> Tensor | None:
    """What a squared error of each output costs, nats, ``[do]``; None where all count alike.

    The diagonal of the Fisher matrix: rows of weights are taken as independent. Dead outputs count
    a negligible share of the mean.
    """
    metric = statistics.metric
    if metric is None:
        return None
    diagonal = metric.diagonal()
    mean = float(diagonal.mean())
    return diagonal.clamp_min(1e-6 * mean) if mean > 0 else None


def refit_rows(quadratic: Quadratic, mask: Tensor, *, adjust: bool = True) -> Tensor:
    """Weights under a mask; exact for each row, or left as they are."""
    return refit(quadratic, mask) if adjust else quadratic.weight * mask


def settle_all(
    job: Job,
    config: WeightsConfig,
    matrices: Mapping[str, Matrix],
    model: nn.Module,
    places: Mapping[str, BiasPlace | None],
    targets: Targets | None,
    choose: Choose,
    batches: Callable[[], Iterable[Any]],
    on_layer: Callable[[str], None] = lambda name: None,
) -> dict[str, Tensor]:
    """Decide and refit every layer of ``model`` in place; gives the masks.

    Args:
        job: The job, with the dense model.
        config: The settings.
        matrices: The layers.
        model: A copy of the dense model.
        places: Layer to what takes up its mean error.
        targets: Dense outputs, recorded; None to run the dense model along.
        choose: Decides a layer's mask on the likelihood of the present prefix.
        batches: Calibration batches, those that were recorded in the same order.
        on_layer: Called after each layer.
    """
    masks: dict[str, Tensor] = {}
    ridges: dict[int, float] = {}  # layers of one width are much alike
    all_of = {
        name: torch.ones(matrix.of(model.get_parameter(name)).shape[1], dtype=torch.bool)
        for name, matrix in matrices.items()
    }

    def settle(name: str, moments: tuple[Moments, Moments]) -> None:
        matrix, centred = matrices[name], places[name] is not None
        width = len(all_of[name])
        present = matrix.of(model.get_parameter(name).detach()).double().cpu()
        made_up = fit(moments, bias=centred, start=ridges.get(width))
        ridges[width] = made_up.ridge
        whole = moments[0] + moments[1]
        used = whole.centred() if centred else whole
        gram = alive(_clean(used.gram.cpu(), whole.gram.diagonal().cpu()))
        seen = Statistics(gram, whole.inputs.cpu(), whole.count, 1)
        centre = present + made_up.change.cpu()
        quadratic = resolved(Quadratic(centre, gram, damping_of(config.damping, seen)))
        mask = choose(name, quadratic)
        new = refit_rows(quadratic, mask).double()
        gain = None
        if centred:
            moved = (new - present) @ whole.inputs.cpu()
            gain = (whole.targets.cpu() - moved) / max(1, whole.count)
        write(model, name, matrix, new, gain, places[name])
        masks[name] = mask
        on_layer(name)

    if targets is not None:
        with contextlib.suppress(OutOfStep):
            walk(model, targets, all_of, job.task.run, settle)
            return masks
    example = next(iter(batches()))
    for name in call_order(job.model, matrices, example, job.task.run):
        if name not in masks:
            moments = prefix_moments(
                job.model,
                model,
                matrices[name],
                all_of[name],
                batches(),
                job.task.run,
                residual=config.residual,
            )
            settle(name, moments)
    return masks


def _clean(gram: Tensor, raw: Tensor) -> Tensor:
    """Exactly symmetric; an input that never varies has a row and a column of zeros."""
    gram = 0.5 * (gram + gram.mT)
    constant = gram.diagonal() <= 1e-6 * raw
    gram[constant] = 0
    gram[:, constant] = 0
    return gram


@torch.no_grad()
def write(
    model: nn.Module,
    name: str,
    matrix: Matrix,
    value: Tensor,
    gain: Tensor | None,
    place: BiasPlace | None,
) -> None:
    """Put a layer's weights into a model, and what its bias gains."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers())
    weight = tensors[name]
    weight.copy_(matrix.back(value, weight))
    if gain is not None and place is not None:
        bias = tensors[place.name]
        bias.add_(gain.to(bias), alpha=place.sign)
    torch.clear_autocast_cache()  # which may hold the weights of before
