"""Which modules are chains: read from what forward does, not from what the module holds."""

import torch
from torch import nn
from torch.nn import functional

from probcomp.kernels.chain_trace import Steps, trace_steps
from probcomp.models import LeNet300100


class Mlp(nn.Module):
    def __init__(self, forward) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 4)
        self._run = forward

    def forward(self, x):
        return self._run(self, x)


def steps_of(forward):
    return trace_steps(Mlp(forward))


def test_a_class_with_its_own_forward_is_read() -> None:
    steps = trace_steps(LeNet300100(64))
    assert steps == Steps((("fc1", "relu"), ("fc2", "relu"), ("fc3", "none")), True)


def test_every_activation_is_told_by_module_and_by_function() -> None:
    both = [
        (nn.ReLU(), functional.relu, "relu"),
        (nn.SiLU(), functional.silu, "silu"),
        (nn.GELU(), functional.gelu, "gelu"),
        (
            nn.GELU(approximate="tanh"),
            lambda h: functional.gelu(h, approximate="tanh"),
            "gelu_tanh",
        ),
    ]
    for module, function, name in both:
        by_module = trace_steps(nn.Sequential(nn.Linear(4, 4), module, nn.Linear(4, 4)))
        by_function = steps_of(lambda m, x, act=function: m.b(act(m.a(x))))
        assert by_module is not None
        assert by_function is not None
        assert by_module.layers[0][1] == by_function.layers[0][1] == name


def test_dropout_identity_and_flatten_pass() -> None:
    chain = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU(), nn.Identity(), nn.Linear(4, 2)
    )
    assert trace_steps(chain) == Steps((("1", "relu"), ("5", "none")), True)
    assert chain.training  # tracing in eval mode leaves no trace


def test_what_is_not_a_chain_is_left_alone() -> None:
    assert steps_of(lambda m, x: m.b(m.a(x)) + 1.0) is None
    assert steps_of(lambda m, x: m.b(torch.relu(m.a(x) + 1.0))) is None
    assert steps_of(lambda m, x: (m.a(x), m.b(m.a(x)))) is None
    assert steps_of(lambda m, x: m.b(torch.tanh(m.a(x)))) is None
    assert steps_of(lambda m, x: m.b(m.a(x)) if x.sum() > 0 else x) is None
    assert steps_of(lambda m, x: m.b(m.a(x).flatten(1))) is None  # only the input is flattened
    assert steps_of(lambda m, x: m.a(x)) is None
    skip = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    skip.forward = lambda x: skip[1](h := skip[0](x)) + h  # type: ignore[method-assign]
    assert trace_steps(skip) is None
    assert trace_steps(nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 4))) is None
    nested = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4), nn.Linear(4, 4))
    assert trace_steps(nested) is None


def test_two_activations_in_a_row_are_no_chain() -> None:
    assert (
        trace_steps(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.GELU(), nn.Linear(4, 4))) is None
    )
