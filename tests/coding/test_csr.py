"""The plain sparse format, counted by hand."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.coding import quantise
from probcomp.coding.csr import csr_bytes, index_bits


def test_relative_indices_by_hand():
    kept = np.zeros((1, 40), bool)
    kept[0, [0, 17, 39]] = True
    # Zeros between: 0, 16, 21; with 4 bits a distance covers 15 zeros and one entry, so the last
    # two need one filler each.
    assert index_bits(kept, 4, 3) == 5 * 7
    assert index_bits(kept, 8, 3) == 3 * 11


def test_csr_counts_codebooks_values_and_lines():
    model = nn.Linear(8, 4)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[1, :4] = torch.tensor([1.0, 2.0, 1.0, 2.0])
        model.bias.zero_()
        model.bias[:2] = 0.5
    quantised = quantise(model, 1e-9)
    # Weight: lines 4 + 8, 2 centroids, 4 dense entries of 1 bit. Bias: lines 1 + 4, one centroid.
    assert csr_bytes(quantised) == math.ceil((12 + 32 + 4 + 5 + 16) / 8)


@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 999), st.sampled_from([2, 4, 8]))
def test_entries_of_any_mask_lead_back_to_it(size, share, seed, width):
    """Entries as the format has them: fillers of the largest distance, then the rest."""
    kept = np.random.default_rng(seed).random((1, size)) < share
    distances, place = [], -1
    for position in np.flatnonzero(kept):
        zeros = position - place - 1
        distances += [2**width - 1] * (zeros // 2**width) + [zeros % 2**width]
        place = position
    assert index_bits(kept, width, 5) == (width + 5) * len(distances)


def test_what_has_no_codebook_takes_two_bytes():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4))
    with torch.no_grad():
        model[0].weight.zero_()
    # Lines 4 + 4 and room for one value; eight numbers of the norm.
    assert csr_bytes(quantise(model, 1e-6)) == math.ceil((8 + 16 + 16 * 8) / 8)
