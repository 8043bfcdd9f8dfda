"""Order parameters against closed forms."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from probcomp.errors import DivergenceError, InputError
from probcomp.regime.landscape import (
    agreement,
    cka,
    classification_error,
    jensen_shannon,
    linear_connectivity,
    logit_cosine,
    outputs_of,
)
from probcomp.regime.landscape import refresh_batch_norm as refresh


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(70, 4, generator=generator)
    y = (x[:, 0] > 3).long()
    return [(x[:32], y[:32]), (x[32:64], y[32:64]), (x[64:], y[64:])]


def test_cka_forms_agree_with_the_definition():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=generator), torch.randn(40, 3, generator=generator)
    centre = np.eye(40) - 1 / 40
    k, m = (centre @ (v.double() @ v.double().T).numpy() @ centre for v in (x, y))
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert cka(x, y) == pytest.approx(expected, abs=1e-10)
    assert cka(x, y, form="gram") == pytest.approx(expected, abs=1e-10)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    assert cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-6)


def test_agreement_counts_equal_predictions():
    x = torch.eye(4)
    assert agreement(x, x[[0, 1, 3, 2]]) == 0.5


def test_divergence_of_predictions_in_closed_form():
    p, q = 0.9, 0.3
    x, y = (torch.tensor([[np.log(v), np.log(1 - v)]]) + 5 for v in (p, q))  # a constant is nothing

    def entropy(v):
        return -v * np.log(v) - (1 - v) * np.log(1 - v)

    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert jensen_shannon(x, y) == pytest.approx(expected, abs=1e-12)
    assert jensen_shannon(y, x) == pytest.approx(expected, abs=1e-12)
    assert jensen_shannon(x, x) == pytest.approx(0, abs=1e-12)
    # Averaged over samples; sure of different classes, ln 2, also where a probability underflows.
    sure = torch.tensor([[1e4, 0.0]])
    both = jensen_shannon(torch.cat([x, sure]), torch.cat([y, sure.flip(1)]))
    assert both == pytest.approx((expected + np.log(2)) / 2, abs=1e-12)


def test_cosine_of_logits_in_closed_form():
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    y = torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert logit_cosine(x, y) == pytest.approx((24 / 25 - 1) / 2, abs=1e-12)
    assert logit_cosine(x, 7 * x) == pytest.approx(1, abs=1e-12)
    with pytest.raises(InputError, match="all zero"):
        logit_cosine(x, torch.zeros(2, 2))


@pytest.mark.parametrize("measure", [agreement, jensen_shannon, logit_cosine])
def test_logits_that_do_not_match_are_refused(measure):
    with pytest.raises(InputError, match="must match"):
        measure(torch.ones(2, 3), torch.ones(2, 4))
    for empty in (torch.ones(0, 3), torch.ones(2, 0), torch.ones(3)):
        with pytest.raises(InputError, match=r"need \[samples, classes\]"):
            measure(empty, empty)
    lost = torch.tensor([[1.0, float("nan")]])
    for pair in ((lost, torch.ones(1, 2)), (torch.ones(1, 2), lost)):
        with pytest.raises(InputError, match="NaN"):
            measure(*pair)


def test_a_network_is_connected_to_itself(batches):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    mc, errors = linear_connectivity(model, model, batches)
    assert mc == 0
    assert np.ptp(errors) == 0


def test_a_barrier_is_negative_and_has_the_right_height(batches):
    # Two units in swapped order: the ends classify perfectly, the middle gives no difference.
    first = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        for p in first.parameters():
            p.zero_()
        first[0].weight[:, 0] = torch.tensor([-1.0, 1.0])
        first[0].bias[:] = torch.tensor([3.0, -3.0])
        first[2].weight[:] = torch.eye(2)
    second = copy.deepcopy(first)
    with torch.no_grad():
        second[0].weight[:] = first[0].weight.flip(0)
        second[0].bias[:] = first[0].bias.flip(0)
        second[2].weight[:] = first[2].weight.flip(1)
    mc, errors = linear_connectivity(first, second, batches)
    ones = float(torch.cat([y for _, y in batches]).double().mean())
    assert errors[0] == errors[-1] == 0
    # At the middle both logits are equal and argmax says class 0: every one is wrong.
    assert mc == pytest.approx(-ones, abs=1e-12)
    assert mc == pytest.approx(-errors.max())


def test_batch_norm_statistics_are_those_of_the_data(batches):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].running_mean += 50.0
    refresh(model, batches)
    data = torch.cat([x for x, _ in batches])
    torch.testing.assert_close(model[0].running_mean, data.mean(0), atol=1e-5, rtol=0)
    assert model[0].momentum == 0.1
    assert not model[0].training


def test_connectivity_fails_without_the_estimation(batches):
    """Stale statistics at one end would spoil the whole path; they are not used."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
        model[1].weight[1, 0] = 1.0
    stale = copy.deepcopy(model)
    stale[0].running_mean += 50.0
    mc, errors = linear_connectivity(model, stale, batches)
    assert mc == 0
    stale.eval()
    data, labels = (torch.cat(parts) for parts in zip(*batches))
    assert float((stale(data).argmax(1) != labels).double().mean()) > errors.max() + 0.2


def test_outputs_are_logits_softmax_or_features(batches):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    data = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        hidden = model[1](model[0](data))
        logits = model[2](hidden)
    torch.testing.assert_close(outputs_of(model, batches), logits)
    torch.testing.assert_close(outputs_of(model, batches, "softmax"), logits.softmax(1))
    torch.testing.assert_close(outputs_of(model, batches, "1"), hidden)
    assert not model[1]._forward_hooks
    with pytest.raises(InputError, match="unknown layer"):
        outputs_of(model, batches, "9")
    with pytest.raises(InputError, match="no batch"):
        outputs_of(model, iter(()))


def test_bad_input_is_refused(batches):
    with pytest.raises(InputError):
        cka(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(InputError, match="same for every"):
        cka(torch.ones(3, 2), torch.rand(3, 2))
    with pytest.raises(InputError):
        agreement(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(InputError, match="differ"):
        linear_connectivity(nn.Linear(4, 2), nn.Linear(4, 3), batches)
    with pytest.raises(InputError, match="no batch"):
        linear_connectivity(nn.Linear(4, 2), nn.Linear(4, 2), iter(()))


def lost(model, value=float("nan")):
    """A copy with one weight that is not finite."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model[-1].weight[0, 0] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_has_diverged_is_not_connected_but_refused(batches, value):
    """Of NaN ``argmax`` says class 0 at every point of the path, which looks like no barrier."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2))
    for pair in ((model, lost(model, value)), (lost(model, value), model)):
        with pytest.raises(DivergenceError, match="network has diverged"):
            linear_connectivity(*pair, batches)
    with pytest.raises(DivergenceError, match="network has diverged"):
        classification_error(lost(model, value), batches)
    assert 0 <= classification_error(model, batches) <= 1


@pytest.mark.parametrize("form", ["feature", "gram"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_have_no_similarity(form, value):
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    bad = x.clone()
    bad[2, 1] = value
    for pair in ((x, bad), (bad, x)):
        with pytest.raises(InputError, match="network has diverged"):
            cka(*pair, form=form)


def test_a_loader_that_shuffles_is_refused(batches):
    """Two passes would give rows in two orders, and a network would not be like itself."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches)))
    by_batch = BatchSampler(RandomSampler(data), 8, drop_last=False)
    for shuffled in (
        DataLoader(data, 8, shuffle=True),
        DataLoader(data, batch_sampler=by_batch),
    ):
        with pytest.raises(InputError, match="shuffle=False"):
            outputs_of(model, shuffled)
    in_order = DataLoader(data, 8)
    assert cka(outputs_of(model, in_order), outputs_of(model, batches)) == pytest.approx(1)


class Said:
    """As networks of other libraries answer."""

    def __init__(self, logits):
        self.logits = logits


class Wrapped(nn.Module):
    """A network that returns an object."""

    def __init__(self, inner, wrap=Said):
        super().__init__()
        self.inner, self.wrap = inner, wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


def test_a_network_may_return_an_object_with_logits(batches):
    torch.manual_seed(0)
    plain = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2)]
    first, second = map(Wrapped, plain)
    assert torch.equal(outputs_of(first, batches), outputs_of(plain[0], batches))
    assert torch.equal(outputs_of(first, batches, "inner.1"), outputs_of(plain[0], batches, "1"))
    assert linear_connectivity(first, second, batches)[0] == linear_connectivity(*plain, batches)[0]
    for kind in ("logits", "softmax"):
        with pytest.raises(InputError, match="the network gives a tuple; a tensor is needed"):
            outputs_of(Wrapped(plain[0], lambda x: (x,)), batches, kind)
    nested = nn.Sequential(Wrapped(plain[0], lambda x: [x]), Picked())
    with pytest.raises(InputError, match="layer '0' gives a list"):
        outputs_of(nested, batches, "0")
    assert torch.equal(outputs_of(nested, batches), outputs_of(plain[0], batches))


class Picked(nn.Module):
    def forward(self, x):
        return x[0]


def test_outputs_leave_each_module_in_its_mode(batches):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    model[1].eval()
    first = outputs_of(model, batches)
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert torch.equal(first, outputs_of(model.eval(), batches))
    assert not any(m.training for m in model.modules())
    with pytest.raises(InputError, match="gives a tuple"):
        outputs_of(Wrapped(model.train(), lambda x: (x,)), batches)
    assert model.training
