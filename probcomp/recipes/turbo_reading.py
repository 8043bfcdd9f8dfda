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
next to nothing; each range that holds weights has to agree. Where one does not, weights from a
twentieth of a nat on are measured too.

What is checked are losses of single weights on training data. The prior is taken as given, units
are not taken away, and their numbers stay scores.
"""

import math
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from probcomp.data.batches import Batches
from probcomp.inference.baselines.curvature import curvatures
from probcomp.inference.training.evidence import Likelihood, Reading, Scale
from probcomp.inference.training.weights import Loss
from probcomp.recipes.fisher_targets import fisher_targets
from probcomp.recipes.task import Task
from probcomp.recipes.turbo_measuring import (
    PASSES,
    SLAB_NODES,
    SPIKE_NODES,
    Nats,
    dense_evidence,
    measured_evidence,
    misfit,
)

Rule = Callable[[Nats, float, float, Scale], float]

SAMPLES = 2048
"""Samples that curvature and removals are measured on; gradients are of all."""

EDGES = (0.1, 0.5, 2.0, 8.0, 30.0)
EACH = 16
"""Promised nats between which weights are tried, and how many in each bin."""

AGREES = (0.8, 1.25)
"""Measured over promised nats that pass: on the weights taken away, and in each range."""

FEWEST = 16
"""Removals below which nothing can be said."""

FEWEST_OF_BIN = 8
"""The same of one range of evidence."""

MATERIAL = (0.5, 0.05)
"""Promised nats from which on a weight's evidence is measured; the second where the check fails."""

RANGES = (0.0, 0.05, 0.5, 2.0, math.inf)
CHECKED_EACH = 8
"""Promised nats between which measured evidence is checked, and how many weights of each."""

MISFIT = 0.25
"""Largest root mean square error of log-odds in each range, nats or share of their size."""

MOST_OPERATIONS = 1e12
"""Floating point operations that measuring may take; a minute of one core."""

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
        names = list(scales)
        layers = [name.rpartition(".")[0] for name in names]
        if not all(_known(model.get_submodule(layer)) for layer in layers):
            return None
        loss: Loss = self.task.loss
        batches = Batches(self.train, 256, self.seed)
        sample = list(islice(batches(0), max(1, SAMPLES // 256)))
        count = min(len(sample) * 256, batches.samples)
        number = batches.samples
        factors = curvatures(
            model,
            batches,
            loss,
            layers,
            samples=count,
            resample=fisher_targets(self.task),
            generator=torch.Generator().manual_seed(self.seed),
        )
        sharp = {name: number * _diagonal(model, name, factors[name]) for name in names}
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
        if not agrees(slope, bins) and count >= number:
            plain = {
                n: Likelihood(s, s * model.get_parameter(n).detach() - number * here[n])
                for n, s in sharp.items()
            }
            reading = self._measure(model, loss, sample, number, plain, scales)
            if reading is not None:
                return reading
        meta = {
            "calibrated": agrees(slope, bins),
            "removals": len(pairs),
            "temperature_of_removals": temperature,
            "removal_slope": slope,
            "evidence_slope_of_bins": bins,
        }
        return Reading(found, meta)

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
        sizes = [model.get_parameter(n).numel() for n in names]
        starts = [0, *accumulate(sizes)][:-1]

        def evidence(rule: Rule, at: int) -> float:
            which = bisect(starts, at) - 1
            name, place = names[which], at - starts[which]
            flat = model.get_parameter(name).view(-1)
            old = flat[place].item()

            def at_value(value: float) -> float:
                flat[place] = value
                return -number * _mean(model, loss, sample)

            try:
                zero = at_value(0.0)
                curvature = float(plain[name].curvature.flatten()[place])
                linear = float(plain[name].linear.flatten()[place])
                return rule(lambda v: at_value(v) - zero, curvature, linear, scales[name])
            finally:
                flat[place] = old

        measured = torch.zeros_like(stated, dtype=torch.bool)
        dense: dict[int, float] = {}
        misfits: list[float | None] = []
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
            generator = torch.Generator().manual_seed(self.seed)
            misfits = []
            for low, high in pairwise(RANGES):
                inside = ((promised >= low) & (promised < high)).nonzero().flatten()
                order = torch.randperm(len(inside), generator=generator)
                tried = inside[order[:CHECKED_EACH]].tolist()
                dense |= {i: evidence(dense_evidence, i) for i in tried if i not in dense}
                first, second = [float(stated[i]) for i in tried], [dense[i] for i in tried]
                misfits.append(misfit(first, second) if tried else None)
            # A range without weights has nothing to be wrong about.
            good = all(m is None or m <= MISFIT for m in misfits)
            if good:
                break
        if not misfits:
            return None
        self.on_step("checked what was measured")
        parts = stated.split(sizes)
        likelihoods = {
            n: replace(plain[n], measured=part.reshape(plain[n].curvature.shape))
            for n, part in zip(names, parts, strict=True)
        }
        good = good and bool(stated.isfinite().all())
        meta = {"calibrated": good, "measured": int(measured.sum()), "misfit_of_ranges": misfits}
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
        """Promised and measured nats of single weights taken away, in random order.

        Taken away from where they are, or from the values ``ends``.
        """
        generator = torch.Generator().manual_seed(self.seed)
        base = _mean(model, loss, sample)
        flat = torch.cat([p.flatten() for p in promised.values()])
        starts, at = {}, 0
        for name, values in promised.items():
            starts[name], at = at, at + values.numel()
        pairs = []
        for low, high in pairwise(EDGES):
            inside = ((flat >= low) & (flat < high)).nonzero().flatten()
            for i in inside[torch.randperm(len(inside), generator=generator)[:EACH]].tolist():
                name = max((n for n in starts if starts[n] <= i), key=starts.__getitem__)
                weight = model.get_parameter(name)
                place = torch.unravel_index(torch.tensor(i - starts[name]), weight.shape)
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
        order = torch.randperm(len(pairs), generator=generator).tolist()
        return [pairs[i] for i in order]


def temper(pairs: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """Temperature from one half of the pairs, and from the other half what it leaves.

    Args:
        pairs: Promised and measured nats, in random order.

    Returns:
        Promised over measured, by least squares through zero; and measured over promised of the
        other half after the division. 1 and ``None`` where there are too few, or where removal
        does not raise the loss or makes it infinite or NaN.
    """
    if len(pairs) < FEWEST:
        return 1.0, None
    first, second = (_slope(pairs[k::2]) for k in (0, 1))
    if not (math.isfinite(first) and first > 0 and math.isfinite(second)):
        return 1.0, None
    return 1 / first, second / first


def check(pairs: Sequence[tuple[float, float]]) -> list[float | None]:
    """Measured over promised nats in each bin of `EDGES`.

    ``None`` for a bin with less than `FEWEST_OF_BIN`, or where the ratio is not finite.
    """
    found: list[float | None] = []
    for low, high in pairwise(EDGES):
        inside = [pair for pair in pairs if low <= pair[0] < high]
        slope = _slope(inside) if len(inside) >= FEWEST_OF_BIN else math.nan
        found.append(slope if math.isfinite(slope) else None)
    return found


def agrees(slope: float | None, bins: Sequence[float | None]) -> bool:
    """Whether removals agree with what was promised, and evidence does in every bin."""
    return all(s is not None and AGREES[0] <= s <= AGREES[1] for s in (slope, *bins))


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(p * m for p, m in pairs) / sum(p * p for p, _ in pairs)


def _promise(quadratic: Likelihood, scale: Scale, model: nn.Module, name: str) -> Tensor:
    """Nats between zero and where the slab, or the posterior, has each weight: the larger."""
    here = model.get_parameter(name).detach()
    return torch.maximum(quadratic(quadratic.slab_mean(scale)).abs(), quadratic(here).abs())


def _operations(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> float:
    """Floating point operations of the mean loss over the batches."""
    with FlopCounterMode(display=False) as counter:
        loss(model, batches[0])
    rows = sum(_rows(batch) for batch in batches)
    return counter.get_total_flops() * rows / _rows(batches[0])


def _known(layer: nn.Module) -> bool:
    """Whether the curvature of a layer is known."""
    return isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and (
        getattr(layer, "groups", 1) == 1
    )


def _diagonal(model: nn.Module, name: str, curvature: Any) -> Tensor:
    """Fisher information of each weight, for each sample."""
    outer = curvature.outputs.diagonal()[:, None] * curvature.inputs.diagonal()[None]
    return outer.reshape(model.get_parameter(name).shape)


def _gradient(
    model: nn.Module, loss: Loss, batches: Iterable[Any], total: int, names: Sequence[str]
) -> dict[str, Tensor]:
    """Gradient of the mean loss over batches of ``total`` samples, by name."""
    model.zero_grad(set_to_none=True)
    for batch in batches:
        (loss(model, batch) * (_rows(batch) / total)).backward()
    found = {}
    for name in names:
        gradient = model.get_parameter(name).grad
        found[name] = torch.zeros_like(model.get_parameter(name)) if gradient is None else gradient
    model.zero_grad(set_to_none=True)
    return found


def _mean(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> float:
    total = sum(_rows(batch) for batch in batches)
    return sum(float(loss(model, batch)) * _rows(batch) for batch in batches) / total


def _rows(batch: Any) -> int:
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])
