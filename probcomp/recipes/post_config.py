"""Settings and stages of inference after training."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probcomp.data.batches import trimmed
from probcomp.errors import InputError
from probcomp.evidence.collect import batch_size
from probcomp.evidence.fisher import Categorical, Likelihood
from probcomp.recipes.task import Tensors
from probcomp.structure import Axis

REFITS = ("sequential", "dense", "none")
SHARE, LEAST = 16, 8
"""One sample in so many is kept back to measure removals; of few, this many or a quarter."""
SHARE_OF_CLASSES = 4
"""As `SHARE`, where a sample has one class and nothing else: it says far less than a text's tokens
or an embedding, and noise in what is measured moves units to the wrong layers."""
PROBED, PROBED_OF_CLASSES = 8, 1
"""Every so many batches one is probed, of samples spread over all lengths (a token of a short text
has the larger gradient); all of them where a sample has one class, for that reason."""
THIN, THIN_OF_CLASSES = 4, 1
"""Of so many neighbouring rows one enters the sums of inputs."""
SKIP, SKIP_OF_CLASSES = 3, 0
"""Of so many neighbouring rows one is left out of the moments of a refit; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class PostConfig:
    """Settings of inference after training.

    Attributes:
        batch_size: Samples in a forward pass.
        limit: Most bytes of statistics held at a time; None for no limit. With one, outputs of the
            dense model and factors are not kept either, but found anew where they are needed.
        probes: Draws a sample for the Fisher matrices at the outputs; 0 for none (plain
            reconstruction errors).
        every: Every n-th batch is probed for them; a backward pass costs two forward ones. By
            default `PROBED`, of a classifier's `PROBED_OF_CLASSES`.
        thin: Of so many neighbouring rows one enters the sums of inputs. By default `THIN`, of a
            classifier's `THIN_OF_CLASSES`.
        skip: Of so many neighbouring rows one is left out of the moments of the sequential refit; 0
            for none. By default `SKIP`, of a classifier's `SKIP_OF_CLASSES`.
        softness: Softness of a classifier, see `probcomp.evidence.fisher.Categorical`.
        damping: Pull of selections and sampled removals towards the dense weights, over the mean
            diagonal of each Gram matrix; by default its inputs over the rows it has seen.
        experts: Most samples on which the removal of each expert is measured, for the order in
            which experts go (`probcomp.recipes.post_experts`).
        correlations: Whether units are judged by what the others can make up for; off for
            comparisons only.
        measured: Most calibration samples that are kept back from statistics and refits, to measure
            sampled removals and how sure a classifier may be; one in `SHARE` (of a classifier's,
            `SHARE_OF_CLASSES`), where that is fewer.
        rounds: Rounds of measuring one removal of each axis; the first at equal shares, the
            others at the allocation found so far, where it is another. 0 trusts the predictions.
        refit: ``sequential`` refits read-outs in order on the pruned prefix, ``dense`` from the
            dense statistics, ``none`` leaves them.
        residual: Whether a refit also makes up for what earlier blocks left undone.
        scaled: Whether the outputs of a classifier are scaled at the end, to be as sure as they
            agree with the dense ones (`probcomp.recipes.post_outputs`).
        iterations: Iterations of the posterior around the decision: 1 takes the others as decided,
            more let them be unsure too (units that stand in for each other then lose certainty).
    """

    batch_size: int = 16
    limit: int | None = None
    probes: int = 1
    every: int | None = None
    thin: int | None = None
    skip: int | None = None
    softness: float = 4.0
    damping: float | None = None
    measured: int = 64
    experts: int = 32
    correlations: bool = True
    rounds: int = 2
    refit: str = "sequential"
    residual: bool = True
    scaled: bool = True
    iterations: int = 1

    def __post_init__(self) -> None:
        wrong: list[str] = []
        least = {
            "batch_size": 1,
            "measured": 1,
            "experts": 1,
            "iterations": 1,
            "probes": 0,
            "rounds": 0,
        }
        least |= {} if self.damping is None else {"damping": 0}
        least |= {} if self.skip is None else {"skip": 0}
        least |= {name: 1 for name in ("every", "thin") if getattr(self, name) is not None}
        wrong += [
            f"{name} must be at least {bound}, got {getattr(self, name)}"
            for name, bound in least.items()
            if not getattr(self, name) >= bound
        ]
        if not 0 < self.softness < math.inf:
            wrong.append(f"softness must be positive and finite, got {self.softness}")
        if self.limit is not None and self.limit < 1:
            wrong.append(f"limit must be a positive number of bytes, got {self.limit}")
        if self.refit not in REFITS:
            wrong.append(f"refit must be one of {', '.join(REFITS)}, got {self.refit!r}")
        if wrong:
            raise InputError("; ".join(wrong))


def _one_class(likelihood: Likelihood | None) -> bool:
    """Whether a sample has one class and nothing else."""
    return isinstance(likelihood, Categorical) and likelihood.unit == "sample"


def settled(config: PostConfig, likelihood: Likelihood | None) -> PostConfig:
    """The settings with the defaults that the likelihood decides filled in."""
    one = _one_class(likelihood)
    every = (PROBED_OF_CLASSES if one else PROBED) if config.every is None else config.every
    thin = (THIN_OF_CLASSES if one else THIN) if config.thin is None else config.thin
    skip = (SKIP_OF_CLASSES if one else SKIP) if config.skip is None else config.skip
    return replace(config, every=every, thin=thin, skip=skip)


def parts_of(
    samples: Tensors, config: PostConfig, likelihood: Likelihood | None = None
) -> tuple[Tensors, Tensors]:
    """Samples for statistics and refits, and samples for measuring.

    The latter are spread evenly over the data, which may be sorted.
    """
    share = SHARE_OF_CLASSES if _one_class(likelihood) else SHARE
    tensors = list(samples.values()) if isinstance(samples, Mapping) else list(samples)
    count = len(tensors[0])
    tried = min(config.measured, max(count // share, min(LEAST, count // 4)))
    if tried < 1:
        raise InputError(f"{count} calibration samples are too few; give at least 4, better 128")

    kept_back = torch.zeros(count, dtype=torch.bool)
    kept_back[torch.arange(tried) * count // tried] = True

    def part(chosen: Tensor) -> Tensors:
        parts = [t[chosen.to(t.device)] for t in tensors]
        return dict(zip(samples, parts)) if isinstance(samples, Mapping) else tuple(parts)

    return part(~kept_back), part(kept_back)


def calibration_batches(samples: Tensors, size: int, every: int = 1) -> Iterator[Any]:
    """Batches of texts of like length, without common padding; of other data, in their order.

    Args:
        samples: All samples; only a batch at a time is copied.
        size: Samples in a batch.
        every: Every so many batches, from the first on, one holds samples that are spread evenly
            over that order, so that what is learnt from these batches alone stands for all.
    """
    tensors = list(samples.values()) if isinstance(samples, Mapping) else list(samples)
    for index in _in_batches(_order(samples), size, every):
        picked = [t[index.to(t.device)] for t in tensors]
        yield trimmed(dict(zip(samples, picked)) if isinstance(samples, Mapping) else tuple(picked))


def example_of(samples: Tensors, size: int = 2) -> Any:
    """Samples spread evenly over the order of `calibration_batches`, as one batch."""
    count = len(_order(samples))
    return next(calibration_batches(samples, min(size, count), every=count))


def _order(samples: Tensors) -> Tensor:
    """Texts by their lengths, other samples as they come."""
    mask = samples.get("attention_mask") if isinstance(samples, Mapping) else None
    if mask is not None and mask.dim() == 2:
        return torch.sort(mask.sum(1), stable=True).indices.cpu()
    return torch.arange(batch_size(samples))


def _in_batches(order: Tensor, size: int, every: int) -> Iterator[Tensor]:
    if every == 1:
        yield from order.split(size)
        return
    batches = -(-len(order) // size)
    some = min(len(order), -(-batches // every) * size)
    spread = torch.zeros(len(order), dtype=torch.bool)
    spread[(torch.arange(some) * len(order) + len(order) // 2) // some] = True
    first, rest = (iter(order[chosen].split(size)) for chosen in (spread, ~spread))
    for number in range(batches):
        yield next(rest if number % every else first)


class Steps:
    """Progress over stages whose lengths are known beforehand."""

    def __init__(
        self,
        on_step: Callable[[int, int, str], None],
        fitted: Tensors,
        config: PostConfig,
        axes: tuple[Axis, ...],
        reads: int,
    ) -> None:
        count = batch_size(fitted if isinstance(fitted, Mapping) else tuple(fitted))
        batches = -(-count // config.batch_size) + 1
        walk = reads if config.refit == "sequential" else 0
        self.total = batches + len(axes) * (2 + config.rounds) + walk + 2
        self.at, self.on_step = 0, on_step

    def __call__(self, text: str) -> None:
        self.at = min(self.at + 1, self.total - 1)
        self.on_step(self.at, self.total, text)

    def done(self) -> None:
        self.on_step(self.total, self.total, "done")
