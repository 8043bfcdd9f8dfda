"""Where the next block lies, by each rule, on views made by hand."""

import pytest
import torch

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.cutting import at_delimiter, by_posterior, duration_of, on_grid
from probcomp.decoding.durations import Crp, Geometric, NegativeBinomial, log_duration
from probcomp.decoding.features import Features
from probcomp.decoding.length import NEG
from probcomp.decoding.view import View

WIDTH, DELIMITER, OTHER = 12, 5, 6
CONFIG = DecodingConfig(
    delimiters=((DELIMITER, 1.0),), block_length=4, block_min=1, block_max=8, block_mean=4.0
)


def view(first=0, delimiters=(), prob=0.9, entropy=None, length=WIDTH):
    """Everything before ``first`` is decided; the top token is a delimiter at ``delimiters``."""
    place = torch.arange(WIDTH)
    on = torch.isin(place, torch.tensor(delimiters, dtype=torch.long))[None]
    top = torch.where(on, DELIMITER, OTHER)
    p = torch.full((1, WIDTH), prob)
    h = torch.ones(1, WIDTH) if entropy is None else torch.tensor([entropy])
    zero = torch.zeros(1, WIDTH)
    mass = torch.where(on, 0.999, 0.001)
    weights = torch.full((1, WIDTH + 1), NEG)
    weights[0, length] = 0.0
    valid = (place < length)[None]
    return View(
        torch.tensor([0]),
        torch.full((1, WIDTH), OTHER),
        valid & (place >= first)[None],
        valid,
        torch.tensor([length]),
        Features(top, p, top, p, h, zero, mass),
        torch.zeros(1, WIDTH, dtype=torch.bool),
        torch.tensor([length]),
        weights.exp(),
        weights,
    )


def ends(found):
    return found[0].tolist()[0], found[1].tolist()[0]


@pytest.mark.parametrize(
    ("first", "want"), [(0, (0, 5)), (4, (0, 5)), (5, (5, 10)), (11, (10, 12))]
)
def test_the_grid_holds_the_first_undecided(first, want):
    assert ends(on_grid(view(first), 5)) == want


def test_a_delimiter_ahead_ends_the_block():
    config = CONFIG.replace(delimiter_share=0.5, block_threshold=0.3)
    assert ends(at_delimiter(view(2, (5,)), config)) == (2, 6)
    assert ends(at_delimiter(view(2, (9,)), config)) == (2, 6)  # out of reach: the default of 4
    assert ends(at_delimiter(view(2, (5,), prob=0.2), config)) == (2, 6)
    assert ends(at_delimiter(view(2, (4,), prob=0.2), config)) == (2, 6)  # not sure enough
    assert ends(at_delimiter(view(2, (4,)), config)) == (2, 5)
    assert ends(at_delimiter(view(10), config)) == (10, 12)


def test_the_posterior_follows_what_speaks_for_a_border():
    durations = log_duration(duration_of(CONFIG))
    draw = torch.zeros(1)
    assert ends(by_posterior(view(0, (4,)), CONFIG, durations, draw)) == (0, 5)
    assert ends(by_posterior(view(2, (4,)), CONFIG, durations, draw)) == (2, 5)
    # A multiple of the trained block, and never past the canvas.
    config = CONFIG.replace(block_multiple=4)
    assert ends(by_posterior(view(0, (4,)), config, durations, draw)) == (0, 8)
    assert ends(by_posterior(view(10, ()), config, durations, draw)) == (10, 12)


def test_the_surest_block_comes_first_in_gibbs_order():
    h = [3.0] * 6 + [0.1] * 6
    config = CONFIG.replace(order="gibbs", order_context=0.0)
    durations = log_duration(duration_of(config))
    begin, end = ends(by_posterior(view(0, (5,), entropy=h), config, durations, torch.zeros(1)))
    assert (begin, end) == (6, 12) or begin >= 6
    assert end > begin


def test_posterior_blocks_need_the_end():
    bare = view()
    bare.end_weights = None
    with pytest.raises(ValueError, match="end posterior"):
        by_posterior(bare, CONFIG, log_duration(duration_of(CONFIG)), torch.zeros(1))


def test_durations_are_the_configuration_s():
    law = duration_of(DecodingConfig(block_prior="geometric", block_mean=9.0, block_max=40))
    assert law == Geometric(9.0, 40)
    assert isinstance(duration_of(DecodingConfig(block_prior="crp")), Crp)
    assert duration_of(DecodingConfig(block_mean=50.0, block_max=16)) == NegativeBinomial(
        15.0, 4.0, 16
    )
    assert duration_of(DecodingConfig(block_min=1, block_max=1)) == NegativeBinomial(1.0, 4.0, 1)
