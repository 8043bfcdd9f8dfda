"""Layers that compute with a function of their weight."""

import torch
from torch import nn

from probcomp.inference.baselines.reweighting import reweight, undo


def test_training_uses_the_function_and_evaluation_the_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(18, 2))
    plain = [type(m) for m in model]
    x = torch.randn(3, 1, 6, 6)
    before = model(x)
    layers = reweight(model, ["0", "2"], lambda layer: 2 * layer.weight)
    assert sorted(layers) == ["0.weight", "2.weight"]
    torch.testing.assert_close(model.eval()(x), before)
    doubled = nn.functional.conv2d(x, 2 * model[0].weight, model[0].bias, stride=2, padding=1)
    expected = nn.functional.linear(doubled.flatten(1), 2 * model[2].weight, model[2].bias)
    torch.testing.assert_close(model.train()(x), expected)
    undo(layers)
    assert [type(m) for m in model] == plain
    torch.testing.assert_close(model.train()(x), before)
