"""What a launch of the gated kernel passes."""

import pytest
import torch

from probcomp.kernels.gpu import gated
from tests.kernels.gated_cases import parts
from tests.kernels.gpu.recorder import covered, record


@pytest.mark.parametrize(("rows", "tall", "warps"), [(3, 16, 4), (17, 64, 4), (1024, 128, 8)])
def test_tiles_grow_with_the_batch(rows: int, tall: int, warps: int, monkeypatch) -> None:
    p, seen = parts(), record(monkeypatch, gated, "gated_hidden")
    x = torch.randn(rows, p["gate"].shape[1])
    h = p["gate"].shape[0]
    y = gated.launch(x, p["gate"], p["up"], p["gate_bias"], None, None, "silu")
    assert y.shape == (rows, h)
    assert (seen.sent["BM"], seen.sent["num_warps"]) == (tall, warps)
    assert covered(seen.grid[0], tall, rows)
    assert covered(seen.grid[1], 64, h)
    assert seen.sent["GATE_BIAS"]
    assert not seen.sent["UP_BIAS"]
    assert not seen.sent["GATHER"]


def test_a_list_of_neurons_makes_as_many_outputs(monkeypatch) -> None:
    p, seen = parts(), record(monkeypatch, gated, "gated_hidden")
    listed = torch.tensor([7, 2, 80])
    weights = (p["gate"], p["up"], None, None)
    assert gated.launch(p["x"], *weights, listed, "gelu").shape == (p["x"].shape[0], 3)
    assert seen.sent["GATHER"]
    assert seen.sent["neuron_ptr"] is listed
    assert seen.sent["H"] == 3
    assert gated.launch(p["x"], *weights, listed[:0], "gelu").shape == (p["x"].shape[0], 0)
    assert seen.launches == 1
