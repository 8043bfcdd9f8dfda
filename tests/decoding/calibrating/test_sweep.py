import pytest
import torch

from probcomp.decoding.adapters import SmallAdapter
from probcomp.decoding.calibrating.sweep import (
    ENDS,
    ERRORS,
    GAMMAS,
    _cheapest,
    commits,
    run_pairs,
    sweep_error,
    sweep_sampling,
)
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.oracles import EnumeratedOracle
from probcomp.decoding.small.load import embedded_model, small_config
from probcomp.decoding.small.tasks import make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer


def pairs(task, count):
    encode = CharacterTokenizer().encode
    return [(encode(e.prompt), encode(e.answer)) for e in make_examples(task, count, 5, "dev")]


def test_the_cheapest_within_a_paired_standard_error():
    best = torch.tensor([1.0] * 50)
    near, far = best.clone(), best.clone()
    near[0] = 0.0  # one of 50 missed: a loss of exactly one standard error
    far[:10] = 0.0
    table = [{"v": v, "forwards": f, "exact": float(x.mean())}
             for v, f, x in ((1, 9.0, best), (2, 5.0, near), (3, 2.0, far))]  # fmt: skip
    assert _cheapest(table, [best, near, far], "exact")["v"] == 2


def test_a_sweep_tells_what_boldness_costs():
    adapter = SmallAdapter(embedded_model())
    chosen, table = sweep_error(adapter, small_config(), pairs("add", 20), 0)
    assert [entry["error_step"] for entry in table] == list(ERRORS)
    forwards = [entry["forwards"] for entry in table]
    assert forwards == sorted(forwards, reverse=True)
    assert chosen in ERRORS


@pytest.mark.parametrize(("draw_end", "draw_commits"), ENDS)
def test_a_teacher_s_answers_are_committed_and_scored(draw_end, draw_commits):
    adapter, some = SmallAdapter(embedded_model()), pairs("record", 8)
    config = small_config().replace(temperature=1.0, draw_end=draw_end, draw_commits=draw_commits)
    rows = run_pairs(adapter, config, some, 0, teach=True)
    for i, (_, answer) in enumerate(some):
        assert rows.ids[i, : int(rows.content[i])].tolist() == answer
    assert (rows.teacher_log_prob < 0).all()


def test_sampling_is_swept_over_ends_and_budgets():
    config = small_config().replace(coupling_profile=(0.1, 0.1, 0.4))
    chosen, table = sweep_sampling(SmallAdapter(embedded_model()), config, pairs("record", 6), 0)
    assert len(table) == len(ENDS) * len(GAMMAS)
    assert chosen in [{k: e[k] for k in chosen} for e in table]
    best = max(e["log_q"] for e in table)
    assert all(e["log_q"] <= best < 0 for e in table)


def test_commits_are_what_the_ledger_pays_for():
    """Shown the truth, an oracle of one text is never wrong; one that lies is, where it commits."""
    text = [0, 1, 2, 0]
    oracle = EnumeratedOracle([text], 3)
    config = DecodingConfig(
        max_new_tokens=6, initial_length=6, sizing="none", end_model="cdf", beyond=False
    )
    c, wrong = commits(oracle.adapter(), config, [([], text)] * 5, 0)
    assert not wrong.any()
    assert (c > 0.999).all()
    c, wrong = commits(oracle.adapter(), config, [([], [0, 1, 1, 0])] * 5, 0)
    assert int(wrong.sum()) == 10  # one place of five answers, at two settings
