"""Whether dev answers can be looked at: ids the model has, and canvases that fit its context."""

from collections.abc import Sequence

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.calibrating.states import Pair
from probcomp.errors import InputError

FEWEST = 20  # answers
FEWEST_HELD = 5  # of them among the held-out ones: what the smallest set holds out
SHORTEST = 8  # positions; on less there is no end to tell from another


def check_ids(adapter: Adapter, pairs: Sequence[Pair]) -> None:
    """Raises InputError where a tokenizer gives ids that the model does not have."""
    largest = max((token for pair in pairs for part in pair for token in part), default=-1)
    if largest >= adapter.vocab_size:
        raise InputError(
            f"the tokenizer gave id {largest}, the model has ids below {adapter.vocab_size}; "
            "pass the tokenizer that the model was trained with"
        )


def longest_canvas(adapter: Adapter, most: int, pairs: Sequence[Pair]) -> int:
    """The longest canvas, at most ``most``, that every prompt leaves room for.

    Raises:
        InputError: the longest prompt leaves fewer than 8 positions.
    """
    prompt = max(len(tokens) for tokens, _ in pairs)
    longest = min(most, adapter.longest_canvas or most)
    if longest < SHORTEST:
        raise InputError(
            f"the model writes at most {longest} tokens, calibration needs canvases of {SHORTEST}; "
            "raise max_new_tokens in the model's configuration"
        )
    if adapter.context is None:
        return longest
    room = adapter.context - prompt
    if room < SHORTEST:
        raise InputError(
            f"the longest prompt has {prompt} tokens and the model's context is "
            f"{adapter.context}: {max(room, 0)} positions are left for an answer, calibration "
            f"needs {SHORTEST}; shorten or leave out prompts of more than "
            f"{adapter.context - SHORTEST} tokens"
        )
    return min(longest, room)


def check_room(train: Sequence[Pair], held: Sequence[Pair], longest: int) -> None:
    """Raises InputError where too few answers, with their end, fit canvases of ``longest``."""
    fit, fit_held = (sum(0 < len(answer) < longest for _, answer in part) for part in (train, held))
    if fit + fit_held < FEWEST or fit_held < FEWEST_HELD:
        empty = sum(not answer for _, answer in (*train, *held))
        raise InputError(
            f"{fit + fit_held} of {len(train) + len(held)} answers ({fit_held} of the "
            f"{len(held)} held out) fit into canvases of {longest} positions, what the longest "
            f"prompt and max_new_tokens leave for an answer and its end; {empty} are empty. "
            f"Calibration needs {FEWEST} that fit ({FEWEST_HELD} held out); shorten or leave out "
            "the longest prompts and answers, or give more examples"
        )
