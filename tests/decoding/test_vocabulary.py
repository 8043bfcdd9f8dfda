import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding.vocabulary import TrimmedHead, trim_vocabulary
from probcomp.errors import InputError


def zipf(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = (1e6 / (torch.arange(size) + 1.0) ** 1.1).round()
    return counts[torch.randperm(size, generator=generator)]


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.2, 0.9))
def test_closed_form_is_the_full_argmax(seed, alpha):
    counts = zipf(400, seed)
    found = trim_vocabulary(counts, base=1000.0, head=5.0, alpha=alpha)
    share = counts.double().sort(descending=True).values / counts.double().sum()
    k = torch.arange(1, 401)
    utility = alpha * share.cumsum(0) + (1 - alpha) * (1 - (1000 + 5.0 * k) / (1000 + 5.0 * 400))
    best = float(utility.max())
    assert float(utility[len(found.kept) - 1]) == pytest.approx(best, abs=1e-12)


def test_figures_of_the_paper():
    """LLaMA-3-8B with an EAGLE-3 head: R(32k) = 0.481 and R(13,264) = 0.575 (arXiv 2603.05210)."""
    h, size = 4096, 128_256
    for k, want in ((32_000, 0.481), (13_264, 0.575)):
        counts = torch.zeros(size)
        counts[:k] = 1.0
        found = trim_vocabulary(counts, base=587.2e6, head=2 * h, alpha=0.99, min_coverage=1.0)
        assert len(found.kept) == k
        assert found.reduction == pytest.approx(want, abs=1e-3)


def test_coverage_forced_ids_and_measured_curves():
    counts = zipf(300)
    found = trim_vocabulary(counts, base=0.0, head=1.0, min_coverage=0.95, always_keep=(7, 9))
    assert found.coverage >= 0.95
    assert {7, 9} <= set(found.kept.tolist())
    assert found.interval[0] < found.coverage < found.interval[1]
    # Tiles of 128: every k inside a tile costs the same, so the tile is filled.
    latency = {k: float(-(-k // 128)) for k in range(1, 301)}
    curve = trim_vocabulary(counts, base=0.0, head=1.0, alpha=0.5, latency=latency)
    assert len(curve.kept) in (128, 256, 300)


@pytest.mark.parametrize(
    "bad",
    [
        {"counts": torch.zeros(4)},
        {"counts": torch.ones(2, 2)},
        {"alpha": 1.0},
        {"always_keep": (4,)},
        {"latency": {9: 1.0}},
    ],
)
def test_bad_input_is_refused(bad):
    counts = bad.pop("counts", torch.ones(4))
    with pytest.raises(InputError):
        trim_vocabulary(counts, base=1.0, head=1.0, **bad)


def test_head_is_the_full_head_on_kept_rows():
    full = torch.nn.Linear(6, 9)
    kept = torch.tensor([8, 1, 4])
    hidden = torch.randn(2, 3, 6)
    found, want = TrimmedHead.of(full, kept)(hidden), full(hidden)
    torch.testing.assert_close(found[..., kept], want[..., kept])
    others = torch.tensor([i for i in range(9) if i not in kept])
    assert (found[..., others] == -torch.inf).all()
    with pytest.raises(InputError):
        TrimmedHead.of(full, torch.tensor([1, 1]))
    with pytest.raises(InputError):
        TrimmedHead.of(full, torch.tensor([9]))


def test_speculative_sampling_with_a_trimmed_draft_keeps_the_law():
    """Accept x ~ q with min(1, p / q), else draw from (p - q)+: summed over all outcomes."""
    p = torch.softmax(torch.randn(6, generator=torch.Generator().manual_seed(1)).double(), 0)
    head = torch.nn.Linear(4, 6).double()
    with torch.no_grad():
        q = TrimmedHead.of(head, torch.tensor([0, 3]))(torch.ones(4).double()).softmax(0)
    accepted = torch.minimum(p, q)
    residual = (p - q).clamp(min=0)
    law = accepted + (1 - accepted.sum()) * residual / residual.sum()
    torch.testing.assert_close(law, p)


@pytest.mark.filterwarnings("ignore")
def test_assisted_generation_is_unchanged_by_a_trimmed_draft():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=12,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    target = transformers.LlamaForCausalLM(config).eval()
    draft = transformers.LlamaForCausalLM(config).eval()
    kept = torch.tensor([1, 2, 5, 7, 9])
    draft.set_output_embeddings(TrimmedHead.of(draft.get_output_embeddings(), kept))
    ids = torch.tensor([[3, 4, 5]])
    options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
    alone = target.generate(ids, attention_mask=torch.ones_like(ids), **options)
    helped = target.generate(
        ids, attention_mask=torch.ones_like(ids), assistant_model=draft, **options
    )
    assert helped.tolist() == alone.tolist()
    new = set(alone[0, 3:].tolist())
    assert new - set(itertools.chain(kept.tolist()))  # the target says what the draft cannot
