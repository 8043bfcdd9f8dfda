import torch
from torch import nn

from probcomp.inference.training.layers import Noise, to_bayesian
from probcomp.inference.training.weights import add_divergence, leave_out, stream


def test_the_closed_form_gradient_is_that_of_the_divergence() -> None:
    """KL = 1/2 sum [rho (mu^2 + sigma^2) - ln sigma^2] + const, by autograd, for both draws."""
    for draw in ("outputs", "weights"):
        torch.manual_seed(0)
        layer = nn.Linear(5, 3).double()
        model = nn.Sequential(layer)
        to_bayesian(model, Noise(torch.Generator().manual_seed(1)), linear=draw)
        with torch.no_grad():
            layer.weight_log_sigma.add_(torch.randn(3, 5, dtype=torch.double))
        precision = torch.rand(3, 5, dtype=torch.double) * 9 + 0.1
        model(torch.randn(4, 5, dtype=torch.double)).sum().backward()
        before = [layer.weight.grad.clone(), layer.weight_log_sigma.grad.clone()]
        add_divergence({"0.weight": layer}, {"0.weight": precision}, 0.3)
        square = layer.weight.square() + torch.exp(2 * layer.weight_log_sigma)
        kl = 0.5 * (precision * square - 2 * layer.weight_log_sigma).sum()
        expected = torch.autograd.grad(0.3 * kl, [layer.weight, layer.weight_log_sigma])
        after = [layer.weight.grad, layer.weight_log_sigma.grad]
        for old, new, change in zip(before, after, expected, strict=True):
            assert torch.allclose(new - old, change, atol=1e-12)


class Numbers:
    """Epochs of three batches that say where they come from."""

    samples = 3

    def __call__(self, epoch: int):
        return ((epoch, index) for index in range(3))


def test_a_stream_crosses_epochs_and_goes_on_where_it_stopped() -> None:
    whole = list(stream(Numbers(), (0, 0), 10))
    assert [place for place, _, _ in whole] == [divmod(k, 3) for k in range(10)]
    assert all(batch == place for place, batch, _ in whole)
    assert [after for _, _, after in whole] == [divmod(k, 3) for k in range(1, 11)]
    parts, place = [], (0, 0)
    for steps in (1, 2, 4, 3):
        part = list(stream(Numbers(), place, steps))
        parts, place = parts + part, part[-1][2]
    assert parts == whole
    assert [p for p, _, _ in stream(Numbers(), (2, 0), 1, epochs=2)] == [
        divmod(k, 3) for k in range(6, 12)
    ]


def test_leaving_out_needs_zeros_that_are_worth_it_and_keeps_a_lone_bias() -> None:
    layers = {"w": nn.Linear(6, 4), "g": nn.Conv2d(4, 4, 1, groups=2)}
    to_bayesian(nn.ModuleList(layers.values()), Noise())
    keep = torch.ones(4, 6, dtype=torch.bool)
    keep[2:], keep[:, 4:] = False, False
    leave_out(layers, {"w": keep, "g": torch.zeros(4, 2, 1, 1, dtype=torch.bool)})
    assert layers["g"].live is None  # rows and columns of a grouped weight are no whole outputs
    rows, columns = layers["w"].live
    assert rows.tolist() == [0, 1, 2, 3]  # the biases of the others still act
    assert columns.tolist() == [0, 1, 2, 3]
    with torch.no_grad():
        layers["w"].bias.zero_()
    leave_out(layers, {"w": keep})
    assert layers["w"].live[0].tolist() == [0, 1]
    leave_out(layers, {"w": torch.ones(4, 6, dtype=torch.bool)})
    assert layers["w"].live is None


def test_a_convolution_of_which_nothing_is_kept_still_computes() -> None:
    layer = nn.Conv2d(3, 4, 3, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    to_bayesian(layer, Noise())
    leave_out({"weight": layer}, {"weight": torch.zeros(4, 3, 3, 3, dtype=torch.bool)})
    assert layer.live is None
    out = layer.eval()(torch.randn(2, 3, 5, 5))
    assert out.shape == (2, 4, 3, 3)
    assert not out.any()
