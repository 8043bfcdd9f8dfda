r"""What inclusion probabilities are read from after training: the likelihood around the means.

While training runs, the evidence of a weight comes from its own posterior, which its prior has
shaped: a weight believed needless is held at zero and looks needless. That is a good guide and a
poor probability. So at the end the likelihood itself is looked at, weight by weight with the others
at their means :math:`\mu`:

.. math:: \ln p(D \mid w_n) \approx \eta_n w_n - \tfrac12\lambda_n w_n^2,\qquad
          \lambda_n = N h_n,\quad \eta_n = \lambda_n \mu_n - N g_n

with the gradient ``g`` of the mean loss over all ``N`` samples and the diagonal ``h`` of its Fisher
information. The quadratic promises :math:`\tfrac12\lambda\mu^2 - N g\mu` nats for taking a weight
away. Some weights are taken away: promised over measured nats is the temperature that both numbers
are divided by, and on others it is checked.

Undecided weights weigh next to nothing in that check: many are held at zero, where their removal
promises nothing and their probability comes from the gradient. So the evidence itself is checked
too. It compares zero with where the slab, a Gaussian of precision :math:`\alpha`, would have the
weight: :math:`m = \eta/(\lambda+\alpha)`, and :math:`\eta m - \tfrac12\lambda m^2` nats lie
between. Some weights of each range of these nats are set to both, and promised and measured nats
have to agree in every range. Where one disagrees, or holds too few weights, all stay scores. (The
optimum of the quadratic by itself, :math:`\eta/\lambda`, would be no such check: where the data
say little of a weight it lies far outside of what the slab allows, and enters no number.)

Where that check fails and the loss of all training data is cheap, weights that promise half a nat
or more have their evidence by quadrature over the measured loss
(`probcomp.recipes.turbo_measuring`), the others by the quadratic without a temperature. What is
stated is then checked against dense grids on weights of four ranges, down to those that promise
next to nothing; each range that holds weights has to agree, and enough weights have to be tried.
Where one does not, weights from a twentieth of a nat on are measured too. For what was measured
this checks the integration alone, for all else the quadratic.

What is checked is the evidence of one weight given the others, which are held at their means: the
numbers are conditional, and ``calibrated`` stays false. Where weights can stand in for each other,
as those of two columns that are nearly alike, each is judged beside the other and looks more or
less needed than it is; tests hold such a case to 0.3 of what all supports together say. The prior
is taken as given, units are not taken away, and their numbers stay scores.

On a CPU a reading that costs little runs on one thread: with several, sums are rounded by how the
work happened to be divided, and a weight at the edge of a range is tried in one run and not in
another. Which weights are tried is a fixed random order's choice for the same reason.
"""

import math
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from probcomp.data.batches import Batches
from probcomp.inference.baselines.curvature import curvatures
from probcomp.inference.training.evidence import Likelihood, Reading, Scale
from probcomp.inference.training.weights import Loss, rows
from probcomp.recipes.fisher_targets import fisher_targets
from probcomp.recipes.task import Task
from probcomp.recipes.turbo_checking import EACH, EDGES, agrees, check, temper
from probcomp.recipes.turbo_measuring import (
    PASSES,
    SLAB_NODES,
    SPIKE_NODES,
    Nats,
    grid_evidence,
    measured_evidence,
    misfit,
)

Rule = Callable[[Nats, float, float, Scale], float]

SAMPLES = 2048
"""Samples that curvature and removals are measured on; gradients are of all."""

MATERIAL = (0.5, 0.05)
"""Promised nats from which on a weight's evidence is measured; the second where the check fails."""

RANGES = (0.0, 0.05, 0.5, 2.0, math.inf)
CHECKED_EACH = 8
"""Promised nats between which measured evidence is checked, and how many weights of each."""

MISFIT = 0.25
"""Largest root mean square error of log-odds in each range, nats or share of their size. About
zero a quarter of a nat is 0.06 of a probability; far from zero a quarter of the size is nothing."""

FEWEST_CHECKED = 8
"""Weights over all ranges below which measured evidence counts as unchecked."""

MOST_OPERATIONS = 1e12
"""Floating point operations that measuring may take, and a reading on one thread."""

EVALUATIONS = 256
"""Losses of all samples that a reading without measuring costs at most, in round numbers."""

STEPS = 2 * (len(EDGES) - 1) + 1 + len(MATERIAL) + 1
"""Lines of text that a reading says at most: one for each range of both checks, one between, one
for each time that weights are measured, and one after."""


@dataclass(frozen=True)
class Reader:
    """Reads the likelihood of every weight of a network; see the module.

    Attributes:
        task: Runs the network and its loss.
        train: Training data.
        seed: Of the samples and of the weights that are taken away.
        on_step: Called with a line of text as the reading goes on.
    """

    task: Task
    train: Any
    seed: int = 0
    on_step: Callable[[str], None] = lambda text: None

    def __call__(self, model: nn.Module, scales: Mapping[str, Scale]) -> Reading | None:
        """The likelihoods, or ``None`` for a network with other layers than it knows.

        ``None`` also where one is not finite.

        Args:
            model: With the posterior means, in evaluation mode; as before afterwards.
            scales: Name of each weight to the scale of its prior.
        """
        if not all(_known(model.get_submodule(name.rpartition(".")[0])) for name in scales):
            return None
        batches = Batches(self.train, 256, self.seed)
        each = self.task.terms(self.train) / batches.samples  # terms of the mean loss in a sample

        def loss(model: nn.Module, batch: Any) -> Tensor:
            return each * self.task.loss(model, batch)

        sample = list(islice(batches(0), max(1, SAMPLES // 256)))
        cheap = EVALUATIONS * _operations(model, loss, sample) <= MOST_OPERATIONS
        with _threads(1 if cheap else torch.get_num_threads()):
            return self._read(model, loss, batches, sample, scales)

    def _read(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Batches,
        sample: Sequence[Any],
        scales: Mapping[str, Scale],
    ) -> Reading | None:
        names = list(scales)
        count = sum(rows(batch) for batch in sample)
        number = batches.samples
        factors = curvatures(
            model,
            batches,
            loss,
            [name.rpartition(".")[0] for name in names],
            samples=count,
            resample=fisher_targets(self.task),
            generator=torch.Generator().manual_seed(self.seed),
        )
        sharp = {name: number * _diagonal(model, name, factors.get(name)) for name in names}
        here = _gradient(model, loss, sample, count, names)
        promised = {
            n: 0.5 * s * (w := model.get_parameter(n).detach()).square() - number * here[n] * w
            for n, s in sharp.items()
        }
        pairs = self._try(model, loss, sample, number, promised)
        temperature, slope = temper(pairs)
        self.on_step("reading the likelihood")
        whole = _gradient(model, loss, batches(0), number, names)
        found = {}
        for name, curvature in sharp.items():
            mean = model.get_parameter(name).detach()
            linear = curvature * mean - number * whole[name]
            found[name] = Likelihood(curvature / temperature, linear / temperature)
        if not all(
            bool((torch.isfinite(f.curvature) & torch.isfinite(f.linear)).all())
            for f in found.values()
        ):
            return None
        ends, nats = {}, {}
        for name, curvature in sharp.items():
            mean = model.get_parameter(name).detach()
            near = Likelihood(
                curvature / temperature, (curvature * mean - number * here[name]) / temperature
            )
            ends[name] = near.slab_mean(scales[name])
            nats[name] = near(ends[name])
        bins = check(self._try(model, loss, sample, number, nats, ends))
        quadratic = {
            "removals": len(pairs),
            "temperature_of_removals": temperature,
            "removal_slope": slope,
            "evidence_slope_of_bins": bins,
        }
        if not agrees(slope, bins) and count >= number:
            plain = {
                n: Likelihood(s, s * model.get_parameter(n).detach() - number * here[n])
                for n, s in sharp.items()
            }
            reading = self._measure(model, loss, sample, number, plain, scales)
            if reading is not None:
                return replace(reading, meta={**quadratic, **reading.meta})
        return Reading(
            found, {"calibrated": False, "conditional": agrees(slope, bins), **quadratic}
        )

    @torch.no_grad()
    def _measure(
        self,
        model: nn.Module,
        loss: Loss,
        sample: Sequence[Any],
        number: int,
        plain: Mapping[str, Likelihood],
        scales: Mapping[str, Scale],
    ) -> Reading | None:
        """Evidence by quadrature where it matters, and its check; None where that takes long."""
        names = list(plain)
        promised = torch.cat([_promise(plain[n], scales[n], model, n).flatten() for n in names])
        stated = torch.cat([plain[n].evidence(scales[n]).flatten() for n in names])
        nodes, flops = PASSES * SLAB_NODES + SPIKE_NODES, _operations(model, loss, sample)

        def evidence(rule: Rule, at: int) -> float:
            name, weight, place = _find(model, names, at)
            old = weight[place].item()

            def at_value(value: float) -> float:
                weight[place] = value
                return -number * _mean(model, loss, sample)

            try:
                zero = at_value(0.0)
                curvature = float(plain[name].curvature[place])
                linear = float(plain[name].linear[place])
                return rule(lambda v: at_value(v) - zero, curvature, linear, scales[name])
            finally:
                weight[place] = old

        order = self._order(len(promised))
        measured = torch.zeros_like(stated, dtype=torch.bool)
        dense: dict[int, float] = {}
        misfits: list[float | None] = []
        checked: list[int] = []
        good = False
        for least in MATERIAL:
            chosen = ((promised >= least) & ~measured).nonzero().flatten().tolist()
            points = (len(chosen) + 4 * CHECKED_EACH * len(RANGES)) * nodes
            if points * flops > MOST_OPERATIONS:
                break
            self.on_step(f"measuring {len(chosen)} weights")
            for i in chosen:
                stated[i] = evidence(measured_evidence, i)
            measured[chosen] = True
            misfits, checked = [], []
            for low, high in pairwise(RANGES):
                inside = (promised >= low) & (promised < high)
                tried = order[inside[order]][:CHECKED_EACH].tolist()
                checked.append(len(tried))
                dense |= {i: evidence(grid_evidence, i) for i in tried if i not in dense}
                first, second = [float(stated[i]) for i in tried], [dense[i] for i in tried]
                misfits.append(misfit(first, second) if tried else None)
            # A range without weights has nothing to be wrong about, and proves nothing.
            good = sum(checked) >= FEWEST_CHECKED
            good = good and all(m is None or m <= MISFIT for m in misfits)
            if good:
                break
        if not misfits:
            return None
        self.on_step("checked what was measured")
        parts = stated.split([plain[n].curvature.numel() for n in names])
        likelihoods = {
            n: replace(plain[n], measured=part.reshape(plain[n].curvature.shape), scale=scales[n])
            for n, part in zip(names, parts, strict=True)
        }
        good = good and bool(stated.isfinite().all())
        meta = {
            "calibrated": False,
            "conditional": good,
            "measured": int(measured.sum()),
            "misfit_of_ranges": misfits,
            "checked_of_ranges": checked,
        }
        return Reading(likelihoods, meta)

    @torch.no_grad()
    def _try(
        self,
        model: nn.Module,
        loss: Loss,
        sample: Sequence[Any],
        number: int,
        promised: Mapping[str, Tensor],
        ends: Mapping[str, Tensor] | None = None,
    ) -> list[tuple[float, float]]:
        """Promised and measured nats of single weights taken away, range by range.

        Taken away from where they are, or from the values ``ends``; at random in each range.
        """
        base = _mean(model, loss, sample)
        flat = torch.cat([p.flatten() for p in promised.values()])
        order = self._order(len(flat))
        pairs = []
        for low, high in pairwise(EDGES):
            inside = (flat >= low) & (flat < high)
            for i in order[inside[order]][:EACH].tolist():
                name, weight, place = _find(model, list(promised), i)
                old = weight[place].clone()
                try:
                    before = base
                    if ends is not None:
                        weight[place] = ends[name][place]
                        before = _mean(model, loss, sample)
                    weight[place] = 0.0
                    pairs.append((float(flat[i]), number * (_mean(model, loss, sample) - before)))
                finally:
                    weight[place] = old
            self.on_step(f"taking away weights of {low:g} to {high:g} nats")
        return pairs

    def _order(self, count: int) -> Tensor:
        """A random order of all weights: those that enter a range leave the others' places."""
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))


def _promise(quadratic: Likelihood, scale: Scale, model: nn.Module, name: str) -> Tensor:
    """Nats between zero and where the slab, or the posterior, has each weight: the larger."""
    here = model.get_parameter(name).detach()
    return torch.maximum(quadratic(quadratic.slab_mean(scale)).abs(), quadratic(here).abs())


def _find(
    model: nn.Module, names: Sequence[str], at: int
) -> tuple[str, Tensor, tuple[Tensor, ...]]:
    """Name, parameter and place there of a weight, by its number over all of them."""
    starts = [0, *accumulate(model.get_parameter(n).numel() for n in names)]
    which = bisect(starts, at) - 1
    weight = model.get_parameter(names[which])
    # By its place and not in a flat view: memory may lie in another order (channels last).
    return names[which], weight, torch.unravel_index(torch.tensor(at - starts[which]), weight.shape)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _operations(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> float:
    """Floating point operations of the mean loss over the batches.

    Not all operations are counted, so at least one for each parameter and sample.
    """
    with FlopCounterMode(display=False) as counter:
        loss(model, batches[0])
    total = sum(rows(batch) for batch in batches)
    least = sum(p.numel() for p in model.parameters()) * total
    return max(counter.get_total_flops() * total / rows(batches[0]), least)


def _known(layer: nn.Module) -> bool:
    """Whether the curvature of a layer is known."""
    return isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and (
        getattr(layer, "groups", 1) == 1
    )


def _diagonal(model: nn.Module, name: str, curvature: Any) -> Tensor:
    """Fisher information of each weight, for each sample; none where the loss never reaches it."""
    if curvature is None:
        return torch.zeros_like(model.get_parameter(name))
    outer = curvature.outputs.diagonal()[:, None] * curvature.inputs.diagonal()[None]
    return outer.reshape(model.get_parameter(name).shape)


def _gradient(
    model: nn.Module, loss: Loss, batches: Iterable[Any], total: int, names: Sequence[str]
) -> dict[str, Tensor]:
    """Gradient of the mean loss over batches of ``total`` samples, by name."""
    model.zero_grad(set_to_none=True)
    for batch in batches:
        (loss(model, batch) * (rows(batch) / total)).backward()
    found = {}
    for name in names:
        gradient = model.get_parameter(name).grad
        found[name] = torch.zeros_like(model.get_parameter(name)) if gradient is None else gradient
    model.zero_grad(set_to_none=True)
    return found


def _mean(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> float:
    total = sum(rows(batch) for batch in batches)
    return sum(float(loss(model, batch)) * rows(batch) for batch in batches) / total
