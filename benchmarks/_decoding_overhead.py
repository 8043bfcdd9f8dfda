"""What deciding costs beside a forward, for `benchmarks/decoding.py`."""

import time

import torch

from probcomp.decoding import Decoder, presets
from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.blocks import structure_posterior
from probcomp.decoding.durations import NegativeBinomial, log_duration
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.rows import Rows


def overhead() -> dict[str, float]:
    """CPU milliseconds: decisions beside a forward (W = 256, V = 32k), and the semi-Markov pass."""
    torch.manual_seed(0)
    width, vocabulary, size = 256, 32_000, 768
    layers = torch.nn.ModuleList(
        torch.nn.TransformerEncoderLayer(size, 12, 3072, batch_first=True) for _ in range(12)
    ).eval()
    embed, head = torch.nn.Embedding(vocabulary, size), torch.nn.Linear(size, vocabulary)
    spent = []

    def forward(ids, keys):
        began = time.process_time()
        x = embed(ids)
        for layer in layers:
            x = layer(x)
        found = head(x)
        spent.append(time.process_time() - began)
        return found

    adapter = CallableAdapter(forward, mask_id=0, eos_ids=1, vocab_size=vocabulary)
    config = presets["bayes"].replace(
        initial_length=width, max_new_tokens=width, sizing="none", delimiters=((5, 1.0),)
    )
    rows = Rows(
        torch.zeros(1, width, dtype=torch.long),
        torch.tensor([width]),
        torch.ones(1).bool(),
        0,
        ledger=Ledger.open(1, 2.0, 0.1),
        sizing=False,
    )
    context = torch.full((1, 8), 7)
    shares, last = [], [time.process_time()]

    class Enough(Exception):
        pass

    def watch(step):
        now = time.process_time()
        shares.append((now - last[0] - spent[-1]) / spent[-1])
        last[0] = now
        if len(shares) == 10:
            raise Enough

    try:
        with torch.no_grad():
            Decoder(adapter, config).run(
                context, torch.ones_like(context), rows, row_seeds(0, 1), observer=watch
            )
    except Enough:
        pass
    durations = log_duration(NegativeBinomial(24.0, 4.0, 64))
    passes = []
    for _ in range(15):
        began = time.process_time()
        structure_posterior(torch.randn(32, 257), torch.randn(32, 256), durations)
        passes.append(time.process_time() - began)
    return {
        "forward_ms_median": round(1e3 * sorted(spent)[len(spent) // 2], 2),
        "decision_share_median": round(sorted(shares)[len(shares) // 2], 4),
        "semi_markov_ms_median": round(1e3 * sorted(passes)[7], 2),
        "semi_markov_ms_best": round(1e3 * min(passes), 2),
    }
