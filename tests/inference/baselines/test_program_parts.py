"""Parts of the baselines' programs: shapes, starts, and what scores say."""

import math

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.baselines.bayesian_compression import GroupConfig
from probcomp.inference.baselines.program_parts import (
    AdditivePosterior,
    BottleneckPosterior,
    BottleneckPrior,
    HorseshoePosterior,
    HorseshoePrior,
    JeffreysPosterior,
    JeffreysPrior,
    LogUniformPrior,
    SpikeSlabPosterior,
    SpikeSlabPrior,
    columns,
)
from probcomp.inference.baselines.sparse_vd import SparseVDConfig
from probcomp.inference.baselines.spike_slab import SpikeSlabConfig
from probcomp.inference.baselines.vibnet import VIBConfig

PAIRS = [
    (LogUniformPrior, AdditivePosterior, SparseVDConfig()),
    (JeffreysPrior, JeffreysPosterior, GroupConfig()),
    (HorseshoePrior, HorseshoePosterior, GroupConfig()),
    (SpikeSlabPrior, SpikeSlabPosterior, SpikeSlabConfig(log_odds=-3.0)),
    (BottleneckPrior, BottleneckPosterior, VIBConfig()),
]


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3, 3)], ids=["linear", "convolution"])
@pytest.mark.parametrize(("prior", "posterior", "config"), PAIRS)
def test_prior_and_posterior_have_the_same_sites(prior, posterior, config, shape) -> None:
    given = weight(*shape)
    first, second = prior(given, config), posterior(given, config)
    sites, guide = first.sites(), second.sites()
    assert sites.keys() == guide.keys()
    drawn = {name: site.sample() for name, site in guide.items()}
    for name, site in sites.items():
        assert site.batch_shape == guide[name].batch_shape == torch.Size()
        assert site.event_shape == guide[name].event_shape
        assert bool(torch.isfinite(site.log_prob(drawn[name])))
    value = first.value(drawn)
    assert value.shape in (given.shape, (given.shape[1],))  # a weight, or a gate of its inputs
    assert second.score().shape in (given.shape, columns(given))


@pytest.mark.parametrize("posterior", [JeffreysPosterior, HorseshoePosterior])
def test_groups_start_at_the_given_weight(posterior) -> None:
    given = weight(6, 4)
    part = posterior(given, GroupConfig())
    torch.testing.assert_close(part.start * part.location, given)
    root = given.square().mean(0).sqrt()
    torch.testing.assert_close(part.start[0], root)


def test_a_column_of_zeros_has_a_small_scale_and_no_infinity() -> None:
    given = weight(6, 4)
    given[:, 1] = 0
    part = HorseshoePosterior(given, GroupConfig())
    assert bool(torch.isfinite(part.score()).all())
    assert int(part.score().argmin()) == 1


def test_scores_are_signal_over_noise() -> None:
    part = AdditivePosterior(torch.tensor([[0.5, 0.01]]), SparseVDConfig(log_variance=-4.0))
    expected = torch.tensor([[math.log(0.25) + 4, math.log(1e-4) + 4]])
    torch.testing.assert_close(part.score(), expected)


def test_a_spike_and_slab_needs_its_log_odds() -> None:
    with pytest.raises(InputError, match="log_odds"):
        SpikeSlabPrior(weight(2, 2), SpikeSlabConfig())
