"""The end that decoding reads from a forward: the one the calibration fitted, and by hand."""

import math

import pytest
import torch

from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.bound import Bound
from probcomp.decoding.calibrating.ends import posterior
from probcomp.decoding.calibrating.states import States
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.end_model import EndModel
from probcomp.decoding.features import read_features
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.looking import look
from probcomp.decoding.rows import Rows

EOS, MASK, VOCABULARY, WIDTH = 1, 2, 6, 12

FITTED = {
    "end_temper": 0.3,
    "end_platt": (-0.4, 1.3),
    "tail_truncated": (1.5, 4.0),
    "tail_fits": (5.0, 2.0),
    "tail_window": 5,
    "end_tilt": 0.07,
    "end_share": ((0.2, 0.05), (1.0, 0.4)),
}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("beyond", [True, False])
@pytest.mark.parametrize("end_model", ["cdf", "hmm"])
def test_fitting_and_decoding_read_the_same_end(end_model, beyond, share):
    """Random logits on canvases of 3 to 12 positions, a third of them visible."""
    generator = torch.Generator().manual_seed(0)
    n = 60
    length = torch.randint(3, WIDTH + 1, (n,), generator=generator)
    length[0] = WIDTH
    end = 1 + (torch.rand(n, generator=generator) * (length + 3)).long()
    place = torch.arange(WIDTH)
    valid = place < length[:, None]
    truth = torch.where(place < end[:, None] - 1, 4, EOS)
    masked = valid & (torch.rand(n, WIDTH, generator=generator) < 0.67)
    masked[:, 0] = True
    logits = 2 * torch.randn(n, WIDTH, VOCABULARY, generator=generator)

    fitted = FITTED | ({} if share else {"end_share": ()})
    config = DecodingConfig(
        end_model=end_model, beyond=beyond, hazard=(0.02, 0.1, 0.3, 0.15), **fitted
    )
    adapter = CallableAdapter(
        lambda ids, keys: ids, mask_id=MASK, eos_ids=EOS, vocab_size=VOCABULARY
    )
    bound = Bound(adapter, config)
    assert bound.models_end
    ids = torch.where(masked, MASK, truth)
    rows = Rows(
        ids,
        length,
        torch.ones(n, dtype=torch.bool),
        MASK,
        ledger=Ledger.open(n, config.error_total, config.error_step),
        sizing=config.sizes_first,
    )
    view = look(bound, rows, torch.arange(n), ids, valid, logits, torch.zeros(n))

    features = read_features(logits, (EOS,), config.delimiters)
    states = States(end, length, truth, masked, features)
    model = EndModel(end_model, beyond, **fitted)
    want = posterior(model, states, bound.prior)
    # Evidence put together in two places, on the same float32 marginals: rounding alone.
    torch.testing.assert_close(view.p_end, want, atol=1e-12, rtol=1e-9, check_dtype=False)
    assert float(want.sum(1).sub(1).abs().max()) < 1e-9


def by_hand(mass, masked, truth, length, hazard, options):
    """p_end of one row in plain Python, from the formulas of the end model alone."""
    content = [i for i in range(length) if not masked[i] and truth[i] != EOS]
    ends = [i for i in range(length) if not masked[i] and truth[i] == EOS]
    latest = min([*ends, length])
    earliest = max([i for i in content if i < latest], default=-1)
    allowed = [earliest < k <= latest for k in range(length + 1)]
    h = [hazard[min(j, len(hazard) - 1)] for j in range(length)]
    prior, alive = [], 1.0
    for value in h:
        prior.append(alive * value)
        alive *= 1 - value
    survival = alive
    prior.append(alive)
    e = [mass[i] if masked[i] else float(truth[i] == EOS) for i in range(length)]

    def normal(p):
        p = [x if ok else 0.0 for x, ok in zip(p, allowed)]
        return [x / sum(p) for x in p]

    if options["end_model"] == "cdf":
        low = [min(e[i:]) for i in range(length)]
        high = [max(e[: i + 1]) for i in range(length)]
        cdf = [(a + b) / 2 for a, b in zip(low, high)] + [1.0]
        p = normal([max(b - a, 0.0) for a, b in zip([0.0, *cdf], cdf)])
    else:
        b0, b1 = options["end_platt"]

        def logit(x):
            return max(-12.0, min(12.0, math.log(x) - math.log1p(-x)))

        evidence = [
            b0 + b1 * logit(e[i]) - logit(sum(prior[: i + 1])) if masked[i] else 0.0
            for i in range(length)
        ]
        tail = [sum(evidence[k:]) for k in range(length + 1)]
        p = normal(
            [x * math.exp(options["end_temper"] * t) for x, t in zip(prior, tail, strict=True)]
        )
    if options["beyond"]:
        last = e[max(0, length - options["tail_window"]) :]
        m = min(max(sum(last) / len(last), 1e-6), 1 - 1e-6)
        cut, fits = (
            m ** (a - 1) * (1 - m) ** (b - 1) * math.gamma(a + b) / (math.gamma(a) * math.gamma(b))
            for a, b in (options["tail_truncated"], options["tail_fits"])
        )
        past = survival * cut / (survival * cut + (1 - survival) * fits)
        if 0 < p[-1] < 1:
            p = [x * (1 - past) / (1 - p[-1]) for x in p[:-1]] + [past]
    inside = sum(p[:-1])
    if inside:
        weight = [x * math.exp(-options["end_tilt"] * k) for k, x in enumerate(p[:-1])]
        p = [x * inside / sum(weight) for x in weight] + [p[-1]]
    knots = options["end_share"]
    if not knots:
        return p
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    (x0, y0), (x1, y1) = knots
    share = y0 + min(max((entropy - x0) / (x1 - x0), 0.0), 1.0) * (y1 - y0)
    return [(1 - share) * a + share * b for a, b in zip(p, normal(prior))]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("beyond", [True, False])
@pytest.mark.parametrize("end_model", ["cdf", "hmm"])
def test_the_end_is_that_of_the_formulas(end_model, beyond, share):
    generator = torch.Generator().manual_seed(1)
    n, hazard = 25, (0.02, 0.1, 0.3, 0.15)
    length = torch.randint(3, WIDTH + 1, (n,), generator=generator)
    length[0] = WIDTH
    end = 1 + (torch.rand(n, generator=generator) * (length + 3)).long()
    valid = torch.arange(WIDTH) < length[:, None]
    truth = torch.where(torch.arange(WIDTH) < end[:, None] - 1, 4, EOS)
    masked = valid & (torch.rand(n, WIDTH, generator=generator) < 0.67)
    masked[:, 0] = True
    logits = 2 * torch.randn(n, WIDTH, VOCABULARY, generator=generator, dtype=torch.float64)
    options = FITTED | ({} if share else {"end_share": ()})
    options |= {"end_model": end_model, "beyond": beyond}
    config = DecodingConfig(hazard=hazard, **options)
    adapter = CallableAdapter(
        lambda ids, keys: ids, mask_id=MASK, eos_ids=EOS, vocab_size=VOCABULARY
    )
    rows = Rows(
        torch.where(masked, MASK, truth),
        length,
        torch.ones(n, dtype=torch.bool),
        MASK,
        ledger=Ledger.open(n, config.error_total, config.error_step),
        sizing=config.sizes_first,
    )
    bound = Bound(adapter, config)
    view = look(bound, rows, torch.arange(n), rows.ids, valid, logits, torch.zeros(n))
    mass = logits.softmax(-1)[..., EOS]
    for i in range(n):
        size = int(length[i])
        want = by_hand(
            mass[i].tolist(), masked[i].tolist(), truth[i].tolist(), size, hazard, options
        )
        assert view.p_end[i, : size + 1].tolist() == pytest.approx(want, abs=1e-6)
        assert float(view.p_end[i, size + 1 :].abs().sum()) == 0.0
