"""A finished compression as one small file: how coarse its values may be, and what that costs.

The values of each tensor become few (entropy-constrained codebooks, `probcomp.coding.quantise`),
trained once more with the masks fixed where the method trains at all, and are written with an
adaptive arithmetic code. The price of a bit is set by what the training data bear, or by a budget.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probcomp.coding import CodedSize, Quantised, coarsest, quantise, tune
from probcomp.coding.network import least_bytes, network_bytes, network_of
from probcomp.coding.quantise import FIRST_VALUES, RELATIVE_PRICES
from probcomp.coding.tensors import MOST_VALUES
from probcomp.data.batches import Batches
from probcomp.errors import BudgetError, InputError, SurgeryError
from probcomp.evidence.collect import batch_size, evaluating
from probcomp.recipes.task import Task, Tensors
from probcomp.structure import apply_masks
from probcomp.structure.masks import masks_of

Measure = Callable[[nn.Module], float]
SAMPLES = 10_000
"""Training samples that codebooks are trained and measured on, at most."""
BATCH_SIZE = 64
TOLERANCE, SHARE = 0.01, 0.02
"""By how many nats the training loss may rise, or by which share of it, whichever is more. Errors
would be too coarse a measure: a network that has learnt its training data makes none."""
STEPS = 400
"""Least steps of training codebooks; whole epochs."""
FILE_TOLERANCE = 0.02
"""A file that is asked to have a size is at most this share smaller, where its values allow."""
BITS_A_WEIGHT = 6.0
"""Bits that a kept weight is expected to take, mask and all; with a budget in bits this sets how
many stay. Files of small networks took 4.5 to 8."""
CHEAPEST, DEAREST = 2.0**-16, 2.0**8
"""Prices of a bit between which a size is sought; relative squared error for each bit."""
PRICE_STEP = 0.02
"""The search ends where two prices are this close, in powers of two."""


@dataclass(frozen=True)
class Trial:
    """What a compressed model is tried on before it is written.

    Attributes:
        task: How models are run and scored.
        train: Training samples.
        seed: Of the order of the samples.
        trains: Whether codebooks may be trained on them; not after a method that trains nothing.
    """

    task: Task
    train: Tensors
    seed: int = 0
    trains: bool = True


@dataclass(frozen=True)
class Coded:
    """A network in one file.

    Attributes:
        data: The content of the file.
        model: The network read back from it.
        size: Its size, and what each tensor costs.
        before: Training loss of the network before its values became few, nats a sample.
        after: That of the network in the file.
    """

    data: bytes
    model: nn.Module
    size: CodedSize
    before: float
    after: float


def code(model: nn.Module, trial: Trial, tolerance: float | None = None) -> Coded:
    """The smallest file whose network is as good as the one given, on training data.

    Args:
        model: Not changed.
        trial: What it is tried on. Held-out data are for the report alone.
        tolerance: By how many nats the training loss may rise; by default `TOLERANCE`, or `SHARE`
            of the loss.

    Raises:
        InputError: A tolerance that is negative, or a model that cannot be written.
    """
    measure = _loss(trial)
    if tolerance is None:
        tolerance = max(TOLERANCE, SHARE * abs(measure(model)))
    if not tolerance >= 0:
        raise InputError(f"tolerance must not be negative, got {tolerance}")
    choice = coarsest(
        model, measure, tolerance, finish=lambda q: _tuned(q, trial), prices=RELATIVE_PRICES
    )
    # Where the finest codebooks are too coarse, values stay as they are.
    found = choice.quantised.model if choice.within else model
    return _written(found, choice.before, measure)


def code_within(model: nn.Module, trial: Trial, bits: float) -> Coded:
    """The finest values whose file takes at most ``bits`` bits, by bisection over the price.

    Raises:
        BudgetError: The file is larger even where next to nothing is left of the values.
    """
    measure = _loss(trial)
    before = measure(model)
    if 8 * network_bytes(model)[1].bytes <= bits:
        return _written(model, before, measure)

    def at(price: float, most: int) -> tuple[Quantised, int]:
        candidate = quantise(model, price, most=most)
        return candidate, 8 * network_bytes(_masked(candidate.model))[1].bytes

    best, least = at(DEAREST, FIRST_VALUES)
    if least > bits:
        raise BudgetError(
            f"bits={bits:g} is out of reach: {least:,} are taken by the architecture and by what "
            "has no codebook"
        )
    # Codebooks begin larger where the usual ones leave room; they take longer to fit.
    most = FIRST_VALUES if at(CHEAPEST, FIRST_VALUES)[1] > bits else MOST_VALUES - 1
    low, high = math.log2(CHEAPEST), math.log2(DEAREST)
    while high - low > PRICE_STEP:
        middle = 0.5 * (low + high)
        candidate, size = at(2.0**middle, most)
        if size > bits:
            low = middle
            continue
        best, high = candidate, middle
        if size >= (1 - FILE_TOLERANCE) * bits:
            break
    found = _written(_tuned(best, trial).model, before, measure)
    return found if 8 * found.size.bytes <= bits else _written(best.model, before, measure)


def least_bits(model: nn.Module) -> int:
    """Bits that no file of this model is smaller than, whichever units and weights are removed.

    Those of its architecture alone; removed units take their masks and buffers with them.
    """
    return 8 * least_bytes(model)


def _written(model: nn.Module, before: float, measure: Measure) -> Coded:
    """Write a model, read it back, and measure what was read."""
    model = _masked(model)
    data, size = network_bytes(model)
    back = network_of(data)
    if not _equal(model.state_dict(), back.state_dict()):
        raise SurgeryError(
            "the coded file does not read back to the same model; nothing was written. Please "
            "report this model."
        )
    return Coded(data, back, size, before, measure(back))


def _masked(model: nn.Module) -> nn.Module:
    """Masks of what is not zero: weights that the codebooks gave up are gone."""
    parameters = dict(model.named_parameters())
    return apply_masks(model, {name: parameters[name] != 0 for name in masks_of(model)})


def _tuned(quantised: Quantised, trial: Trial) -> Quantised:
    if not trial.trains:
        return quantised
    batches = Batches(_part(trial), BATCH_SIZE, trial.seed)
    epochs = -(-STEPS // len(batches))
    return tune(quantised, batches, epochs=epochs, loss=trial.task.loss)


def _loss(trial: Trial) -> Measure:
    """Mean training loss of a model, nats a sample."""
    batches = Batches(_part(trial), BATCH_SIZE, shuffle=False)

    def loss(model: nn.Module) -> float:
        with torch.no_grad(), evaluating(model):
            total = sum(float(trial.task.loss(model, b)) * batch_size(b) for b in batches(0))
        return total / batches.samples

    return loss


def _part(trial: Trial) -> Tensors:
    """At most `SAMPLES` of the training samples, drawn by the seed: files are often in order of
    their classes."""
    samples = trial.train
    values = list(samples.values()) if isinstance(samples, Mapping) else list(samples)
    if len(values[0]) <= SAMPLES:
        return samples
    generator = torch.Generator().manual_seed(trial.seed)
    chosen = torch.randperm(len(values[0]), generator=generator)[:SAMPLES]
    if isinstance(samples, Mapping):
        return {name: tensor[chosen] for name, tensor in samples.items()}
    return tuple(tensor[chosen] for tensor in samples)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        a.dtype == other[n].dtype and torch.equal(a, other[n]) for n, a in one.items()
    )
