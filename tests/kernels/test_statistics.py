"""Decode statistics against softmax and logarithms in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels import decode_stats, statistics
from tests.kernels.decode_cases import LOW, naive, rows_of_logits
from tests.kernels.supports import generator

FLOAT32 = 1e-5  # absolute, on probabilities and entropies of a few nats
FAR = 2e-3  # a log-sum-exp near 1e4 has this spacing in float32


def agree(got, want, tolerance=FLOAT32, far=FAR) -> None:
    assert torch.equal(got.argmax, want["argmax"])
    for name in ("top1", "margin", "entropy", "eos_mass"):
        assert (getattr(got, name).double() - want[name]).abs().max() <= tolerance, name
    assert (got.logsumexp.double() - want["logsumexp"]).abs().max() <= far


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_hostile_rows(temperature) -> None:
    x = rows_of_logits()
    agree(
        decode_stats(x, eos_ids=[2, 5, 700], temperature=temperature),
        naive(x, [2, 5, 700], temperature),
        tolerance=1.5e-3 if temperature < 1 else 1e-3,  # row 5 lives at 1e4 in float32
    )
    exact = [row for row in range(9) if row != 5]
    got = decode_stats(x[exact], eos_ids=[2, 5, 700], temperature=temperature)
    agree(got, naive(x[exact], [2, 5, 700], temperature), far=1e-4)


def test_float64_is_kept() -> None:
    x = rows_of_logits().double()
    agree(decode_stats(x, eos_ids=[3]), naive(x, [3], 1.0), tolerance=1e-11, far=1e-10)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    x = rows_of_logits()[[0, 2, 4]].bfloat16()
    got = decode_stats(x)
    assert got.entropy.dtype == torch.float32
    want = naive(x.float(), [], 1.0)
    for name in ("top1", "margin", "entropy"):
        assert (getattr(got, name).double() - want[name]).abs().max() <= FLOAT32


@settings(max_examples=50)
@given(
    vocabulary=st.integers(1, 60), rows=st.integers(0, 5), seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 1.0, 30.0]), banned=st.booleans(),
)  # fmt: skip
def test_statistics_obey_their_laws(vocabulary, rows, seed, scale, banned) -> None:
    x = scale * torch.randn(rows, vocabulary, generator=generator(seed))
    if banned:
        x[:, : vocabulary // 2] = LOW
    got = decode_stats(x, eos_ids=range(vocabulary))
    alive = max(vocabulary - (vocabulary // 2 if banned else 0), 1)
    assert (got.entropy <= torch.tensor(float(alive)).log() + 1e-5).all()
    assert (got.entropy >= 0).all()
    assert ((got.eos_mass - 1).abs() < 1e-5).all()  # all ids together have all the mass
    assert ((got.margin >= -1e-6) & (got.margin <= got.top1 + 1e-6)).all()
    shifted = decode_stats(x + 8.0)
    assert ((shifted.entropy - got.entropy).abs() < 2e-4).all()


def test_rows_that_cannot_be_normalised_are_flagged() -> None:
    x = torch.zeros(4, 8)
    x[0, 3] = float("nan")
    x[1] = LOW
    x[2, 3] = float("inf")
    got = decode_stats(x, eos_ids=[3])
    assert got.argmax.tolist() == [-1, -1, -1, 0]
    for column in got[1:]:
        assert column.isnan().tolist() == [True, True, True, False]


def test_rows_are_selected_before_the_head() -> None:
    rng = generator(0)
    hidden = torch.randn(2, 5, 16, generator=rng)
    head, bias = torch.randn(50, 16, generator=rng), torch.randn(50, generator=rng)
    mask = torch.rand(2, 5, generator=rng) < 0.5
    whole = decode_stats(hidden @ head.T + bias, eos_ids=[7])
    some = decode_stats((hidden, head, bias), rows=mask, eos_ids=[7])
    assert whole.top1.shape == (2, 5)
    for all_rows, chosen in zip(whole, some):
        assert torch.allclose(all_rows[mask], chosen, atol=1e-5)
    flat = mask.flatten().nonzero().squeeze(1).flip(0)
    again = decode_stats((hidden, head, bias), rows=flat, eos_ids=[7])
    assert torch.equal(again.argmax, some.argmax.flip(0))


def test_chunks_change_nothing(monkeypatch) -> None:
    x, head = torch.randn(13, 32, generator=generator(0)), torch.randn(40, 32)
    whole = decode_stats((x, head)), decode_stats(x @ head.T)
    monkeypatch.setattr(statistics, "CHUNK", 160)
    parts = decode_stats((x, head)), decode_stats(x @ head.T)
    for one, other in zip(whole, parts):
        for a, b in zip(one, other):
            assert torch.allclose(a, b, atol=1e-5)


def test_one_end_token_may_be_given_by_itself() -> None:
    x = torch.randn(3, 11, generator=generator(0))
    for a, b in zip(decode_stats(x, eos_ids=4), decode_stats(x, eos_ids=[4])):
        assert torch.equal(a, b)


def test_opcheck() -> None:
    x = torch.randn(3, 11)
    torch.library.opcheck(statistics.decode_statistics, (x, torch.tensor([1, 2]), 0.5, "torch"))


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (torch.zeros(2, 5), {"temperature": 0.0}, "temperature must be positive"),
        (torch.zeros(2, 5), {"eos_ids": [5]}, r"must lie in \[0, 5\)"),
        (torch.zeros(2, 5), {"rows": torch.ones(3, dtype=torch.bool)}, r"expected \[2\]"),
        (torch.zeros(2, 5), {"rows": torch.tensor([2])}, r"rows must lie in \[0, 2\)"),
        (torch.zeros(2, 5), {"rows": torch.ones(2)}, "boolean mask"),
        (torch.zeros(2, 5), {"backend": "cuda"}, "unknown decode_stats backend"),
        ((torch.zeros(2, 5), torch.zeros(7, 4)), {}, r"expected \[V, 5\]"),
        ((torch.zeros(2, 5),) * 4, {}, r"\(hidden, head, bias\)"),
        ((torch.zeros(2, 5), torch.zeros(7, 5), torch.zeros(3)), {}, r"bias has shape \[3\]"),
        ((torch.zeros(2, 5), torch.zeros(7, 5).half()), {}, "hidden and head differ in dtype"),
        ([[0.0, 1.0]], {}, "must be a tensor"),
        (torch.tensor(1.0), {}, "must be a tensor"),
        (torch.zeros(2, 0), {}, "at least one entry"),
        (torch.zeros(2, 5), {"rows": [0]}, "rows must be a tensor, got list"),
        (torch.zeros(2, 5), {"backend": "triton"}, "needs a GPU tensor"),
    ],
)
def test_bad_input_is_refused(logits, options, message) -> None:
    with pytest.raises(InputError, match=message):
        decode_stats(logits, **options)
