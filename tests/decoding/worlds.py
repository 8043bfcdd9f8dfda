"""Denoisers made of fixed random numbers, for tests of the loop."""

import torch

from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.loop import Decoder
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.rows import Rows

VOCAB, EOS, MASK = 9, 7, 8


def random_world(seed, *, scale=4.0, eos_bias=0.0, reach=3.0, vocab=VOCAB):
    """An adapter whose logits depend on every visible token of a row, nearer ones more."""
    generator = torch.Generator().manual_seed(seed)
    embed = torch.randn(vocab, vocab, generator=generator, dtype=torch.float64)
    phase = torch.randn(400, vocab, generator=generator, dtype=torch.float64)

    def logits(ids, keys):
        n = ids.shape[1]
        first = keys.long().argmax(1)
        place = torch.arange(n)[None] - first[:, None]
        gap = (torch.arange(n)[:, None] - torch.arange(n)).abs().double()
        near = torch.exp(-gap / reach) * keys[:, None].double()
        mixed = near @ embed[ids]
        value = scale * torch.sin(2.0 * mixed + phase[place.clamp(min=0)])
        value[..., EOS] += eos_bias + 0.15 * place * (eos_bias != 0)
        value[..., MASK] = -torch.inf
        return value

    return CallableAdapter(logits, mask_id=MASK, eos_ids=EOS, vocab_size=vocab)


def run_rows(adapter, config, *, rows=1, size=None, seeds=None, context=None, **extra):
    """Decode canvases of masks after one-token prompts; (rows, steps)."""
    size = size or (config.max_new_tokens if config.sizing == "none" else config.initial_length)
    context = context if context is not None else torch.arange(rows)[:, None] % 5
    canvas = torch.full((len(context), size), adapter.mask_id)
    state = Rows(
        canvas,
        torch.full((len(context),), size),
        torch.ones(len(context), dtype=torch.bool),
        adapter.mask_id,
        ledger=Ledger.open(len(context), config.error_total, config.error_step),
        sizing=config.sizes_first,
    )
    steps = []
    seeds = row_seeds(0, len(context)) if seeds is None else seeds
    Decoder(adapter, config).run(
        context, torch.ones_like(context), state, seeds, observer=steps.append, **extra
    )
    return state, steps
