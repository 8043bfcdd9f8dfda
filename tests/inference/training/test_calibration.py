"""What the log-odds of a real network mean: against the loss when one weight is taken away."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from probcomp.data import Batches, load_digits
from probcomp.inference.training import TurboConfig, fit
from probcomp.inference.training.schedule import divergence_weight
from probcomp.models import LeNet300100
from probcomp.models.train import train
from probcomp.recipes.compress import removable
from probcomp.structure import trace

BINS = (-np.inf, -8, -4, -2, 0, 2, 4, np.inf)
EACH = 25  # weights of each bin and matrix that are removed, one at a time


@dataclass(frozen=True)
class Measured:
    """Log-odds, and the rise of the training loss on removal, nats over all samples."""

    weight_odds: np.ndarray
    weight_rise: np.ndarray
    unit_odds: np.ndarray
    unit_rise: np.ndarray
    kl_weight: float


@pytest.fixture(scope="module")
def measured() -> Measured:
    data = load_digits(seed=0)
    x, y = data.train
    torch.manual_seed(0)
    model = LeNet300100(inputs=64)
    batches = Batches(data.train, 64, 0)
    train(model, batches, epochs=20, seed=0)
    units = removable(trace(model, (x[:2],)), ("neuron",))
    loss = lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1])  # noqa: E731
    config = TurboConfig(rounds=20, refit_steps=0, permute=False)
    result = fit(model, batches, loss=loss, units=units, config=config)
    net = result.model
    with torch.no_grad():
        for name, weight in result.posterior.weights.items():
            net.get_parameter(name).copy_(weight.mean)

    @torch.no_grad()
    def total() -> float:
        return len(y) * loss(net, (x, y)).item()

    base = total()
    generator = torch.Generator().manual_seed(0)
    weight_odds, weight_rise, unit_odds, unit_rise = [], [], [], []
    for name, weight in result.posterior.weights.items():
        flat, odds = net.get_parameter(name).data.view(-1), weight.log_odds.flatten()
        for low, high in itertools.pairwise(BINS):
            found = ((odds >= low) & (odds < high)).nonzero().flatten()
            for i in found[torch.randperm(len(found), generator=generator)[:EACH]].tolist():
                old = flat[i].item()
                flat[i] = 0
                weight_odds.append(float(odds[i]))
                weight_rise.append(total() - base)
                flat[i] = old
    for group in units:
        for i in range(group.size):
            saved = {
                m.parameter: net.get_parameter(m.parameter).data.clone() for m in group.members
            }
            for m in group.members:
                net.get_parameter(m.parameter).data.index_fill_(m.dim, m.index[i], 0)
            unit_odds.append(float(result.posterior.units[group.name].log_odds[i]))
            unit_rise.append(total() - base)
            for name, old in saved.items():
                net.get_parameter(name).data.copy_(old)
    full = divergence_weight(config, len(y), sum(m.numel() for m in result.masks.values()))
    lists = (weight_odds, weight_rise, unit_odds, unit_rise)
    return Measured(*(np.array(v) for v in lists), full)


@pytest.mark.slow
def test_weights_believed_needed_cost_more_bin_by_bin(measured: Measured) -> None:
    bins = np.digitize(measured.weight_odds, BINS[1:-1])
    mean = [measured.weight_rise[bins == k].mean() for k in range(len(BINS) - 1)]
    # Measured in nats: 0, 0, 0, 0.001, 0.02, 0.11, 1.2.
    assert max(np.abs(mean[:3])) < 0.01
    assert mean[3] < mean[4] < mean[5] < mean[6]
    assert mean[6] > 0.5
    assert stats.spearmanr(measured.weight_odds, measured.weight_rise).statistic > 0.5


@pytest.mark.slow
def test_log_odds_overstate_the_loss_within_a_known_factor(measured: Measured) -> None:
    """The slope of measured nats by believed nats is the temperature's inverse.

    The posterior is that of a likelihood sharpened by one over the weight of the divergence, so
    the loss is divided by it. A calibrated posterior has slope 1, prior and width aside; ours has
    0.4: its log-odds are bounded, rank weights well (above), and are scores rather than odds.
    """
    sure = measured.weight_odds > -8
    tempered = measured.weight_rise / measured.kl_weight
    slope = np.polyfit(measured.weight_odds[sure], tempered[sure], 1)[0]
    assert 0.15 < slope < 1.0


@pytest.mark.slow
def test_dead_units_cost_nothing_and_live_ones_do(measured: Measured) -> None:
    alive = measured.unit_odds > 0
    assert np.abs(measured.unit_rise[~alive]).max() < 0.05
    assert np.median(measured.unit_rise[alive]) > 1
    assert stats.spearmanr(measured.unit_odds, measured.unit_rise).statistic > 0.7
