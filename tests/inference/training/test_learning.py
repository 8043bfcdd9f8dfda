from dataclasses import replace

import pytest
import torch

from probcomp.inference.training import TurboConfig
from probcomp.inference.training.gates import Graph, Matrix, start, sweep
from probcomp.inference.training.learning import is_learnable, learn_priors
from probcomp.inference.training.sites import Sites
from probcomp.inference.training.units import Slot
from probcomp.priors import Independent, Lattice

SIZE = 40
PRIOR = Lattice(-0.5, 0.5)


def learnt(mask: torch.Tensor, prior=PRIOR, learn="both", rows=None, live=None, rounds=20):
    """The prior after some rounds in which the evidence shows the mask clearly."""
    evidence = {"w": torch.where(mask, 6.0, -6.0)}
    slot = Slot("row", 0, torch.arange(len(mask)))
    field = torch.zeros(len(mask)) if live is None else torch.where(live, 0.0, -1e4)
    matrix = Matrix(Sites(tuple(mask.shape), rows=rows), prior, (slot,), torch.ones(mask.shape))
    graph = Graph({"w": matrix}, {}, {"row": field})
    messages = start(graph)
    config = TurboConfig(learn=learn)
    for _ in range(rounds):
        messages = sweep(graph, evidence, messages, 0.0)
        graph = learn_priors(graph, evidence, messages, config)
    return graph.matrices["w"].prior


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_scattered_masks_teach_no_coupling_and_their_density() -> None:
    mask = torch.rand(SIZE, SIZE, generator=generator()) < 0.25
    prior = learnt(mask)
    assert prior.coupling < 0.15
    # In the symmetric form a site among n absent neighbours has log-odds field - n J / 2.
    assert prior.field - 2 * prior.coupling < -0.5


def test_clustered_masks_teach_a_strong_coupling_up_to_the_cap() -> None:
    mask = Lattice(0.0, 1.6).sample((SIZE, SIZE), generator=generator()).bool()
    assert learnt(mask).coupling > 1.0
    assert learnt(mask).coupling <= TurboConfig().max_coupling
    kept = learnt(mask, learn="coupling")
    assert kept.field == -0.5
    assert kept.coupling > 0.8


def test_order_and_dead_units_are_honoured() -> None:
    mask = Lattice(0.0, 1.6).sample((SIZE, SIZE), generator=generator()).bool()
    shuffle = torch.randperm(SIZE, generator=generator())
    straight = learnt(mask)
    shuffled = learnt(mask[shuffle], rows=torch.argsort(shuffle))
    assert shuffled.coupling == pytest.approx(straight.coupling, abs=1e-4)
    # Columns are still in order, so half of the neighbours still agree.
    assert learnt(mask[shuffle]).coupling < straight.coupling - 0.1
    # Rows that are off by their gates say nothing about the rest.
    live = torch.arange(2 * SIZE) < SIZE
    padded = learnt(torch.cat([mask, torch.zeros_like(mask)]), live=live)
    assert padded.coupling == pytest.approx(straight.coupling, abs=0.05)
    assert padded.field == pytest.approx(straight.field, abs=0.1)


def test_other_priors_and_tiny_lattices_stay() -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    assert learnt(mask) == Lattice(-0.5, 0.5)
    mask = torch.ones(8, 8, dtype=torch.bool)
    assert learnt(mask, prior=Independent(0.3)) == Independent(0.3)
    assert not is_learnable(replace(Lattice(0.0, 1.0), field=torch.zeros(3, 3)))
