import torch
from torch import nn

from probcomp.inference.training.layers import Noise, to_bayesian
from probcomp.inference.training.weights import add_divergence


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
