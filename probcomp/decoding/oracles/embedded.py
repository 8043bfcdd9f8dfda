"""The embedded task ``record`` with its exact law in place of a network.

What a decoder loses on it is lost by the schedule: the model has no error. Records end after any
item whatever the items are, and letters and digits are two chains that do not see each other, so
every conditional is two passes of forward-backward and a renormalised law of the end.
"""

import torch
from torch import Tensor

from probcomp.decoding.adapters.callable import CallableAdapter
from probcomp.decoding.small.tasks import MAX_ITEMS, STOP
from probcomp.decoding.small.tokenizer import CharacterTokenizer

_TOKENIZER = CharacterTokenizer()
_LETTERS = _TOKENIZER.encode("abcdefghijklmnopqrstuvwxyz")
_DIGITS = _TOKENIZER.encode("01234")
_COMMA = _TOKENIZER.encode(",")[0]
_EOS, _MASK = _TOKENIZER.eos_token_id, _TOKENIZER.mask_token_id
_ENDS = torch.tensor([3 * n - 1 for n in range(1, MAX_ITEMS + 1)])  # content length of n items


def _steps() -> tuple[Tensor, Tensor]:
    """Transitions of letters (one or two on) and digits (one up or down, modulo 5)."""
    letters, digits = torch.zeros(26, 26).double(), torch.zeros(5, 5).double()
    for k in range(26):
        for step in (1, 2):
            letters[k, min(k + step, 25)] += 0.5
    for k in range(5):
        digits[k, (k + 1) % 5] = digits[k, (k - 1) % 5] = 0.5
    return letters, digits


def _marginals(evidence: Tensor, step: Tensor) -> Tensor:
    """P(state of each item | evidence) under a uniform start. [batch, items, states]."""
    forward, backward = [], []
    message = torch.ones_like(evidence[:, 0])
    for now in evidence.unbind(1):
        message = message * now
        message = message / message.sum(1, keepdim=True).clamp(min=1e-300)
        forward.append(message)
        message = message @ step
    message = torch.ones_like(evidence[:, 0])
    for now in evidence.flip(1).unbind(1):
        backward.append(message)
        message = (now * message) @ step.T
        message = message / message.sum(1, keepdim=True).clamp(min=1e-300)
    p = torch.stack(forward, 1) * torch.stack(backward[::-1], 1)
    return p / p.sum(-1, keepdim=True).clamp(min=1e-300)


def _of_the_end(canvas: Tensor) -> Tensor:
    """P(E <= i | visible) at each position, [batch, n]."""
    place = torch.arange(canvas.shape[1])
    content = (canvas != _MASK) & (canvas != _EOS)
    last = torch.where(content, place, -1).max(1).values[:, None]
    first = torch.where(canvas == _EOS, place, 10**6).min(1).values[:, None]
    n = torch.arange(MAX_ITEMS, dtype=torch.float64)
    law = torch.where(n < MAX_ITEMS - 1, STOP * (1 - STOP) ** n, (1 - STOP) ** n)
    p = law * ((last < _ENDS) & (first >= _ENDS))
    p = p / p.sum(1, keepdim=True).clamp(min=1e-300)
    return p @ (place >= _ENDS[:, None]).double()


def record_oracle() -> CallableAdapter:
    """A denoiser for prompts ``?x`` of two tokens and canvases of any length."""
    letter_step, digit_step = _steps()

    def logits(ids: Tensor, keys: Tensor) -> Tensor:
        prompt, canvas = ids[:, :2], torch.where(keys.bool(), ids, _MASK)[:, 2:]
        size = 3 * MAX_ITEMS
        items = torch.nn.functional.pad(canvas, (0, max(size - canvas.shape[1], 0)), value=_MASK)
        shown = torch.nn.functional.one_hot(items[:, :size], _TOKENIZER.vocab_size).double()
        silent = (items[:, :size] == _MASK) | (items[:, :size] == _EOS)
        shown = torch.where(silent[..., None], 1.0, shown)
        letters, digits = shown[:, 0::3][..., _LETTERS].clone(), shown[:, 1::3][..., _DIGITS]
        letters[:, 0] *= prompt[:, 1:2] == torch.tensor(_LETTERS)
        ended = _of_the_end(canvas)
        p = torch.zeros(*canvas.shape, _TOKENIZER.vocab_size, dtype=torch.float64)
        found = (_marginals(letters, letter_step), _marginals(digits, digit_step))
        for i in range(min(canvas.shape[1], size)):
            item, kind = divmod(i, 3)
            alive = 1 - ended[:, i, None]
            if kind == 2:
                p[:, i, _COMMA] = alive[:, 0]
            else:
                p[:, i, (_LETTERS, _DIGITS)[kind]] = found[kind][:, item] * alive
        p[..., _EOS] += ended
        seen = torch.nn.functional.one_hot(canvas, _TOKENIZER.vocab_size).double()
        p = torch.where((canvas == _MASK)[..., None], p, seen)
        return torch.nn.functional.pad(p.clamp(min=1e-300).log(), (0, 0, 2, 0))

    return CallableAdapter(
        logits,
        mask_id=_MASK,
        eos_ids=_EOS,
        vocab_size=_TOKENIZER.vocab_size,
        pad_id=_TOKENIZER.pad_token_id,
        banned=(_MASK, _TOKENIZER.pad_token_id),
    )
