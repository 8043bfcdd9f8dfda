"""Decided calls: taken again while all that they rest on stands, and never when it does not."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from probcomp.errors import InputError
from probcomp.kernels import MaskedLinear, dispatch, linear, masked_linear, pack, quantise, ready
from tests.kernels.supports import block_support, generator, relative_error
from tests.kernels.test_nm import nm_support

FLOAT32 = 2e-6


def packed_of(format: str, bias: bool = True, density: float = 0.4):
    weight = torch.randn(48, 64, generator=generator(0))
    support = block_support((48, 64), (16, 16), density, 1)
    support[:16] = False  # a dead block row, for the compact format to leave out
    if format == "nm":
        support = nm_support(48, 64, 2, 4, seed=1)
    added = torch.randn(48, generator=generator(2)) if bias else None
    kind = "blocks" if format == "int8" else format
    packed = pack(weight, support, block=(16, 16), format=kind, bias=added)
    return quantise(packed) if format == "int8" else packed


@pytest.fixture
def decisions(monkeypatch):
    """Counts how often a call is decided."""
    seen, real = [], linear._decide
    monkeypatch.setattr(linear, "_decide", lambda *a: seen.append(1) or real(*a))
    return seen


def expected(x, packed, activation=torch.nn.functional.gelu):
    y = x.double() @ packed.dense().double().T
    return activation(y if packed.bias is None else y + packed.bias.double())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("format", ["dense", "compact", "blocks", "int8", "runs", "nm"])
def test_a_second_call_is_not_decided_again_and_is_the_same(format, bias, decisions) -> None:
    packed = packed_of(format, bias)
    for shape in ((5, 64), (2, 3, 64), (64,)):
        x = torch.randn(*shape, generator=generator(3))
        first = masked_linear(x, packed, activation="gelu")
        assert relative_error(first, expected(x, packed)) < FLOAT32
        made = len(decisions)
        again = masked_linear(x, packed, activation="gelu")
        assert len(decisions) == made
        assert torch.equal(first, again)
        assert again.shape == (*shape[:-1], 48)


def test_batches_share_a_call_up_to_a_power_of_two(decisions) -> None:
    packed = packed_of("blocks")
    for rows in (9, 16, 12):
        masked_linear(torch.ones(rows, 64), packed)
    assert len(decisions) == 1
    masked_linear(torch.ones(17, 64), packed)
    assert len(decisions) == 2
    assert [ready.shared_rows(rows) for rows in (0, 1, 2, 3, 16, 17, 1024, 1025)] == [
        0, 1, 2, 4, 16, 32, 1024, 2048,
    ]  # fmt: skip
    # A batch of no bucket of the dispatcher shares a call with one of another.
    for rows in range(1, 1100):
        assert dispatch.m_bucket(rows) == dispatch.m_bucket(ready.shared_rows(rows))


@pytest.mark.parametrize("format", ["compact", "blocks"])
def test_a_write_other_memory_or_another_parameter_is_seen(format: str) -> None:
    layer = MaskedLinear(packed_of(format)).eval()
    x = torch.randn(5, 64, generator=generator(3))
    value = layer._parameters[layer.kind.value_name]

    def check() -> None:
        for _ in range(2):
            assert relative_error(layer(x), expected(x, layer.packed(), lambda y: y)) < FLOAT32

    with torch.no_grad():
        check()
        value.mul_(2.0)
        check()
        value.data = value.data * 3.0
        check()
        layer.bias.add_(1.0)
        check()
        layer.bias.data = layer.bias.data - 4.0
        check()
        layer.bias = nn.Parameter(torch.arange(48.0))
        check()
        setattr(layer, layer.kind.value_name, nn.Parameter(torch.ones_like(value)))
        check()


@pytest.mark.parametrize("format", ["dense", "compact", "blocks"])
@pytest.mark.parametrize("size", [48, 1024])
def test_memory_that_was_given_away_and_back_is_not_taken_for_the_same(format, size) -> None:
    """Two replacements in a row: the second may lie where the first value did."""
    weight = torch.randn(size, 1024, generator=generator(0)) / 32
    support = block_support((size, 1024), (16, 16), 0.4, 1)
    layer = MaskedLinear(pack(weight, support, block=(16, 16), format=format)).eval()
    value = layer._parameters[layer.kind.value_name]
    x = torch.randn(5, 1024, generator=generator(3))
    with torch.no_grad():
        before = layer(x)
        for factor in (4, 16, 64):
            value.data = value.data * 2
            value.data = value.data * 2
            assert relative_error(layer(x), factor * before.double()) < FLOAT32


@pytest.mark.parametrize("backend", ["dense", "gather"])
def test_a_write_to_the_scale_of_int8_blocks_is_seen(backend: str) -> None:
    packed, x = packed_of("int8", bias=False), torch.randn(5, 64, generator=generator(3))
    first = masked_linear(x, packed, backend=backend)
    assert torch.equal(masked_linear(x, packed, backend=backend), first)
    packed.scale.mul_(2)
    assert relative_error(masked_linear(x, packed, backend=backend), 2 * first.double()) < FLOAT32


def test_what_looks_on_and_what_learns_takes_the_operator(decisions) -> None:
    packed = packed_of("blocks")
    x = torch.randn(5, 64, generator=generator(3))
    want = masked_linear(x, packed)
    assert len(packed.calls) == 1
    with FlopCounterMode(display=False) as counter:
        masked_linear(x, packed)
    assert counter.get_total_flops() == 2 * 5 * packed.stored
    learnt = x.clone().requires_grad_()
    masked_linear(learnt, packed).sum().backward()
    assert relative_error(learnt.grad, packed.dense().double().sum(0).expand(5, 64)) < FLOAT32
    with torch.no_grad():
        assert not masked_linear(learnt, packed).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert masked_linear(x, packed).dtype == torch.bfloat16
    made = len(decisions)
    assert torch.equal(masked_linear(x, packed), want)
    assert len(decisions) == made


def test_autocast_decides_once_and_apart_from_the_rest(decisions) -> None:
    packed, x = packed_of("blocks"), torch.randn(5, 64, generator=generator(3))
    for _ in range(2):
        masked_linear(x, packed)
        with torch.autocast("cpu", torch.bfloat16):
            masked_linear(x, packed)
    assert len(decisions) == 2


def test_a_cast_copy_that_inference_made_takes_part_in_a_backward_pass() -> None:
    packed, x = packed_of("blocks"), torch.randn(5, 64, generator=generator(3))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        masked_linear(x, packed)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        masked_linear(x, packed).sum().backward()
    assert relative_error(x.grad, packed.dense().double().sum(0).expand(5, 64)) < 2e-2


def test_a_layer_that_trains_after_inference_gets_its_gradient() -> None:
    layer = MaskedLinear(packed_of("blocks"))
    x = torch.randn(5, 64, generator=generator(3))
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.val.grad is not None
    assert layer.bias.grad.eq(5).all()


def test_threads_determinism_and_new_choices_decide_anew(decisions) -> None:
    packed, x = packed_of("blocks"), torch.ones(5, 64)
    threads = torch.get_num_threads()
    try:
        masked_linear(x, packed)
        torch.set_num_threads(threads + 1)
        masked_linear(x, packed)
        assert len(decisions) == 2
    finally:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        masked_linear(x, packed)
        assert len(decisions) == 3
    finally:
        torch.use_deterministic_algorithms(False)
    masked_linear(x, packed)
    assert len(decisions) == 3
    dispatch.forget_choices()
    masked_linear(x, packed)
    assert len(decisions) == 4
    assert len(packed.calls) == 1  # what was decided before is not kept beside it


def test_a_decided_call_refuses_what_the_first_would() -> None:
    packed = packed_of("blocks")
    masked_linear(torch.ones(5, 64), packed)
    for wrong in (
        torch.ones(5, 63), torch.ones(10, 32), torch.ones(5, 64, dtype=torch.float64),
        torch.tensor(1.0), torch.ones(5, 64, device="meta"),
    ):  # fmt: skip
        with pytest.raises(InputError):
            masked_linear(wrong, packed)
    assert masked_linear(torch.ones(0, 64), packed).shape == (0, 48)


def test_copies_and_pickles_decide_for_themselves() -> None:
    packed, x = packed_of("blocks"), torch.ones(5, 64)
    layer = MaskedLinear(packed).eval()
    with torch.no_grad():
        masked_linear(x, packed), layer(x)
        assert packed.calls
        assert layer._calls
        for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), packed.to("cpu")):
            assert not other.calls
            assert torch.equal(masked_linear(x, other), masked_linear(x, packed))
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert not twin._calls
            twin.val.mul_(2.0)
            change = twin(x) - layer(x)
            assert relative_error(change, (layer(x) - layer.bias).double()) < 1e-5
            assert change.norm() > 1.0
