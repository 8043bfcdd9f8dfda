"""The loop: it ends, commits what its numbers say, and treats each row as if it were alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.noise import row_seeds, uniform
from probcomp.decoding.presets import presets
from probcomp.errors import InputError
from tests.decoding import published
from tests.decoding.worlds import EOS, MASK, random_world, run_rows

SMALL = {
    "initial_length": 16,
    "max_new_tokens": 48,
    "block_mean": 6.0,
    "block_max": 16,
    "length_mean": 20.0,
    "tail_window": 4,
}
CONFIGS = {
    "bayes": DecodingConfig(**SMALL),
    "cdf": DecodingConfig(end_model="cdf", **SMALL),
    "dp": DecodingConfig(lookahead="dp", **SMALL),
    "joint": DecodingConfig(rule="joint", **SMALL),
    "coupled": DecodingConfig(rule="coupled", markov_cut=True, **SMALL),
    "gibbs": DecodingConfig(order="gibbs", **SMALL),
    "odds": DecodingConfig(verify="odds", **SMALL),
    "border": DecodingConfig(border=2, **SMALL),
    "sampling": DecodingConfig(temperature=1.0, **SMALL),
    "measured": DecodingConfig(
        temperature=1.0,
        coupling_profile=(0.4, 0.1, 0.3),
        token_noise=0.01,
        draw_end=True,
        draw_commits=True,
        end_model="cdf",
        **SMALL,
    ),
    **{
        name: presets[name].replace(
            initial_length=16, max_new_tokens=48, delimiters=((3, 1.0), (4, 0.5)), max_edits=20
        )
        for name in presets
        if name != "bayes"
    },
}


def decisions(steps, row, width=200):
    """What the loop decided for one batch row, as plain values."""
    found = []
    for step in steps:
        at = (step.rows == row).nonzero()
        if len(at):
            i = int(at[0, 0])
            found.append(
                (
                    step.commit[i].nonzero()[:, 0].tolist(),
                    step.revoked[i].nonzero()[:, 0].tolist(),
                    int(step.begin[i]),
                    int(step.end[i]),
                    int(step.length[i]),
                    int(step.change[i]),
                )
            )
    return found


IN_SINGLE = ("bayes", "cdf", "joint", "sampling", "rho_eos")


@pytest.mark.parametrize(
    ("name", "single"),
    [*((name, False) for name in CONFIGS), *((name, True) for name in IN_SINGLE)],
)
def test_rows_alone_and_in_a_batch_decide_the_same(name, single):
    adapter, context = random_world(3, eos_bias=0.4), torch.arange(5)[:, None]
    if single:  # the same bits of logits for a row, whatever else is in the batch
        inner = adapter.function
        adapter.function = lambda ids, keys: inner(ids, keys).float()
    seeds = row_seeds(1, 5)
    together, steps = run_rows(adapter, CONFIGS[name], context=context, seeds=seeds)
    for row in range(5):
        alone, one = run_rows(
            adapter, CONFIGS[name], context=context[row : row + 1], seeds=seeds[row : row + 1]
        )
        assert decisions(steps, row) == decisions(one, 0)
        n = int(alone.length[0])
        assert n == int(together.length[row])
        assert together.ids[row, :n].tolist() == alone.ids[0, :n].tolist()
        assert int(together.nfe[row]) == int(alone.nfe[0])


@pytest.mark.parametrize("name", ["bayes", "sampling", "wino", "dystruct"])
def test_permuting_the_batch_permutes_the_answers(name):
    adapter, order = random_world(5, eos_bias=0.4), torch.tensor([3, 0, 4, 1, 2])
    context, seeds = torch.arange(5)[:, None], row_seeds(2, 5)
    one, _ = run_rows(adapter, CONFIGS[name], context=context, seeds=seeds)
    two, _ = run_rows(adapter, CONFIGS[name], context=context[order], seeds=seeds[order])
    for i, row in enumerate(order.tolist()):
        n = int(one.content[row])
        assert int(two.content[i]) == n
        assert two.ids[i, :n].tolist() == one.ids[row, :n].tolist()


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=3)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 3.0, 30.0]), st.sampled_from([-0.3, 0.0, 0.5]))
def test_it_ends_within_its_bound_whatever_the_logits(name, seed, scale, bias):
    config = CONFIGS[name]
    adapter = random_world(seed, scale=scale, eos_bias=bias)
    state, steps = run_rows(adapter, config, rows=2)
    assert bool(state.done.all())
    for row in range(2):
        sizing = sum(
            1
            for step in steps
            if (at := (step.rows == row).nonzero()).numel() and not step.commit[int(at[0, 0])].any()
        )
        # The largest canvas: what lies behind a known end was decided, too, before it was cut.
        lengths = [int(step.length[at]) for step in steps for at in (step.rows == row).nonzero()]
        length = max(int(state.length[row]), *lengths)
        borders = int(state.cuts[row].sum())
        # Every other forward commits; a revoked position is committed at most R more times.
        bound = sizing + (1 + config.revoke_most) * length + 2 * borders
        if config.verify == "wino":
            bound = sizing + 2 * length
        assert int(state.forwards[row]) <= bound
        assert sizing <= config.max_edits + 1 + 2 * borders
        content = state.ids[row, : int(state.content[row])]
        assert not (content == MASK).any()
        if config.stop != "none":
            assert not (content == EOS).any()


def test_each_forward_commits_while_nothing_is_verified():
    for seed in range(5):
        _, steps = run_rows(random_world(seed), CONFIGS["bayes"].replace(sizing="none"), rows=3)
        assert all(bool(step.commit.any(1).all()) for step in steps)


def test_budget_commits_no_more_error_than_allowed():
    config = CONFIGS["bayes"].replace(error_step=0.2)
    adapter = random_world(11, scale=8.0)
    state, steps = run_rows(adapter, config, rows=4)
    assert any(int(step.commit.sum(1).max()) > 1 for step in steps)
    # What is over the step's allowance can only be forwards that commit a single token.
    extra = sum(float((step.commit.sum(1) == 1).sum()) for step in steps)
    assert float(state.ledger.spent.sum()) <= 0.2 * 4 * len(steps) + extra


def test_a_row_s_doubt_is_that_of_its_first_look():
    adapter = random_world(4)
    config = CONFIGS["bayes"].replace(sizing="none", stop="none", end_model="cdf", beyond=False)
    _, steps = run_rows(adapter, config, context=torch.tensor([[1]]))
    assert len(steps) > 2
    p = published.probabilities(adapter, 1)([MASK] * config.max_new_tokens)
    first = torch.special.entr(p.double()).sum(-1).mean()
    for step in steps:
        assert float(step.doubt[0]) == pytest.approx(float(first), rel=1e-5)


def test_teacher_commits_the_truth_and_scores_it():
    adapter, config = random_world(2), CONFIGS["fixed"]
    truth = torch.randint(0, 7, (2, 48), generator=torch.Generator().manual_seed(0))
    state, _ = run_rows(adapter, config, rows=2, teacher=truth)
    assert state.ids[:, :48].tolist() == truth.tolist()
    assert (state.teacher_log_prob < 0).all()
    assert (state.wrong > 0).all()
    assert state.committed.tolist() == [48, 48]


def test_a_processor_and_a_stopping_rule_are_obeyed():
    adapter, config = random_world(4), CONFIGS["fixed"]

    def no_three(ids, logits):
        logits = logits.clone()
        logits[..., 3] = -torch.inf
        return logits

    state, _ = run_rows(adapter, config, processor=no_three)
    assert not (state.ids == 3).any()
    stopped, _ = run_rows(
        adapter, config.replace(block_length=4), stopper=lambda row, prefix: len(prefix) >= 8
    )
    assert int(stopped.content[0]) < 16


def test_noise_is_uniform_and_belongs_to_the_row():
    seeds = row_seeds(0, 3)
    draws = uniform(seeds, torch.tensor([1, 1, 1]), 2000)
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(draws.var()) == pytest.approx(1 / 12, abs=0.005)
    torch.testing.assert_close(draws[2, :7], uniform(seeds[2:], torch.tensor([1]), 7)[0])
    later = uniform(seeds, torch.tensor([2, 2, 2]), 2000)
    correlation = torch.corrcoef(torch.stack((draws[0], later[0], draws[1])))
    assert float((correlation - torch.eye(3)).abs().max()) < 0.08


@pytest.mark.parametrize(
    "bad",
    [
        {"rule": "greedy"},
        {"temperature": -1.0},
        {"stop_mass": 1.5},
        {"max_new_tokens": 0},
        {"gamma": 0.0},
        {"block_min": 9, "block_max": 4},
        {"extend_actions": (0, 8)},
    ],
)
def test_bad_configurations_are_refused(bad):
    with pytest.raises(InputError):
        DecodingConfig(**bad)


def test_configurations_round_trip_and_name_near_misses():
    config = presets["dystruct"].replace(delimiters=((3, 1.0),))
    assert DecodingConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match="threshold"):
        config.replace(treshold=0.5)
