"""The training loop: resuming, schedules, what learns when."""

import dataclasses

import pytest
import torch

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.inference.baselines import (
    GroupConfig,
    L0Config,
    PDPConfig,
    SparseVDConfig,
    SpikeSlabConfig,
    bc_ghs,
    bc_gnj,
    l0,
    pdp,
    sparse_vd,
    spike_slab,
)
from probcomp.inference.baselines.engine import Decay, Epoch
from tests.inference.baselines.networks import SHORT, limit, samples, setting


class Stop(Exception):
    pass


@pytest.mark.parametrize(("fit", "config"), [(bc_gnj, GroupConfig), (l0, L0Config)])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(fit, config, tmp_path) -> None:
    schedule = config(**(SHORT | {"epochs": 6, "noise_every": 2}))
    whole = fit(setting(4), schedule)

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 3:
            raise Stop

    given = setting(4, checkpoint=tmp_path)
    with pytest.raises(Stop):
        fit(dataclasses.replace(given, on_epoch=stop), schedule)
    seen: list[Epoch] = []
    resumed = fit(dataclasses.replace(given, on_epoch=seen.append), schedule)
    assert [epoch.epoch for epoch in seen] == [4, 5, 6]
    assert resumed.history == whole.history
    for one, two in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    ("fit", "config"),
    [
        (pdp, PDPConfig(epochs=4, refresh=3, refit_epochs=0)),
        (sparse_vd, SparseVDConfig(**(SHORT | {"epochs": 4}))),
        (spike_slab, SpikeSlabConfig(**(SHORT | {"epochs": 4}))),
    ],
    ids=["pdp", "sparse-vd", "spike-slab"],
)
def test_what_terms_remember_survives_a_stop(fit, config, tmp_path) -> None:
    given = setting(4)
    given = dataclasses.replace(given, limit=limit(given.model, 60) if fit is pdp else None)
    whole = fit(given, config)

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise Stop

    given = dataclasses.replace(given, checkpoint=tmp_path)
    with pytest.raises(Stop):
        fit(dataclasses.replace(given, on_epoch=stop), config)
    resumed = fit(given, config)
    for name, mask in whole.masks.items():
        assert torch.equal(resumed.masks[name], mask)
    for one, two in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_of_another_method_is_refused(tmp_path) -> None:
    schedule = GroupConfig(**(SHORT | {"epochs": 1}))
    bc_gnj(setting(checkpoint=tmp_path), schedule)
    with pytest.raises(InputError, match="of another run"):
        bc_ghs(setting(checkpoint=tmp_path), schedule)


def test_a_checkpoint_of_another_run_is_refused(tmp_path) -> None:
    schedule = L0Config(**(SHORT | {"epochs": 1}))
    l0(setting(checkpoint=tmp_path), schedule)
    other = setting().model
    with torch.no_grad():
        other[0].weight[0, 0] += 1
    x, y = samples(0)
    for change in ({"seed": 1}, {"model": other}, {"batches": Batches((x + 1, y), 50)}):
        with pytest.raises(InputError, match="of another run"):
            l0(setting(checkpoint=tmp_path, **change), schedule)
    l0(setting(checkpoint=tmp_path), schedule)


def test_decay_is_a_gaussian_prior() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    term = Decay([weight], 3.0)
    term.value().backward()
    torch.testing.assert_close(weight.grad, 3 * weight.detach())
    with torch.no_grad():
        term.add_gradient(1.0)
    torch.testing.assert_close(weight.grad, 6 * weight.detach())


def test_torchs_global_state_is_left_alone() -> None:
    given = setting()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    l0(given, L0Config(**(SHORT | {"epochs": 1})))
    assert torch.equal(torch.get_rng_state(), before)
