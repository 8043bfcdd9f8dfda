"""What every variational baseline must do, on a task where the answer is known."""

import dataclasses
import functools

import pytest
import torch

from probcomp.data.batches import Batches
from probcomp.errors import DivergenceError, InputError
from probcomp.inference.baselines import (
    GroupConfig,
    IterativeConfig,
    L0Config,
    SBPConfig,
    Setting,
    SparseVDConfig,
    SpikeSlabConfig,
    VIBConfig,
    bc_ghs,
    bc_gnj,
    iterative,
    l0,
    sbp,
    sparse_vd,
    spike_slab,
    vibnet,
)
from tests.inference.baselines.networks import SHORT, accuracy, limit, setting
from tests.inference.training.test_fitting import Texts, token_loss

METHODS = {
    "sparse-vd": (sparse_vd, SparseVDConfig(**SHORT)),
    "bc-gnj": (bc_gnj, GroupConfig(**SHORT)),
    "bc-ghs": (bc_ghs, GroupConfig(**SHORT)),
    "l0": (l0, L0Config(**SHORT, price=0.5)),
    "sbp": (sbp, SBPConfig(**SHORT, kl_weight=3.0)),
    "vibnet": (vibnet, VIBConfig(**SHORT, kl_weight=3.0)),
    "spike-slab": (spike_slab, SpikeSlabConfig(**SHORT, log_odds=-3.0)),
}
USELESS = 8


@pytest.fixture(scope="module", params=METHODS)
def run(request):
    fit, config = METHODS[request.param]
    given = setting(USELESS)
    return request.param, given, fit(given, config)


def test_useless_inputs_go_first_and_the_network_still_works(run) -> None:
    name, _, found = run
    kept = found.masks["0.weight"].float().mean(0)
    assert kept[:4].mean() > kept[4:].mean(), name
    assert accuracy(found.model, USELESS) > 0.85, name  # the dense network has about 0.98


def test_the_result_is_dense_shaped_plain_and_zero_outside_the_masks(run) -> None:
    name, given, found = run
    assert [type(m) for m in found.model] == [type(m) for m in given.model], name
    assert found.model.state_dict().keys() == given.model.state_dict().keys()
    for parameter, mask in found.masks.items():
        assert not found.model.get_parameter(parameter)[~mask].any()
    gone = ~found.keep["hidden"]
    assert not found.model[0].weight[gone].any()
    assert not found.model[2].weight[:, gone].any()
    assert not any(m._forward_pre_hooks for m in found.model.modules())


def test_the_given_model_is_untouched(run) -> None:
    _, given, _ = run
    fresh = setting(USELESS)
    for one, two in zip(given.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_history_has_one_entry_an_epoch(run) -> None:
    _, _, found = run
    assert found.history["step"] == [float(i + 1) for i in range(SHORT["epochs"])]
    assert all(torch.isfinite(torch.tensor(v)).all() for v in found.history.values())
    assert found.history["kl"][-1] < found.history["kl"][0]


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_result_and_a_budget_is_met(name: str) -> None:
    fit, config = METHODS[name]
    config = dataclasses.replace(config, epochs=3)
    given = setting(USELESS)
    given = dataclasses.replace(given, limit=limit(given.model, 80))
    one, two = fit(given, config), fit(given, config)
    for name_, mask in one.masks.items():
        assert torch.equal(mask, two.masks[name_])
    kept = sum(int(p.count_nonzero()) for p in one.model.parameters())
    assert kept <= 80
    assert given.limit.spent(one.masks, one.keep) <= 80


@pytest.mark.parametrize("own", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_any_pair_of_own_and_default_type(name: str, own: torch.dtype) -> None:
    fit, config = METHODS[name]
    given = setting()
    x, y = given.batches.tensors
    given = dataclasses.replace(
        given, model=given.model.to(own), batches=Batches((x.to(own), y), 50)
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if own is torch.float64 else torch.float64)
    try:
        found = fit(given, dataclasses.replace(config, epochs=1))
    finally:
        torch.set_default_dtype(before)
    assert {p.dtype for p in found.model.parameters()} == {own}


class Named(torch.nn.Sequential):
    """Calls its layers by the name of their argument."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[2](input=self[1](self[0](input=x)))


@pytest.mark.parametrize("name", [*METHODS, "obs"])
def test_layers_may_be_called_by_the_name_of_their_argument(name: str) -> None:
    plain = setting()
    if name == "obs":
        config = IterativeConfig(stages=1, epochs=1, samples=100)
        given = dataclasses.replace(plain, limit=limit(plain.model, 60))
        run = functools.partial(iterative, config=config, score="obs")
    else:
        fit, config = METHODS[name]
        given, run = plain, functools.partial(fit, config=dataclasses.replace(config, epochs=1))
    one = run(given)
    two = run(dataclasses.replace(given, model=Named(*plain.model)))
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sparse-vd", "spike-slab"])
def test_a_text_is_the_evidence_of_all_its_tokens(name: str) -> None:
    fit, config = METHODS[name]
    config = dataclasses.replace(config, epochs=3)
    found = []
    for whole in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
        found.append(fit(Setting(model=model, batches=Texts(whole), loss=token_loss), config))
    torch.testing.assert_close(found[0].history, found[1].history)


def test_a_loss_that_explodes_is_an_error() -> None:
    given = setting()
    broken = dataclasses.replace(given, loss=lambda m, b: m(b[0]).sum() * float("inf"))
    with pytest.raises(DivergenceError, match="not finite in epoch 0"):
        sparse_vd(broken, SparseVDConfig(**SHORT))


def test_a_refit_of_the_survivors_lowers_the_loss_and_keeps_the_masks() -> None:
    config = SparseVDConfig(**(SHORT | {"epochs": 5}), refit_epochs=5, threshold=0.0)
    found = sparse_vd(setting(USELESS), config)
    assert len(found.meta["refit_nll"]) == 5
    assert found.meta["refit_nll"][-1] < found.meta["refit_nll"][0]
    for name, mask in found.masks.items():
        assert not found.model.get_parameter(name)[~mask].any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"kl_weight": -1.0}, "kl_weight must be positive"),
        ({"warm_up": 2.0}, "warm_up is a share"),
        ({"learning_rate": float("nan"), "noise_every": 0}, "noise_every.*learning_rate"),
    ],
)
def test_settings_out_of_range_are_refused_together(change, says) -> None:
    with pytest.raises(InputError, match=says):
        SparseVDConfig(**change)
