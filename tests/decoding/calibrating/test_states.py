"""The canvases: what they hold, and that none gives its end away."""

import torch

from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.calibrating.states import blank, observe, partial

EOS, MASK = 1, 2


def adapter():
    """Says of every position which id it sees there, so that a state shows its own input."""

    def logits(ids, keys):
        return 50.0 * torch.nn.functional.one_hot(ids, 5).float()

    return CallableAdapter(logits, mask_id=MASK, eos_ids=EOS, vocab_size=5)


def test_no_blank_canvas_is_sized_by_its_own_answer():
    """One answer of 40 among answers of 3: were it drawn for itself, its canvas would be wide."""
    pairs = [([0], [3] * 3) for _ in range(3)] + [([0], [3] * 40)]
    for seed in range(5):
        states = blank(adapter(), pairs, (), 64, 4, seed)
        own = states.length[states.end == 41]
        assert own.tolist() == [4, 2, 3, 4, 6]
        assert bool(states.masked[states.valid].all())


def test_partly_seen_canvases_hold_the_answer_and_hide_something():
    pairs = [([0], [3, 4, 3]), ([0, 0], [4] * 5), ([0], [3] * 30)]
    states = partial(adapter(), pairs, (), 16, 0)
    assert len(states.end) == 20  # ten each of the two that fit
    assert bool(states.fits.all())
    assert bool(states.masked.any(1).all())
    assert int(states.length.max()) <= 12


def test_the_model_sees_the_truth_where_it_is_not_masked():
    hidden = [torch.tensor([True, False, False, True]), torch.tensor([False, True])]
    states = observe(adapter(), [([0], [3, 4]), ([0, 0, 0], [4, 4, 3])], [4, 2], hidden)
    assert states.truth.tolist() == [[3, 4, EOS, EOS], [4, 4, EOS, EOS]]  # the second is cut
    assert states.fits.tolist() == [True, False]
    assert states.column.tolist() == [2, 2]
    assert states.features.top[0, 1:3].tolist() == [4, EOS]
    assert int(states.features.top[1, 0]) == 4
    assert bool((states.features.eos[:, 0] < 1e-6).all())
