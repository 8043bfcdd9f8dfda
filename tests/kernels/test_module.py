"""`MaskedLinear`: training under the mask, state, files."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.kernels import MaskedLinear, PackedWeight, pack
from tests.kernels.supports import block_support, generator


def layer_and_probability():
    torch.manual_seed(0)
    layer = nn.Linear(64, 48)
    probability = block_support((48, 64), (16, 16), 0.4, 1).float() * 0.9
    return layer, probability


def test_from_posterior_keeps_what_is_probable() -> None:
    layer, probability = layer_and_probability()
    masked = MaskedLinear.from_posterior(
        layer, SimpleNamespace(probability=probability), block=(16, 16), format="blocks"
    )
    x = torch.randn(5, 64)
    expected = x @ (layer.weight * (probability >= 0.5)).T + layer.bias
    assert torch.allclose(masked(x), expected, atol=1e-5)
    assert masked.val.numel() == int((probability >= 0.5).sum())
    assert "format=blocks" in repr(masked)


def test_optimizer_state_is_as_large_as_the_live_blocks() -> None:
    layer, probability = layer_and_probability()
    probability[5] = 0.0  # a dead row inside live blocks
    masked = MaskedLinear.from_posterior(layer, probability, block=(16, 16), format="blocks")
    optimizer = torch.optim.Adam(masked.parameters(), lr=0.05)
    x, target = torch.randn(32, 64), torch.randn(32, 48)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (masked(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert optimizer.state[masked.val]["exp_avg"].shape == masked.val.shape
    assert (masked.packed().dense()[probability < 0.5] == 0).all()
    assert masked.packed().val.numel() < 0.6 * layer.weight.numel()


@pytest.mark.parametrize("format", ["dense", "compact", "blocks", "int8", "runs", "nm"])
def test_state_and_packed_file_round_trip(format: str, tmp_path) -> None:
    support = torch.zeros(48, 64, dtype=torch.bool)
    support[:, ::4] = True
    weight, bias = torch.randn(2, 48, 64, generator=generator(0))[0], torch.randn(48)
    masked = MaskedLinear(pack(weight, support, format=format, block=(16, 16), bias=bias))
    x = torch.randn(4, 64)
    other = MaskedLinear(pack(weight * 2, support, format=format, block=(16, 16), bias=bias))
    other.load_state_dict(masked.state_dict())
    assert torch.equal(other(x), masked(x))
    masked.packed().save(tmp_path / "w.safetensors")
    again = MaskedLinear(PackedWeight.load(tmp_path / "w.safetensors"))
    assert torch.equal(again(x), masked(x))


@pytest.mark.parametrize("format", ["blocks", "compact"])
def test_a_module_compiles_and_moves_to_another_dtype(format: str) -> None:
    layer, probability = layer_and_probability()
    masked = MaskedLinear.from_posterior(layer, probability, format=format, block=(16, 16)).double()
    x = torch.randn(4, 64, dtype=torch.float64)
    torch._dynamo.reset()
    run = torch.compile(masked, fullgraph=True, backend="aot_eager")
    assert torch.allclose(run(x), masked(x))
    run(x).sum().backward()
    assert all(parameter.grad is not None for parameter in masked.parameters())


def test_a_state_whose_places_are_wrong_is_refused_and_leaves_the_old_ones() -> None:
    """The products check no index, so one that points outside must not come in by a file."""
    layer, probability = layer_and_probability()
    masked = MaskedLinear.from_posterior(layer, probability, block=(16, 16), format="blocks")
    x = torch.randn(5, 64)
    before = masked(x)
    state = {name: value.clone() for name, value in masked.state_dict().items()}
    for name, value in (("col", 4), ("crow", -1), ("row_order", 0), ("perm", 0)):
        wrong = {**state, name: torch.full_like(state[name], value)}
        for assign in (False, True):
            with pytest.raises(RuntimeError, match="MaskedLinear: packed blocks"):
                masked.load_state_dict(wrong, assign=assign)
            assert torch.equal(masked(x), before)
    model = nn.Sequential(masked)
    wrong = {f"0.{name}": value for name, value in {**state, "col": state["col"] + 9}.items()}
    with pytest.raises(RuntimeError, match=r"0: packed blocks: col must lie in"):
        model.load_state_dict(wrong)
    masked.load_state_dict(state)
    assert torch.equal(masked(x), before)


def test_bad_input_is_refused() -> None:
    layer, probability = layer_and_probability()
    packed = pack(layer.weight, probability > 0.5)
    with pytest.raises(InputError, match="takes a packed weight, got Linear"):
        MaskedLinear(layer)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown activation 'swish'"):
        MaskedLinear(packed, activation="swish")
    with pytest.raises(InputError, match="unknown kernel backend 'cuda'"):
        MaskedLinear(packed, backend="cuda")
    for wrong in (float("nan"), -0.1, 1.1):
        with pytest.raises(InputError, match="are no probabilities"):
            MaskedLinear.from_posterior(layer, torch.full_like(probability, wrong))
    with pytest.raises(InputError, match=r"takes an nn\.Linear"):
        MaskedLinear.from_posterior(nn.Conv2d(1, 1, 1), probability)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="probabilities of shape"):
        MaskedLinear.from_posterior(layer, probability[:3])
    with pytest.raises(InputError, match="must be a probability"):
        MaskedLinear.from_posterior(layer, probability, threshold=1.5)
