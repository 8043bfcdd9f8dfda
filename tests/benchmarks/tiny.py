"""A task file whose knob and levels are filled in."""

TINY = """
import torch
from torch import nn
from probcomp.regime.recipe import Recipe
from probcomp.regime.tasks import PilotTask

def build():
    return nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(),
        nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3),
    ).double()

def task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator).double()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    recipe = Recipe(epochs=2, horizon=2, lr=0.2, batch_size=8)
    return PilotTask(
        "tiny", build, (x[:60], y[:60]), (x[60:], y[60:]), recipe, recipe, KNOB, LEVELS,
        (0.2, 0.5), augment=lambda x: x + 0.1 * torch.randn_like(x),
    )
"""
