"""What a checkpoint holds, what it refuses, and what tells two runs apart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.inference.training import CollapsedGamma, TurboConfig
from probcomp.inference.training.build import build_graph
from probcomp.inference.training.checkpoint import (
    HEADER,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from probcomp.inference.training.engine import Info, State, init, step
from probcomp.inference.training.layers import Noise, to_bayesian
from probcomp.inference.training.units import Slice, Units
from probcomp.inference.training.weights import Run
from probcomp.priors import Lattice

CONFIG = TurboConfig(rounds=6, steps=3, order_every=1, freeze_after=0.0, learn="both")
IDENTITY = {"seed": 0, "name": "this"}


def hidden(units: int = 6) -> Units:
    index = torch.arange(units)[:, None]
    members = (Slice("0.weight", 0, index), Slice("0.bias", 0, index), Slice("2.weight", 1, index))
    return Units("h", units, members)


def fresh(
    width: int = 6, cost=None, batch: int = 8, shift: float = 0.0, start: int = 0
) -> tuple[Run, State]:
    """A run before any round."""
    torch.manual_seed(start)
    model = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 2))
    noise = Noise(torch.Generator().manual_seed(0))
    to_bayesian(model, noise)
    graph = build_graph(model, [hidden(width)], Lattice(field=0.0, coupling=0.7), cost, CONFIG)
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(1)) + shift
    data = Batches((x, x[:, :2]), batch, 0)
    loss = lambda m, b: (m(b[0]) - b[1]).square().mean()  # noqa: E731
    evidence = CollapsedGamma(well_determined=True)
    run = Run(model, data, loss, evidence, CONFIG, noise, 0.5 * graph.total)
    return run, init(run, graph)


def trained(rounds: int = 3) -> tuple[Run, State, list[Info]]:
    run, state = fresh()
    history = []
    for _ in range(rounds):
        state, info = step(run, state)
        history.append(info)
    return run, state, history


def test_everything_that_decides_comes_back(tmp_path: Path) -> None:
    run, state, history = trained()
    save_checkpoint(tmp_path, run, state, history, IDENTITY)
    other, start = fresh()
    torch.manual_seed(77)
    found = load_checkpoint(tmp_path, other, start, IDENTITY)
    assert found is not None
    restored, told = found
    assert told == history
    for name in ("log_odds", "psi", "precision", "orders"):
        one, two = getattr(state, name), getattr(restored, name)
        assert set(one) == set(two), name
        assert all(torch.equal(one[key], two[key]) for key in one), name
    assert (restored.round, restored.place, restored.calm) == (3, state.place, state.calm)
    assert restored.slab == state.slab
    assert restored.first_slab == state.first_slab
    assert restored.messages.price == state.messages.price
    for name, matrix in state.graph.matrices.items():
        assert restored.graph.matrices[name].prior == matrix.prior  # learnt fields and couplings
        ours, theirs = state.messages.matrices[name], restored.messages.matrices[name]
        assert torch.equal(ours.psi, theirs.psi)
        assert ours.converged == theirs.converged
    first = start.graph.matrices["0.weight"].prior
    assert restored.graph.matrices["0.weight"].prior != first
    # Model, optimiser and noise too: the next round is the same to the bit, in either run.
    rng = torch.get_rng_state()
    after, one = step(run, state)
    torch.set_rng_state(rng)
    again, two = step(other, restored)
    assert one.nll == two.nll
    assert one.kl == two.kl
    assert all(torch.equal(after.log_odds[n], again.log_odds[n]) for n in after.log_odds)


def test_only_the_newest_round_stays(tmp_path: Path) -> None:
    run, state, history = trained(1)
    save_checkpoint(tmp_path, run, state, history, IDENTITY)
    state, info = step(run, state)
    save_checkpoint(tmp_path, run, state, [*history, info], IDENTITY)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["turbo-00002.safetensors", HEADER]


def test_a_write_that_stops_before_the_header_leaves_the_last_round(
    tmp_path: Path, monkeypatch
) -> None:
    run, state, history = trained(1)
    save_checkpoint(tmp_path, run, state, history, IDENTITY)
    later, info = step(run, state)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("probcomp.inference.training.checkpoint.write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, run, later, [*history, info], IDENTITY)
    other, start = fresh()
    found = load_checkpoint(tmp_path, other, start, IDENTITY)
    assert found is not None
    assert found[0].round == 1
    assert torch.equal(found[0].log_odds["0.weight"], state.log_odds["0.weight"])


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", *fresh(), IDENTITY) is None


def test_what_belongs_elsewhere_or_is_damaged_is_refused(tmp_path: Path) -> None:
    run, state, history = trained(1)
    save_checkpoint(tmp_path, run, state, history, IDENTITY)
    with pytest.raises(InputError, match=r"another run: seed, name differ; name another"):
        load_checkpoint(tmp_path, *fresh(), {"seed": 1, "name": "that"})
    with pytest.raises(InputError, match="does not fit this model"):
        load_checkpoint(tmp_path, *fresh(width=7), IDENTITY)
    header = json.loads((tmp_path / HEADER).read_text())
    (tmp_path / HEADER).write_text(json.dumps(header | {"format": "of old"}))
    with pytest.raises(InputError, match="is not a probcomp-turbo"):
        load_checkpoint(tmp_path, *fresh(), IDENTITY)


def test_a_state_of_unknown_kind_is_not_stored(tmp_path: Path) -> None:
    run, state, history = trained(1)
    first, *_ = state.messages.matrices
    odd = replace(state.messages.matrices[first], state=object())
    messages = replace(state.messages, matrices={**state.messages.matrices, first: odd})
    with pytest.raises(InputError, match=rf"/matrices/{first}/state of type object"):
        save_checkpoint(tmp_path, run, replace(state, messages=messages), history, IDENTITY)
    assert not (tmp_path / HEADER).exists()


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, set()),
        ({"cost": {"0.weight": 2.0, "2.weight": 1.0}}, {"cost"}),
        ({"batch": 16}, {"batches"}),
        ({"shift": 0.5}, {"batches"}),
        ({"width": 7}, {"cost", "units", "model"}),
        ({"start": 1}, {"model"}),
    ],
)
def test_a_fingerprint_changes_with_what_a_run_depends_on(change, differs) -> None:
    def marks(**given):
        run, state = fresh(**given)
        return fingerprint(run, state.graph)

    one, two = marks(), marks(**change)
    assert {key for key in one if one[key] != two[key]} == differs


def test_units_that_lie_elsewhere_have_another_fingerprint() -> None:
    run, state = fresh()
    (slot,) = state.graph.matrices["0.weight"].slots
    moved = replace(
        state.graph.matrices["0.weight"], slots=(replace(slot, index=slot.index.flip(0)),)
    )
    other = replace(state.graph, matrices={**state.graph.matrices, "0.weight": moved})
    one, two = fingerprint(run, state.graph), fingerprint(run, other)
    assert {key for key in one if one[key] != two[key]} == {"units"}
