"""One round: what it changes, what it holds, what it refuses."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from probcomp.data.batches import Batches
from probcomp.errors import DivergenceError
from probcomp.inference.training import CollapsedGamma, TurboConfig
from probcomp.inference.training.build import build_graph
from probcomp.inference.training.engine import (
    ORPHAN_SHARE,
    SLAB_REACH,
    State,
    _moments,
    _slab,
    _support_divergence,
    init,
    remove_orphans,
    step,
)
from probcomp.inference.training.evidence import Scale
from probcomp.inference.training.gates import REMOVED, beliefs, start
from probcomp.inference.training.layers import Noise, to_bayesian
from probcomp.inference.training.units import Slice, Units
from probcomp.inference.training.weights import Run
from probcomp.priors import Independent, Lattice

WIDTH = 8


def hidden() -> Units:
    index = torch.arange(WIDTH)[:, None]
    members = (Slice("0.weight", 0, index), Slice("0.bias", 0, index), Slice("2.weight", 1, index))
    return Units("h", WIDTH, members)


def fresh(prior=None, share: float | None = 0.5, **changes) -> tuple[Run, State]:
    """A run before any round: the target reads two of five inputs."""
    config = TurboConfig(**({"rounds": 8, "steps": 4} | changes))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))
    noise = Noise(torch.Generator().manual_seed(0))
    to_bayesian(model, noise)
    graph = build_graph(model, [hidden()], prior or Lattice(field=0.0, coupling=0.5), None, config)
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    loss = lambda m, b: (m(b[0]) - b[1]).square().sum(1).mean()  # noqa: E731
    target = None if share is None else share * graph.total
    evidence = CollapsedGamma(well_determined=True)
    run = Run(model, Batches((x, x[:, :2]), 16, 0), loss, evidence, config, noise, target)
    return run, init(run, graph)


def test_the_first_state_knows_the_prior_and_no_evidence() -> None:
    run, state = fresh(Independent(0.25))
    assert all(not l.any() for l in state.log_odds.values())
    first = run.layers["0.weight"].weight
    assert state.slab["0.weight"] == pytest.approx(float(first.detach().square().mean()))
    assert torch.allclose(state.precision["0.weight"], torch.tensor(1 / state.slab["0.weight"]))
    # One gate of even odds lies before each weight.
    assert state.probability["0.weight"].flatten().tolist() == pytest.approx([0.125] * 40)
    assert (state.round, state.place, state.calm) == (0, (0, 0), 0)


def test_a_round_moves_on_and_leaves_the_old_state_alone() -> None:
    run, state = fresh()
    kept = {name: l.clone() for name, l in state.log_odds.items()}
    before = run.layers["0.weight"].weight.detach().clone()
    new, info = step(run, state)
    assert info.round == new.round == 1
    assert state.round == 0
    assert all(torch.equal(state.log_odds[n], l) for n, l in kept.items())
    assert new.place == (1, 0)  # four batches are the epoch
    assert not torch.equal(run.layers["0.weight"].weight.detach(), before)
    assert set(info.density) == set(info.kl) == {"0.weight", "2.weight"}
    assert info.density["0.weight"] == pytest.approx(float(new.probability["0.weight"].mean()))
    assert 0 <= info.units["h"] <= WIDTH
    assert info.keep == pytest.approx(info.target, rel=0.2)


def test_psi_holds_nothing_of_a_weights_own_evidence() -> None:
    """Beliefs are evidence plus psi, so that the next round's evidence is counted once."""
    run, state = fresh()
    for _ in range(2):
        state, _ = step(run, state)
    sites = {n: state.graph.matrices[n].sites.collect(l) for n, l in state.log_odds.items()}
    belief = beliefs(state.graph, sites, state.messages)
    for name, l in state.log_odds.items():
        assert torch.allclose(belief[name], state.psi[name] + l, atol=1e-5)
        own = state.messages.matrices[name].psi
        price = state.messages.price * state.graph.matrices[name].charged
        assert torch.allclose(state.psi[name], own - price, atol=1e-4)


def test_removed_units_stay_silent_through_a_round() -> None:
    run, state = fresh(freeze_after=1.0)
    gone = torch.arange(WIDTH) < 3
    fields = {"h": state.graph.fields["h"].masked_fill(gone, REMOVED)}
    state = replace(state, graph=replace(state.graph, fields=fields))
    state, info = step(run, state)
    assert not run.model[0].weight[gone].any()
    assert not run.model[0].bias[gone].any()
    assert not run.model[2].weight[:, gone].any()
    assert run.model[0].weight[~gone].all()
    assert info.units["h"] <= WIDTH - 3 + 1e-3
    assert float(state.probability["2.weight"][:, gone].max()) < 1e-6


def test_units_are_frozen_only_from_their_round_on() -> None:
    def removed(**changes) -> int:
        run, state = fresh(freeze_below=0.999, **changes)  # as good as every unit counts as dead
        state, _ = step(run, state)
        return int((state.graph.fields["h"] <= REMOVED).sum())

    assert removed(freeze_after=1.0) == 0
    assert removed(freeze_after=0.0) > 0


def test_orders_change_in_their_rounds_only() -> None:
    run, state = fresh(order_every=2)
    state, _ = step(run, state)
    first = state.orders["h"]
    state, _ = step(run, state)
    assert state.orders["h"] is first
    assert sorted(first.tolist()) == list(range(WIDTH))
    run, state = fresh(order_every=0)
    state, _ = step(run, state)
    assert state.orders == {}


def test_priors_learn_only_where_asked_and_in_time() -> None:
    def prior(**changes):
        run, state = fresh(**changes)
        state, _ = step(run, state)
        return state.graph.matrices["0.weight"].prior

    given = Lattice(field=0.0, coupling=0.5)
    assert prior() == given
    assert prior(learn="coupling", learn_after=0.5) == given
    assert prior(learn="coupling", learn_after=0.0) != given


def test_a_coupling_rises_over_its_rounds_and_stays() -> None:
    run, state = fresh(coupling=3.0, coupling_start=1.0, coupling_rounds=0.5)
    seen = []
    for _ in range(6):
        state, _ = step(run, state)
        seen.append({m.prior.coupling for m in state.graph.matrices.values()})
    assert seen == [{1.0}, {1.5}, {2.0}, {2.5}, {3.0}, {3.0}]
    run, state = fresh(Independent(0.3), coupling=3.0, coupling_start=1.0)
    state, _ = step(run, state)  # a prior without a coupling is left alone
    assert state.graph.matrices["0.weight"].prior == Independent(0.3)


def test_a_run_is_calm_once_its_schedules_have_ended() -> None:
    ended = {"kl_warmup": 0.0, "kappa_rounds": 0.0, "target_rounds": 0.0}
    still = {"learning_rate": 1e-9, "sigma_rate": 1e-9, "stop_change": 0.5}
    run, state = fresh(share=None, **still, **ended)
    for _ in range(3):
        state, info = step(run, state)
    assert info.change < 0.5
    assert state.calm >= 2
    rising = {"coupling": 0.5, "coupling_start": 0.4, "coupling_rounds": 0.9}
    run, state = fresh(share=None, **still, **ended, **rising)
    for _ in range(3):
        state, _ = step(run, state)
    assert state.calm == 0
    run, state = fresh(share=None, **still)  # kappa still falls
    for _ in range(3):
        state, _ = step(run, state)
    assert state.calm == 0


def test_values_that_are_not_finite_stop_the_run_and_are_named() -> None:
    run, state = fresh()
    with torch.no_grad():
        run.model[2].bias[0] = math.inf
    with pytest.raises(DivergenceError, match=r"parameter 2\.bias is not finite"):
        step(run, state)
    run, state = fresh()
    loss, run.loss = run.loss, lambda m, b: loss(m, b) * math.nan
    with pytest.raises(DivergenceError, match="the loss is nan in epoch 0: all parameters"):
        step(run, state)


def test_orphans_go_a_share_at_a_time_the_poorest_first() -> None:
    _, state = fresh(Independent(0.5))
    graph = state.graph
    evidence = {"0.weight": torch.full((WIDTH, 5), 9.0), "2.weight": torch.full((2, WIDTH), 9.0)}
    evidence["0.weight"][:5] = -9.0  # nothing makes the first five, though they are read
    evidence["0.weight"][1] = -12.0
    evidence["2.weight"][:, 4] = -9.0
    left = remove_orphans(graph, evidence, start(graph))
    gone = left.fields["h"] <= REMOVED
    assert int(gone.sum()) == math.ceil(ORPHAN_SHARE * 5)
    assert bool(gone[1])
    assert not gone[5:].any()
    while not torch.equal(after := left.fields["h"], (left := remove_orphans(
        left, evidence, start(left)
    )).fields["h"]):  # fmt: skip
        assert int((after <= REMOVED).sum()) < 5
    assert torch.equal(left.fields["h"] <= REMOVED, torch.arange(WIDTH) < 5)


def test_the_slab_is_the_mean_square_of_what_is_kept_within_reach() -> None:
    p, square = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([2.0, 4.0, 100.0])
    assert _slab(p, square, 1.0, 2.0) == pytest.approx(3.0)
    assert _slab(p, square, 1.0, 0.1) == pytest.approx(0.1 * SLAB_REACH)
    assert _slab(p, square, 1.0, 100.0) == pytest.approx(100 / SLAB_REACH)
    assert _slab(0.1 * p, square, 0.7, 2.0) == 0.7  # a layer that is all but off


def test_a_support_that_a_kernel_shares_diverges_once() -> None:
    config = TurboConfig(rounds=8, steps=2, freeze_after=1.0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten())
    noise = Noise(torch.Generator().manual_seed(0))
    to_bayesian(model, noise)
    graph = build_graph(model, [], Lattice(field=0.0, coupling=0.5), None, config)
    x = torch.randn(8, 2, 5, 5)
    loss = lambda m, b: (m(b[0]) - 1).square().mean()  # noqa: E731
    evidence = CollapsedGamma()
    run = Run(model, Batches((x, x), 8), loss, evidence, config, noise, 0.5 * graph.total)
    state = init(run, graph)
    new, info = step(run, state)
    name = "0.weight"
    moments = _moments(run, state, new.probability)[name]
    scale = Scale(state.slab[name], info.kappa)
    of_weights = evidence.update(moments, new.psi[name], scale).divergence
    l = new.log_odds[name].flatten(2).sum(-1)  # one support for nine weights
    belief = (new.psi[name] + new.log_odds[name])[:, :, 0, 0]
    expected = _support_divergence(belief - l, l)
    assert info.kl[name] - of_weights == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert expected > 0.1


def test_the_divergence_of_supports_is_that_of_bernoullis() -> None:
    psi, l = torch.randn(50, dtype=torch.double), 3 * torch.randn(50, dtype=torch.double)
    p, q = torch.sigmoid(psi + l), torch.sigmoid(psi)
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    assert _support_divergence(psi, l) == pytest.approx(float(expected), rel=1e-10)
