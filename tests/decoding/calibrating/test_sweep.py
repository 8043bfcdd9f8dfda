import pytest
import torch

from probcomp.decoding.adapters import SmallAdapter
from probcomp.decoding.calibrating import load_calibration, sweep
from probcomp.decoding.calibrating.sweep import (
    BOLD,
    ENDS,
    ERRORS,
    GAMMAS,
    TOKEN_NOISES,
    WORTH,
    _cheapest,
    commits,
    fit_token_noise,
    run_pairs,
    sweep_error,
    sweep_sampling,
)
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.oracles import EnumeratedOracle
from probcomp.decoding.small.load import FOLDER, embedded_model, small_config
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


def test_what_is_watched_is_what_was_wrong_where_a_canvas_is_cut_behind_its_end():
    """End tokens committed behind the first are gone when the canvas is cut in the same forward;
    they were right, and the canvas says nothing about them any more."""
    adapter, some = SmallAdapter(embedded_model()), pairs("add", 60)
    config = load_calibration(FOLDER).apply(small_config())
    cut = []

    def watch(step):
        gone = step.commit & (step.ids[:, : step.commit.shape[1]] == adapter.mask_id)
        cut.append(int(gone.sum()))

    bold = config.replace(error_step=BOLD)
    rows = run_pairs(adapter, bold, some, 0, teach=True, observer=watch)
    assert sum(cut) > 0  # the case is met
    found = commits(adapter, config, some, 0)
    assert int(found.wrong.sum()) == int(rows.wrong.sum())
    assert len(found.wrong) == int(rows.committed.sum())


def test_commits_are_watched_batch_by_batch_as_all_at_once(monkeypatch):
    adapter, some = SmallAdapter(embedded_model()), pairs("json", 9)
    whole = commits(adapter, small_config(), some, 0)
    monkeypatch.setattr(sweep, "BATCH", 4)
    parts = commits(adapter, small_config(), some, 0)
    assert len(whole.confidence) == len(parts.confidence) > 50
    # Rows of a batch commit forward by forward, so the order differs; 1e-6: float32 batches.
    for name in ("confidence", "doubt"):
        torch.testing.assert_close(
            *(getattr(w, name).double().sort().values for w in (whole, parts)), atol=1e-6, rtol=0
        )
    assert int(whole.wrong.sum()) == int(parts.wrong.sum())


def test_sampling_is_swept_over_ends_and_budgets():
    config = small_config().replace(coupling_profile=(0.1, 0.1, 0.4))
    chosen, table = sweep_sampling(SmallAdapter(embedded_model()), config, pairs("record", 6), 0)
    assert len(table) == len(ENDS) * len(GAMMAS)
    assert chosen in [{k: e[k] for k in chosen} for e in table]
    best = max(e["log_q"] for e in table)
    assert all(e["log_q"] <= best < 0 for e in table)
    worth = [e["log_q"] - WORTH * e["forwards"] for e in table]
    kept = next(e for e in table if {k: e[k] for k in chosen} == chosen)
    assert kept["log_q"] - WORTH * kept["forwards"] == max(worth)


class Blurred:
    """The marginals of an oracle, a little of every token mixed in: what noise looks like."""

    def __init__(self, oracle, share):
        inner = oracle.adapter()
        exact = inner.logits

        def logits(ids, keys, start):
            p = exact(ids, keys, start).softmax(-1)
            p[..., oracle.mask_id] = 0.0
            even = torch.ones_like(p) / (p.shape[-1] - 1)
            even[..., oracle.mask_id] = 0.0
            return ((1 - share) * p + share * even).log()

        inner.logits = logits
        self.adapter = inner


@pytest.mark.parametrize("share", [0.0, 0.04])
def test_token_noise_is_found_where_there_is_some(share):
    """Texts aabb..: what follows is decided, and a blurred model gives the rest a chance."""
    texts = [(a, a, b, b) for a in range(4) for b in range(4)]
    oracle = EnumeratedOracle(texts, 4)
    some = [([], text.tolist()) for text in oracle.sample(120, 0)]
    config = DecodingConfig(
        max_new_tokens=6, initial_length=6, end_model="cdf", beyond=False, coupling_profile=(0.9,)
    )
    adapter = Blurred(oracle, share).adapter
    noise, table = fit_token_noise(adapter, config, some[:80], some[80:], 0)
    assert [entry["token_noise"] for entry in table] == list(TOKEN_NOISES)
    best = max(table, key=lambda entry: entry["log_q"])
    if share:
        assert noise == best["token_noise"] > 0
        # Two decided tokens lose log(1 / 0.968) each to the blur: half of that must come back.
        assert best["log_q"] > table[0]["log_q"] + 0.03
    else:
        assert best["log_q"] == pytest.approx(table[0]["log_q"], abs=0.02)
    # Held-out answers that the blurred model calls noise: then there is none to take away.
    others = [([], [1, 2, 3, 1])] * 40
    if share:
        assert fit_token_noise(adapter, config, some[:80], others, 0)[0] == 0.0


def test_commits_are_what_the_ledger_pays_for():
    """Shown the truth, an oracle of one text is never wrong; one that lies is, where it commits."""
    text = [0, 1, 2, 0]
    oracle = EnumeratedOracle([text], 3)
    config = DecodingConfig(
        max_new_tokens=6, initial_length=6, sizing="none", end_model="cdf", beyond=False
    )
    seen = commits(oracle.adapter(), config, [([], text)] * 5, 0)
    assert not seen.wrong.any()
    assert (seen.confidence > 0.999).all()
    assert (seen.doubt < 0.01).all()
    seen = commits(oracle.adapter(), config, [([], [0, 1, 1, 0])] * 5, 0)
    assert int(seen.wrong.sum()) == 5  # one place of five answers
