"""Denoisers that see a few steps of reasoning ahead, and what decoders do on them."""

import pytest
import torch

from probcomp.decoding import decode
from probcomp.decoding.oracles.laws import lawful
from probcomp.decoding.oracles.shallow import chain_text, shallow_chain, shallow_sudoku


def test_a_chain_needs_one_forward_a_step_and_no_less():
    adapter = shallow_chain(7, 3, 2, length=6)
    want = chain_text(4, 7, 3, 2, 6)
    common = {"input_ids": torch.tensor([[4]]), "max_new_tokens": 10}
    for preset in ("serial", "fixed"):
        output = decode(adapter, preset=preset, stop="eos", **common)
        assert output.answers[0].tolist() == want
    # The entropy rule leaves the largest entropy out of its sum, so it also takes one blind guess.
    assert decode(adapter, preset="eb", stop="eos", **common).answers[0].tolist() != want
    bayes = decode(adapter, initial_length=10, beyond=False, end_model="cdf", **common)
    assert bayes.answers[0].tolist() == want
    assert bayes.nfe == [6]
    deep = decode(
        shallow_chain(7, 3, 2, length=6, depth=3),
        initial_length=10, beyond=False, end_model="cdf", **common,
    )  # fmt: skip
    assert deep.answers[0].tolist() == want
    assert deep.nfe == [2]


def test_sudoku_by_elimination_is_solved_in_its_serial_depth():
    grid = (0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0)
    hidden = (0, 1, 4, 7, 8, 10, 13)
    ids = torch.tensor([[5 if i in hidden else x for i, x in enumerate(grid)]])
    assert sorted(set(grid)) == [0, 1, 2, 3]
    assert lawful(grid)
    one, deep = (decode(shallow_sudoku(d), input_ids=ids) for d in (1, 8))
    for output in (one, deep):
        solved = ids[0].clone()
        solved[0:] = torch.cat((ids[0, :0], output.sequences[0]))
        assert tuple(solved.tolist()) == grid
    assert deep.nfe[0] <= one.nfe[0]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_chain_is_certain_as_far_as_it_sees(depth):
    adapter = shallow_chain(7, 3, 2, length=6, depth=depth)
    ids = torch.tensor([[4, *[adapter.mask_id] * 8]])
    p = adapter.logits(ids, torch.ones_like(ids), 1).softmax(-1)[0]
    want = chain_text(4, 7, 3, 2, 6)
    for i in range(6):
        best = float(p[i].max())
        assert best == pytest.approx(1.0 if i < depth else 1 / 7)
        if i < depth:
            assert int(p[i].argmax()) == want[i]
    assert p[6:].argmax(-1).tolist() == [adapter.eos_ids[0]] * 2


def test_a_cell_is_uniform_over_what_its_peers_leave():
    ids = torch.full((1, 16), 5)
    ids[0, 1], ids[0, 4], ids[0, 5] = 0, 1, 2  # a row and box neighbour, and two of the box
    p = shallow_sudoku().logits(ids, torch.ones_like(ids), 0).softmax(-1)[0]
    assert p[0, :4].tolist() == pytest.approx([0, 0, 0, 1])
    assert p[15, :4].tolist() == pytest.approx([0.25] * 4)
    assert p[3, :4].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
