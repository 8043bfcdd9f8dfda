import pytest

from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.calibrating.room import check_ids, check_room, longest_canvas
from probcomp.errors import InputError


def adapter(context=None):
    return CallableAdapter(
        lambda ids, keys: ids, mask_id=2, eos_ids=1, vocab_size=4, context=context
    )


def answers(*sizes):
    return [([0], [0] * size) for size in sizes]


def test_the_longest_prompt_decides_the_canvas():
    pairs = [([0] * 5, [0]), ([0] * 20, [0])]
    assert longest_canvas(adapter(), 64, pairs) == 64
    assert longest_canvas(adapter(60), 64, pairs) == 40
    assert longest_canvas(adapter(60), 16, pairs) == 16
    assert longest_canvas(adapter(28), 64, pairs) == 8


def test_a_model_with_a_short_canvas_of_its_own():
    short = adapter(60)
    short.longest_canvas = 12
    assert longest_canvas(short, 64, answers(3)) == 12


@pytest.mark.parametrize("context", [27, 20, 3])
def test_a_prompt_that_leaves_no_room_is_named(context):
    says = f"20 tokens and the model's context is {context}.*shorten or leave out prompts"
    with pytest.raises(InputError, match=says):
        longest_canvas(adapter(context), 64, [([0] * 20, [0])])
    with pytest.raises(InputError, match="raise max_new_tokens"):
        longest_canvas(adapter(), 7, [([0], [0])])


def test_answers_must_fit_with_their_end():
    check_room(answers(*[9] * 15), answers(*[9] * 5), 10)
    with pytest.raises(InputError, match=r"0 of 20 answers \(0 of the 5 held out\)"):
        check_room(answers(*[10] * 15), answers(*[10] * 5), 10)
    with pytest.raises(InputError, match=r"19 of 20.*1 are empty"):
        check_room(answers(0, *[9] * 14), answers(*[9] * 5), 10)
    with pytest.raises(InputError, match=r"34 of 40 answers \(4 of the 10 held out\)"):
        check_room(answers(*[9] * 30), answers(*[9] * 4, *[10] * 6), 10)


def test_ids_must_be_the_model_s():
    check_ids(adapter(), [([3], [0])])
    check_ids(adapter(), [([], [])])
    with pytest.raises(InputError, match="gave id 4, the model has ids below 4"):
        check_ids(adapter(), [([0], [0, 4])])
