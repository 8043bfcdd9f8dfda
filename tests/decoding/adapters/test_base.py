"""What every adapter shares: banned ids, types, and leave-one-out by masking again."""

import pytest
import torch

from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.adapters.base import Adapter, resolve_ids
from probcomp.decoding.oracles.laws import tabular
from probcomp.errors import InputError


def test_leave_one_out_of_an_oracle_is_exact():
    """p(x_i | all the others), for every place of two texts; -1 asks for nothing and costs none."""
    oracle = tabular(4, 3, 0)
    adapter = oracle.adapter()
    ids = oracle.sample(2, 1)
    shadow = torch.tensor([[0, 1, 2, 3], [2, -1, -1, -1]])
    output = adapter.forward(ids, torch.ones_like(ids), 0, shadow)
    assert output.cost.tolist() == [5, 2]
    for row, places in enumerate(shadow.tolist()):
        for column, i in enumerate(places):
            if i < 0:
                continue
            hidden = ids[row : row + 1].clone()
            hidden[0, i] = oracle.mask_id
            want = oracle.marginals(hidden)[0, i]
            p = output.shadow[row, column].softmax(-1)[: len(want)]
            torch.testing.assert_close(p, want, atol=1e-9, rtol=0)


def test_a_subset_shares_a_row():
    oracle = tabular(4, 2, 0)
    adapter = oracle.adapter()
    adapter.subset = 2
    ids = oracle.sample(1, 1)
    output = adapter.forward(ids, torch.ones_like(ids), 0, torch.tensor([[0, 1, 2, 3]]))
    assert output.cost.tolist() == [3]
    hidden = ids.clone()
    hidden[0, [0, 2]] = oracle.mask_id  # dealt in turn: neighbours are not hidden together
    want = oracle.marginals(hidden)[0, 0]
    torch.testing.assert_close(output.shadow[0, 0].softmax(-1)[:3], want, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_halves_are_widened_and_banned_ids_never_predicted(kind):
    adapter = CallableAdapter(
        lambda ids, keys: torch.zeros(*ids.shape, 5, dtype=kind),
        mask_id=4, eos_ids=1, vocab_size=5, banned=(4, 0),
    )  # fmt: skip
    ids = torch.zeros(1, 3, dtype=torch.long)
    logits = adapter.forward(ids, torch.ones_like(ids), 1).logits
    assert logits.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert logits[0, 0].softmax(-1).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0])


def test_an_adapter_must_say_how_it_looks():
    with pytest.raises(TypeError, match="logits"):
        Adapter()


@pytest.mark.parametrize(
    ("given", "says"), [(None, "needs"), ((), "below 9"), (9, "below 9"), ((1, -1), "below 9")]
)
def test_ids_are_checked(given, says):
    with pytest.raises(InputError, match=says):
        resolve_ids(given, 9, "an end-of-text id")
    assert resolve_ids(3, 9, "") == (3,)
    assert resolve_ids([3, 4], 9, "") == (3, 4)
