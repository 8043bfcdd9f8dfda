import copy
import math

import pytest
import torch
from scipy import stats
from torch import nn
from transformers.pytorch_utils import Conv1D

from probcomp.errors import InputError
from probcomp.inference.training.layers import (
    VARIANCE_FLOOR,
    Noise,
    bayesian_layers,
    from_bayesian,
    to_bayesian,
)
from probcomp.inference.training.weights import leave_out

# One failure in 10^4 runs for each p-value, if numbers differed from run to run.
P_VALUE = 1e-4
EXACT = 1e-10  # float64 against another order of summation


def noise(seed: int = 0) -> Noise:
    return Noise(torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double()


def test_names_outputs_and_classes_survive_a_round_trip() -> None:
    model, x = network(), torch.randn(5, 2, 4, 4, dtype=torch.double)
    names, expected = set(model.state_dict()), model(x)
    changed = to_bayesian(model, noise())
    assert changed == ["0", "3"]
    assert set(model.state_dict()) == names | {"0.weight_log_sigma", "3.weight_log_sigma"}
    assert torch.equal(model.eval()(x), expected)
    assert not torch.equal(model.train()(x), expected)
    back = from_bayesian(model)
    assert [type(m) for m in back] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert set(back.state_dict()) == names
    assert torch.equal(back(x), expected)
    copy.deepcopy(back)


def test_initial_sigma_is_a_tenth_of_the_root_mean_square() -> None:
    model = network()
    rms = model[3].weight.square().mean().sqrt()
    to_bayesian(model, noise())
    assert torch.allclose(model[3].weight_log_sigma.exp(), 0.1 * rms)


def test_inactive_noise_leaves_the_mean() -> None:
    model, x = network().train(), torch.randn(2, 2, 4, 4, dtype=torch.double)
    expected, source = model(x), noise()
    to_bayesian(model, source)
    source.active = False
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("draw", ["outputs", "weights"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(7, 5), (1, 7)),
        (nn.Conv1d(2, 3, 3, padding=1), (1, 2, 6)),
        (nn.Conv2d(2, 4, 3, stride=2, groups=2), (1, 2, 7, 7)),
        (nn.Conv3d(2, 2, 2), (1, 2, 3, 3, 2)),
        (nn.ConvTranspose1d(2, 3, 3, dilation=2), (1, 2, 4)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), (1, 2, 4, 4)),
        (nn.ConvTranspose3d(2, 2, 2, groups=2), (1, 2, 2, 2, 2)),
        (Conv1D(5, 7), (1, 7)),
    ],
    ids=["linear", "conv1d", "conv2d-grouped", "conv3d", "up1d", "up2d", "up3d", "gpt"],
)
def test_output_moments_are_those_of_gaussian_weights(draw, layer, shape) -> None:
    """Draws of single outputs against N(m, v), with m and v from the Jacobian by the weight."""
    layer = copy.deepcopy(layer).double()
    x = torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    plain = copy.deepcopy(layer)
    wrapped = nn.Sequential(layer).train()
    to_bayesian(wrapped, noise(2), linear=draw, convolution=draw, sigma_ratio=0.5)
    sigma = layer.weight_log_sigma.detach().exp()
    call = lambda w: torch.func.functional_call(plain, {"weight": w}, (x,)).flatten()  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(call, plain.weight.detach()).flatten(1)
    deviation = (jacobian.square() @ sigma.flatten().square()).sqrt()
    mean = call(plain.weight).detach()
    with torch.no_grad():
        draws = torch.stack([wrapped(x).flatten() for _ in range(400)])
    sites = torch.linspace(0, len(mean) - 1, 4).long()
    for site in sites.tolist():
        if deviation[site] == 0:  # an output position that no weight reaches
            continue
        standard = (draws[:, site] - mean[site]) / deviation[site]
        assert stats.kstest(standard.numpy(), "norm").pvalue > P_VALUE


def test_gradients_of_a_linear_draw_match_autograd_of_the_formula() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).double()
    model = nn.Sequential(layer)
    to_bayesian(model, noise(5), sigma_ratio=0.3)
    x = torch.randn(3, 6, dtype=torch.double, requires_grad=True)
    target = torch.randn(3, 4, dtype=torch.double)
    loss = (model(x) - target).square().sum()
    got = torch.autograd.grad(loss, [layer.weight, layer.bias, layer.weight_log_sigma, x])
    w, b, s = (
        t.detach().clone().requires_grad_()
        for t in (layer.weight, layer.bias, layer.weight_log_sigma)
    )
    epsilon = torch.empty(3, 4, dtype=torch.double)
    epsilon.normal_(generator=torch.Generator().manual_seed(5))
    variance = x.square() @ (2 * s).exp().T + VARIANCE_FLOOR
    naive = (x @ w.T + b + variance.sqrt() * epsilon - target).square().sum()
    expected = torch.autograd.grad(naive, [w, b, s, x])
    for a, e in zip(got, expected, strict=True):
        assert torch.allclose(a, e, rtol=EXACT, atol=EXACT)


def test_gradients_of_a_weight_draw_match_autograd_of_the_formula() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3).double()
    model = nn.Sequential(layer)
    to_bayesian(model, noise(5), convolution="weights")
    x = torch.randn(2, 2, 5, 5, dtype=torch.double)
    got = torch.autograd.grad(model(x).square().sum(), [layer.weight, layer.weight_log_sigma])
    w, s = (t.detach().clone().requires_grad_() for t in (layer.weight, layer.weight_log_sigma))
    epsilon = torch.empty_like(w).normal_(generator=torch.Generator().manual_seed(5))
    drawn = (w + s.exp() * epsilon).flatten(1)
    # Unfold reference: a convolution is a product with its patches.
    columns = nn.functional.unfold(x, 3)
    naive = (drawn @ columns + layer.bias.detach()[:, None]).square().sum()
    expected = torch.autograd.grad(naive, [w, s])
    for a, e in zip(got, expected, strict=True):
        assert torch.allclose(a, e, rtol=EXACT, atol=EXACT)


def test_a_layer_may_be_called_by_the_name_of_its_argument() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 3)
    to_bayesian(model, noise())
    first = model[0](input=x)
    model[0].noise.generator.manual_seed(0)
    assert torch.equal(model[0](x), first)


def test_same_generator_state_gives_the_same_draw() -> None:
    model, source = network().train(), noise(3)
    to_bayesian(model, source)
    x = torch.randn(2, 2, 4, 4, dtype=torch.double)
    state = source.generator.get_state()
    first = model(x)
    source.generator.set_state(state)
    assert torch.equal(model(x), first)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_frozen_and_foreign_layers_are_left_alone() -> None:
    model = Tied()
    assert to_bayesian(model, noise()) == ["body"]

    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Special(2, 2), nn.Linear(2, 2))
    model[2].weight.requires_grad_(False)
    assert to_bayesian(model, noise()) == ["0"]
    assert [name for name, _ in bayesian_layers(model)] == ["0"]


def test_bad_models_are_refused() -> None:
    with pytest.raises(InputError, match="no trainable linear or convolution"):
        to_bayesian(nn.Sequential(nn.ReLU()), noise())
    model = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(model[0].weight, math.nan)
    with pytest.raises(InputError, match="layer '0' holds NaN"):
        to_bayesian(model, noise())


@pytest.mark.parametrize("draw", ["outputs", "weights"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(7, 5), (3, 2, 7)),
        (nn.Conv1d(4, 3, 3, padding=1), (2, 4, 6)),
        (nn.Conv2d(4, 3, 3, stride=2), (2, 4, 7, 7)),
    ],
    ids=["linear", "conv1d", "conv2d"],
)
def test_leaving_out_what_is_zero_changes_nothing(draw, layer, shape) -> None:
    layer = copy.deepcopy(layer).double()
    with torch.no_grad():
        layer.weight[1] = 0
        layer.bias[1] = 0
        layer.weight[:, [0, 2]] = 0
    x = torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(layer).train()
    to_bayesian(model, noise(2), linear=draw, convolution=draw)
    layer.noise.active = False
    whole = model(x)
    whole.square().sum().backward()
    gradient, layer.weight.grad = layer.weight.grad, None
    leave_out({"w": layer}, {"w": layer.weight != 0})
    assert layer.live is not None
    part = model(x)
    part.square().sum().backward()
    torch.testing.assert_close(part, whole, rtol=0, atol=EXACT)
    kept = layer.weight != 0
    torch.testing.assert_close(layer.weight.grad[kept], gradient[kept], rtol=0, atol=EXACT)
    assert not layer.weight.grad[~kept].any()
    layer.noise.active = True
    drawn = model(x)
    assert not drawn.movedim(layer.channel_dim, 0)[1].any()
    assert not torch.equal(drawn, part)
