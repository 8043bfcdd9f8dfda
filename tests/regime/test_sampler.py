"""What the sampler is given, and what it says about itself."""

from dataclasses import replace

import numpy as np
import pytest

from probcomp.regime import sampler
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.model import PRIOR, parameters, size, spread_log_likelihood
from probcomp.regime.sampler import Chains as Kept
from probcomp.regime.sampler import (
    gates,
    model_data,
    physical_knobs,
    pooled_metric,
    schedule_ratios,
)
from probcomp.regime.table import read_runs


@pytest.fixture
def table():
    epochs, density = np.meshgrid([10.0, 20, 40], [0.1, 0.2, 0.4])
    rows = np.repeat(np.arange(9), 2)  # two replicates a cell
    generator = np.random.default_rng(0)
    return read_runs(
        {
            "epochs": epochs.ravel()[rows],
            "density": density.ravel()[rows],
            "test_error": 0.3 - 0.3 * density.ravel()[rows] + 0.01 * generator.random(18),
            "lmc": np.where(rows < 3, -0.2, 0.0),
            "cka": 0.9 + 0.005 * generator.random(18),
        }
    )


def test_replicates_become_means_and_sums_of_squares(table):
    co = Coordinates.of(table)
    data, first = model_data(table, co)
    z = co.observables(table)
    assert len(first) == 9
    np.testing.assert_allclose(data["replicates"], 2)
    expected = np.ones((9, 3))
    expected[data["floored"][:, 1], 1] = 0  # no barrier in either run: nothing is said of spread
    np.testing.assert_allclose(data["dof"], expected)
    pairs = [z[table.cells == cell] for cell in range(9)]
    np.testing.assert_allclose(data["z"], [pair.mean(0) for pair in pairs])
    expected = np.array([((pair - pair.mean(0)) ** 2).sum(0) for pair in pairs])
    expected[data["dof"] == 0] = 0
    np.testing.assert_allclose(data["within"], expected, atol=1e-12)
    # Repeated runs show the error of measurement themselves.
    assert not data["measured"].any()
    # No barrier: censored, in the barrier channel alone.
    assert data["floored"][:, 1].sum() == 6
    assert not data["floored"][:, [0, 2]].any()


def test_repeats_at_the_floor_say_nothing_of_the_spread_of_barriers(table):
    """One barrier among three repeats, and none: neither cell tells how far barriers differ."""
    cells = table.cells
    barrier = np.where(cells < 3, -0.2 - 0.02 * (np.arange(18) >= 9), 0.0)
    barrier[np.flatnonzero(cells == 3)[0]] = -0.1
    some = replace(table, connectivity=barrier)
    co = Coordinates.of(some)
    data, _ = model_data(some, co)
    np.testing.assert_array_equal(data["dof"][:, 1], [1, 1, 1, 0, 0, 0, 0, 0, 0])
    seen = {**data, **{name: data[name][:3] for name in ("x", "dof", "within")}}
    low, high = np.zeros(size(1)), np.zeros(size(1))
    names = list(PRIOR)
    start = sum(PRIOR[name][0] for name in names[: names.index("seed_noise")])
    high[start + 1] = 1.0  # of the barrier

    def rise(of):
        one, two = (spread_log_likelihood(parameters(u, (True,)), of) for u in (low, high))
        return float(two - one)

    assert rise(data) == pytest.approx(rise(seen))


def test_runs_that_stand_alone_keep_their_stated_error_beside_repeated_ones(table):
    """One repeated setting must not silence the errors of all others."""
    some = table.take(np.r_[0, 1, np.arange(2, 18, 2)])  # one pair, eight single runs
    stated = np.zeros((len(some), 3))
    stated[:, 0] = 0.01
    stated[4] = 0.0  # states none
    some = replace(some, measured=stated)
    co = Coordinates.of(some)
    data, first = model_data(some, co)
    pair, silent = data["replicates"] == 2, first == 4
    assert pair.sum() == silent.sum() == 1
    assert not data["measured"][pair | silent].any()
    np.testing.assert_allclose(
        data["measured"][~(pair | silent), 0],
        co.measured(some)[first][~(pair | silent), 0] ** 2,
    )
    assert (data["measured"][~(pair | silent), 0] > 0).all()
    assert not data["measured"][:, 1:].any()


def test_schedules_bend_and_others_do_not(table):
    np.testing.assert_allclose(schedule_ratios(Coordinates.of(table)), [4.0])
    assert physical_knobs(table) == (False,)


class Chains:
    """A finished sampler with given draws."""

    def __init__(self, draws):
        self.draws = draws

    def get_samples(self, group_by_chain=False):
        return {"u": self.draws}

    def get_extra_fields(self):
        return {"diverging": np.zeros(self.draws.shape[0] * self.draws.shape[1], bool)}


def test_gates_see_chains_that_disagree_and_chains_that_stand_still():
    generator = np.random.default_rng(0)
    good = generator.normal(size=(4, 500, 3))
    assert gates(Chains(good)).ok
    apart = good + np.array([0, 0, 0, 3.0])[:, None, None]
    assert gates(Chains(apart)).rhat > 1.1
    slow = np.cumsum(good, axis=1)
    assert gates(Chains(slow)).ess < 200
    assert not gates(Chains(np.zeros((4, 500, 1)))).ok


def kept(values, diverging=0.0):
    values = np.asarray(values, float)
    marks = np.zeros(values.shape[:2], bool)
    marks[:, : round(diverging * values.shape[1])] = True
    return Kept({"u": values}, marks)


def test_rounds_of_the_same_chains_are_joined_in_order():
    first, more = (np.arange(24.0).reshape(2, 4, 3) + k for k in (0, 100))
    both = kept(first).then(kept(more, 0.5))
    assert both.get_samples(group_by_chain=True)["u"].shape == (2, 8, 3)
    np.testing.assert_array_equal(both.get_samples()["u"][:4], first[0])
    np.testing.assert_array_equal(both.get_samples()["u"][4:8], more[0])
    np.testing.assert_array_equal(
        both.get_extra_fields()["diverging"], ([0] * 4 + [1, 1, 0, 0]) * 2
    )


@pytest.fixture
def rounds(monkeypatch):
    """Runs the rounds on draws that are given, and tells what was done."""
    generator = np.random.default_rng(0)
    good = generator.normal(size=(4, 700, 2))
    gap = np.array([0, 0, 0, 1.0])[:, None, None]

    def play(*script):
        given, done = iter(script), []

        def start(program, arguments, *, warmup, draws, attempt, **kwargs):
            done.append((warmup, draws, attempt))

        def go_on(mcmc, arguments, chains):
            done.append("on")

        draws = {
            "good": kept(good), "near": kept(good + 0.5 * gap), "apart": kept(good + 3 * gap),
            "diverging": kept(good, 0.1),
        }  # fmt: skip
        monkeypatch.setattr(sampler, "run_nuts", start)
        monkeypatch.setattr(sampler, "go_on", go_on)
        monkeypatch.setattr(sampler.Chains, "of", staticmethod(lambda mcmc: draws[next(given)]))
        chains, convergence = sampler.sample_until_converged(None, (), seed=0, warmup=5, draws=7)
        return done, convergence, chains.diverging.shape[1]

    return play


def test_a_round_that_passes_is_the_last(rounds):
    done, convergence, length = rounds("good")
    assert (done, convergence.ok, length) == ([(5, 7, 0)], True, 700)


def test_chains_that_have_not_mixed_go_on_and_keep_their_draws(rounds):
    done, convergence, length = rounds("apart", "good", "good", "good")
    assert done == [(5, 7, 0), "on", "on", "on"]
    assert length == 2800
    assert not convergence.ok  # a fourth of the draws lies apart


def test_chains_that_pass_at_a_later_look_stop_there(rounds):
    done, convergence, length = rounds("near", "good")
    assert (done, convergence.ok, length) == ([(5, 7, 0), "on"], True, 1400)
    assert convergence.draws == 5600


def test_chains_that_diverge_while_they_go_on_start_anew_without_the_earlier_draws(rounds):
    done, convergence, length = rounds("apart", "diverging", "good")
    assert done == [(5, 7, 0), "on", (10, 14, 1)]
    assert (convergence.ok, convergence.divergences, length) == (True, 0, 700)


def test_the_total_is_capped_also_for_chains_that_started_anew(rounds):
    # Of a start with twice the length, one round more reaches four times the first length.
    done, convergence, _ = rounds("diverging", "apart", "apart")
    assert done == [(5, 7, 0), (10, 14, 1), "on"]
    assert not convergence.ok


def test_chains_that_diverge_start_anew_with_smaller_steps_once(rounds):
    done, convergence, length = rounds("diverging", "good")
    assert (done, convergence.ok, length) == ([(5, 7, 0), (10, 14, 1)], True, 700)
    done, convergence, _ = rounds("diverging", "diverging")
    assert done == [(5, 7, 0), (10, 14, 1)]
    assert str(convergence).startswith("not converged")


def metric(values):
    """The metric of draws where that of the warm-up was the identity, checked for use."""
    size = values.shape[-1]
    found = pooled_metric(values, np.broadcast_to(np.eye(size), (len(values), size, size)))
    assert found is not None
    assert found.shape == (len(values), size, size)
    assert np.isfinite(np.linalg.cholesky(np.linalg.inv(found))).all()
    return found[0]


def test_few_draws_in_many_dimensions_give_a_metric_that_is_finite_and_well_conditioned():
    draws = np.random.default_rng(0).normal(size=(4, 8, 40))
    assert np.linalg.eigvalsh(np.cov(draws.reshape(32, 40), rowvar=False)).min() < 1e-12
    values = np.linalg.eigvalsh(metric(draws))
    assert values[-1] / values[0] < 10


def test_slow_chains_move_the_metric_by_their_effective_number_of_draws():
    steps = np.random.default_rng(0).normal(size=(4, 700, 40))
    slow = steps.copy()
    for k in range(1, 700):
        slow[:, k] = 0.97 * slow[:, k - 1] + np.sqrt(1 - 0.97**2) * steps[:, k]
    values = np.linalg.eigvalsh(metric(slow))
    assert values[-1] / values[0] < 5
    plain = np.linalg.eigvalsh(np.cov(slow.reshape(-1, 40), rowvar=False))
    assert plain[-1] / plain[0] > 8  # the law is N(0, I)
    many = metric(3 * steps)
    np.testing.assert_allclose(np.diag(many), 9, rtol=0.2)  # draws that count do tell


def test_chains_that_lie_apart_do_not_stretch_the_metric_along_their_gap():
    draws = np.random.default_rng(0).normal(size=(4, 700, 3))
    draws[3, :, 0] += 20
    np.testing.assert_allclose(np.diag(metric(draws)), 1, rtol=0.1)
    assert np.cov(draws.reshape(-1, 3), rowvar=False)[0, 0] > 50


def test_draws_that_say_nothing_leave_the_metric_of_the_warm_up():
    np.testing.assert_allclose(metric(np.zeros((4, 50, 3))), np.eye(3))
    lost = np.random.default_rng(0).normal(size=(4, 50, 3))
    lost[1, 2, 0] = np.nan
    assert pooled_metric(lost, np.broadcast_to(np.eye(3), (4, 3, 3))) is None
    one = np.random.default_rng(0).normal(size=(4, 500, 1))  # a single coordinate
    assert metric(one).shape == (1, 1)


@pytest.mark.slow
def test_chains_go_on_from_where_they_stand_in_the_metric_of_their_draws():
    import numpyro
    import numpyro.distributions as dist

    def program(scale):
        numpyro.sample("u", dist.Normal(0, scale).to_event(1))

    scale = np.array([1.0, 50.0])
    mcmc = sampler.run_nuts(program, (scale,), seed=0, warmup=60, draws=200, attempt=0)
    first = Kept.of(mcmc)
    stood = np.asarray(mcmc.last_state.z["u"])
    (old,) = mcmc.last_state.adapt_state.inverse_mass_matrix.values()
    expected = pooled_metric(first.sites["u"], np.asarray(old))
    sampler.go_on(mcmc, (scale,), first)
    more = Kept.of(mcmc)
    adapted = mcmc.last_state.adapt_state
    (used,), (root,), (inverse,) = (
        map(np.asarray, getattr(adapted, name).values())
        for name in ("inverse_mass_matrix", "mass_matrix_sqrt", "mass_matrix_sqrt_inv")
    )
    np.testing.assert_allclose(used, expected, rtol=1e-6)
    np.testing.assert_allclose(root @ root.swapaxes(1, 2) @ used, [np.eye(2)] * 4, atol=1e-8)
    np.testing.assert_allclose(root @ inverse, [np.eye(2)] * 4, atol=1e-8)
    # New draws, which begin at the old ones' end: a proposal that is refused stays there.
    assert not np.array_equal(more.sites["u"], first.sites["u"])
    np.testing.assert_array_equal(stood, first.sites["u"][:, -1])
    both = first.then(more)
    assert gates(both).draws == 1600
    np.testing.assert_allclose(both.get_samples()["u"].std(0), scale, rtol=0.15)


@pytest.mark.slow
def test_chains_whose_draws_are_lost_go_on_in_the_metric_they_have():
    import numpyro
    import numpyro.distributions as dist

    def program(scale):
        numpyro.sample("u", dist.Normal(0, scale).to_event(1))

    scale = np.array([1.0, 2.0])
    mcmc = sampler.run_nuts(program, (scale,), seed=0, warmup=60, draws=50, attempt=0)
    (old,) = map(np.asarray, mcmc.last_state.adapt_state.inverse_mass_matrix.values())
    sampler.go_on(mcmc, (scale,), kept(np.full((4, 50, 2), np.nan)))
    (used,) = map(np.asarray, mcmc.last_state.adapt_state.inverse_mass_matrix.values())
    np.testing.assert_array_equal(used, old)
    assert np.isfinite(Kept.of(mcmc).sites["u"]).all()


def test_a_similarity_that_is_the_same_everywhere_tells_nothing(table):
    """Its noise is as wide as all that could vary; the other channels are left alone."""
    same = replace(table, similarity=np.ones(18))
    data, _ = model_data(same, Coordinates.of(same))
    np.testing.assert_array_equal(data["measured"], np.tile([0.0, 0, 1], (9, 1)))
    almost = replace(table, similarity=np.where(np.arange(18) == 3, 0.99, 1.0))
    assert not model_data(almost, Coordinates.of(almost))[0]["measured"].any()


@pytest.mark.slow
def test_one_seed_gives_one_answer_and_another_seed_another(table, monkeypatch):
    monkeypatch.setattr(sampler, "ROUNDS", 1)  # the draws are compared, not whether they suffice
    data, _ = model_data(table, Coordinates.of(table))
    one, again, other = (
        sampler.sample(data, physical_knobs(table), seed=seed, warmup=20, draws=20)[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.get_samples()["u"], again.get_samples()["u"])
    assert abs(one.get_samples()["u"] - other.get_samples()["u"]).max() > 0.1
