"""Every family of operator rules on micro-models: the axes that are found, and that cuts are exact.

Each case names the free axes it expects as sorted ``(kind, size)`` pairs, counted by hand.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probcomp.structure import Structure, trace
from probcomp.structure.rules.base import RULES, rule

from .cutting import check_axes, free

Forward = Callable[["Micro", Tensor], Tensor]


class Micro(nn.Module):
    """Parameters by shape, and a forward written as a lambda."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], forward: Forward) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        for name, shape in shapes.items():
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            setattr(self, name, nn.Parameter(value / max(shape[-1], 1) ** 0.5))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@dataclass(frozen=True)
class Case:
    name: str
    shapes: dict[str, tuple[int, ...]]
    forward: Forward
    expect: list[tuple[str, int]]
    input: tuple[int, ...] = (2, 7)

    def build(self) -> tuple[Micro, Structure, Tensor]:
        model = Micro(self.shapes, self.forward)
        x = torch.randn(self.input, generator=torch.Generator().manual_seed(2)).double()
        return model, trace(model, (x,)), x


def _softmax_rows(z: Tensor) -> Tensor:
    return torch.softmax(z, -1)


def _attend(m: Micro, x: Tensor, fused: bool) -> Tensor:
    """Two key-value heads of width 4, each serving three query heads."""
    b, t, _ = x.shape
    q = (x @ m.q).view(b, t, 6, 4).transpose(1, 2)
    k = (x @ m.k).view(b, t, 2, 4).transpose(1, 2)
    v = (x @ m.v).view(b, t, 2, 5).transpose(1, 2)
    if fused:
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    else:
        k, v = (z.repeat_interleave(3, 1) for z in (k, v))
        y = _softmax_rows(q @ k.transpose(-1, -2) / 2) @ v
    return y.transpose(1, 2).reshape(b, t, 30) @ m.o


def _written(m: Micro, x: Tensor) -> Tensor:
    """Two results are written into one buffer through views."""
    k = x.new_empty(x.shape[0], 11)
    k[:, :6] = x @ m.a
    k[:, 6:] = x @ m.b
    return torch.tanh(k) @ m.o


def _pick_experts(m: Micro, x: Tensor) -> Tensor:
    """Dense mixture: top-2 of five experts by a scattered gate."""
    scores = torch.softmax(x @ m.router, -1)
    best, chosen = scores.topk(2, -1)
    gates = torch.zeros_like(scores).scatter(-1, chosen, best)
    hidden = torch.tanh(torch.einsum("bi,eih->beh", x, m.up))
    return torch.einsum("be,beh,eho->bo", gates, hidden, m.down)


CASES = [
    # Products
    Case("linear", {"w": (9, 7), "b": (9,), "o": (4, 9)},
         lambda m, x: F.linear(torch.relu(F.linear(x, m.w, m.b)), m.o), [("neuron", 9)]),
    Case("addmm", {"w": (7, 9), "b": (9,), "o": (9, 4)},
         lambda m, x: torch.tanh(torch.addmm(m.b, x, m.w)) @ m.o, [("neuron", 9)]),
    Case("bmm", {"w": (3, 7, 9), "o": (3, 9, 4)},
         lambda m, x: torch.bmm(torch.relu(torch.bmm(x.expand(3, 2, 7), m.w)), m.o).sum(0),
         [("neuron", 3), ("neuron", 9)]),
    Case("einsum", {"w": (7, 3, 5), "o": (3, 5, 4)},
         lambda m, x: torch.einsum("bhd,hdo->bo", torch.einsum("bi,ihd->bhd", x, m.w), m.o),
         [("neuron", 3), ("neuron", 5)]),
    Case("einsum_dots", {"w": (7, 9), "o": (9, 4)},
         lambda m, x: torch.einsum("...h,ho->...o", torch.einsum("...i,ih->...h", x, m.w), m.o),
         [("neuron", 9)], (2, 3, 7)),
    Case("mv", {"w": (9, 7), "v": (9,)},
         lambda m, x: torch.mv(torch.tanh(x @ m.w.t()), m.v), [("neuron", 9)]),
    Case("two_layer_norms_of_weights", {"v": (9, 7), "g": (9, 1), "o": (4, 9)},
         lambda m, x: torch.tanh(x @ torch._weight_norm(m.v, m.g, 0).t()) @ m.o.t(),
         [("neuron", 9)]),
    # Attention
    Case("grouped_attention", {"q": (7, 24), "k": (7, 8), "v": (7, 10), "o": (30, 4)},
         lambda m, x: _attend(m, x, False),
         [("head_dim", 4), ("head_dim", 5), ("kv_group", 2), ("query_in_group", 3)], (2, 5, 7)),
    Case("fused_grouped_attention", {"q": (7, 24), "k": (7, 8), "v": (7, 10), "o": (30, 4)},
         lambda m, x: _attend(m, x, True),
         [("head_dim", 4), ("head_dim", 5), ("kv_group", 2), ("query_in_group", 3)], (2, 5, 7)),
    # Shapes
    Case("interleaved", {"w": (7, 18), "o": (6, 4)},
         lambda m, x: (lambda q: (q[:, 0] * torch.tanh(q[:, 1]) + q[:, 2]) @ m.o)(
             (x @ m.w).view(-1, 3, 6)), [("neuron", 6)]),
    Case("interleaved_last", {"w": (7, 18), "o": (6, 4)},
         lambda m, x: (lambda q: (q[0] * q[1] + q[2]) @ m.o)((x @ m.w).view(-1, 6, 3).unbind(-1)),
         [("neuron", 6)]),
    Case("permute_flatten", {"w": (7, 12), "o": (12, 4)},
         lambda m, x: (x @ m.w).view(-1, 3, 4).permute(0, 2, 1).flatten(1) @ m.o,
         [("neuron", 3), ("neuron", 4)]),
    Case("unflatten_movedim", {"w": (7, 12), "o": (3, 4)},
         lambda m, x: torch.movedim((x @ m.w).unflatten(1, (3, 4)), 2, 0).sum(0) @ m.o,
         [("neuron", 3), ("neuron", 4)]),
    Case("repeat", {"w": (7, 5), "o": (15, 4)},
         lambda m, x: torch.tanh((x @ m.w).repeat(1, 3)) @ m.o, [("neuron", 3), ("neuron", 5)]),
    Case("complex", {"w": (7, 12), "f": (6,), "o": (12, 4)},
         lambda m, x: torch.view_as_real(
             torch.view_as_complex((x @ m.w).view(-1, 6, 2)) * torch.polar(m.f.abs(), m.f)
         ).flatten(1) @ m.o, [("neuron", 6)]),
    # Segments
    Case("cat", {"a": (7, 3), "b": (7, 5), "o": (8, 4)},
         lambda m, x: torch.relu(torch.cat([x @ m.a, x @ m.b], -1)) @ m.o,
         [("neuron", 3), ("neuron", 5)]),
    Case("stack", {"a": (7, 5), "b": (7, 5), "o": (10, 4)},
         lambda m, x: torch.stack([x @ m.a, x @ m.b], -1).flatten(1) @ m.o, [("neuron", 5)]),
    Case("chunk_gate", {"w": (7, 12), "o": (6, 4)},
         lambda m, x: (lambda p: F.silu(p[0]) * p[1])((x @ m.w).chunk(2, -1)) @ m.o,
         [("neuron", 6)]),
    Case("unequal_halves", {"w": (7, 12), "o": (6, 4), "p": (6, 4)},
         lambda m, x: (lambda p: p[0] @ m.o + torch.tanh(p[1]) @ m.p)((x @ m.w).chunk(2, -1)),
         [("neuron", 6), ("neuron", 6)]),
    Case("split_sizes", {"w": (7, 12), "o": (5, 4), "p": (7, 4)},
         lambda m, x: (lambda p: p[0] @ m.o + p[1] @ m.p)((x @ m.w).split([5, 7], -1)),
         [("neuron", 5), ("neuron", 7)]),
    Case("slice", {"w": (7, 12), "o": (5, 4)},
         lambda m, x: (lambda z: torch.relu(z[:, 3:8]) @ m.o + z.sum(1, keepdim=True))(x @ m.w),
         [("neuron", 3), ("neuron", 4), ("neuron", 5)]),
    Case("slice_negative", {"w": (7, 12), "o": (5, 4)},
         lambda m, x: (lambda z: torch.relu(z[:, -5:]) @ m.o + z.sum(1, keepdim=True))(x @ m.w),
         [("neuron", 5), ("neuron", 7)]),
    Case("strided_rotary", {"w": (7, 12), "o": (12, 4)},
         lambda m, x: (lambda z: torch.stack([-z[:, 1::2], z[:, ::2]], -1).flatten(1) @ m.o)(
             x @ m.w), [("neuron", 6)]),
    Case("rotate_half", {"w": (7, 12), "o": (12, 4)},
         lambda m, x: (lambda z: (z + torch.cat([-z[:, 6:], z[:, :6]], -1)) @ m.o)(x @ m.w),
         [("neuron", 6)]),
    Case("pad", {"w": (7, 5), "o": (8, 4)},
         lambda m, x: F.pad(torch.tanh(x @ m.w), (1, 2), value=3.0) @ m.o, [("neuron", 5)]),
    Case("glu", {"w": (7, 12), "o": (6, 4)},
         lambda m, x: F.glu(x @ m.w, -1) @ m.o, [("neuron", 6)]),
    Case("written_views", {"a": (7, 6), "b": (7, 5), "o": (11, 4)}, _written,
         [("neuron", 5), ("neuron", 6)]),
    # Norms and statistics
    Case("layer_norm", {"w": (9, 7), "g": (9,), "b": (9,), "o": (4, 9)},
         lambda m, x: F.layer_norm(x @ m.w.t(), (9,), m.g, m.b) @ m.o.t(), [("neuron", 9)]),
    Case("norm_by_hand", {"w": (9, 7), "o": (4, 9)},
         lambda m, x: (lambda z: z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6))(
             x @ m.w.t()) @ m.o.t(), [("neuron", 9)]),
    Case("euclidean_norm", {"w": (9, 7), "o": (4, 9)},
         lambda m, x: F.normalize(x @ m.w.t(), dim=-1) @ m.o.t(), [("neuron", 9)]),
    Case("group_norm", {"w": (12, 7, 1), "g": (12,), "b": (12,), "o": (4, 12, 1)},
         lambda m, x: F.conv1d(F.group_norm(F.conv1d(x, m.w), 3, m.g, m.b), m.o),
         [("channel", 3), ("channel", 4)], (2, 7, 5)),
    Case("softmax", {"w": (9, 7), "o": (4, 9)},
         lambda m, x: torch.softmax(x @ m.w.t(), -1) @ m.o.t(), [("neuron", 9)]),
    # Convolutions
    Case("conv2d", {"w": (9, 3, 3, 3), "b": (9,), "o": (4, 9)},
         lambda m, x: torch.relu(F.conv2d(x, m.w, m.b)).mean((2, 3)) @ m.o.t(),
         [("channel", 9)], (2, 3, 5, 6)),
    Case("depthwise", {"w": (9, 3, 1, 1), "d": (9, 1, 3, 3), "o": (4, 9)},
         lambda m, x: F.conv2d(F.conv2d(x, m.w), m.d, groups=9).amax((2, 3)) @ m.o.t(),
         [("channel", 9)], (2, 3, 5, 6)),
    Case("grouped", {"w": (12, 3, 1), "d": (6, 4, 1), "o": (4, 6, 1)},
         lambda m, x: F.conv1d(F.conv1d(F.conv1d(x, m.w), m.d, groups=3), m.o),
         [("channel", 2), ("channel", 3), ("channel", 4)], (2, 3, 5)),
    Case("transposed", {"w": (3, 9, 2, 2), "d": (9, 2, 2, 2), "o": (4, 6, 1, 1)},
         lambda m, x: F.conv2d(
             F.conv_transpose2d(F.conv_transpose2d(x, m.w), m.d, groups=3), m.o),
         [("channel", 2), ("channel", 3), ("channel", 3)], (2, 3, 4, 5)),
    Case("pooling", {"w": (9, 3, 3), "o": (4, 18)},
         lambda m, x: F.adaptive_avg_pool1d(F.max_pool1d(F.conv1d(x, m.w), 2), 2).flatten(1)
         @ m.o.t(), [("channel", 9)], (2, 3, 11)),
    Case("upsample", {"w": (9, 3, 1, 1), "o": (4, 9, 1, 1)},
         lambda m, x: F.conv2d(F.interpolate(F.conv2d(x, m.w), scale_factor=2), m.o),
         [("channel", 9)], (2, 3, 4, 5)),
    Case("pixel_shuffle", {"w": (12, 3, 1, 1), "o": (4, 3, 1, 1)},
         lambda m, x: F.conv2d(F.pixel_shuffle(F.conv2d(x, m.w), 2), m.o),
         [("channel", 3)], (2, 3, 4, 5)),
    Case("prelu", {"w": (9, 3, 1), "p": (9,), "o": (4, 9, 1)},
         lambda m, x: F.conv1d(F.prelu(F.conv1d(x, m.w), m.p), m.o), [("channel", 9)], (2, 3, 5)),
    # Generators and lookups
    Case("positions", {"w": (7, 9), "o": (9, 4)},
         lambda m, x: torch.tanh(x @ m.w) * torch.arange(1, 10) @ m.o, [("neuron", 9)]),
    Case("made_sizes", {"w": (7, 9), "o": (9, 4)},
         lambda m, x: (x @ m.w + x.new_zeros(2, 9) * torch.ones(9, dtype=x.dtype)) @ m.o,
         [("neuron", 9)]),
    Case("experts", {"router": (7, 5), "up": (5, 7, 6), "down": (5, 6, 4)}, _pick_experts,
         [("expert", 5), ("neuron", 6)]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_axes_and_cuts(case: Case) -> None:
    model, structure, x = case.build()
    assert sorted((a.kind, a.size) for a in free(structure)) == sorted(case.expect)
    assert not structure.typing.unknown
    check_axes(structure, model, (x,))


INEXACT = {"layer_norm", "norm_by_hand", "group_norm", "softmax", "experts"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_statistics_are_inexact(case: Case) -> None:
    _, structure, _ = case.build()
    reasons = [a.inexact_because for a in free(structure) if not a.exact]
    assert bool(reasons) == (case.name in INEXACT)


def test_unknown_operator_blocks_only_what_it_touches() -> None:
    def forward(m: Micro, x: Tensor) -> Tensor:
        touched = torch.linalg.matrix_exp((x @ m.a)[:, :, None] * (x @ m.b)[:, None, :])
        return touched.sum((1, 2))[:, None] + torch.tanh(x @ m.free) @ m.out

    shapes = {"a": (7, 5), "b": (7, 5), "free": (7, 9), "out": (9, 4)}
    structure = trace(Micro(shapes, forward), (torch.randn(2, 7).double(),))
    assert [(a.kind, a.size) for a in free(structure)] == [("neuron", 9)]
    reason = next(
        a.blocked for a in structure.axes if a.members[0].parameter == "a" and a.size == 5
    )
    assert "matrix_exp" in reason
    assert "the top module" in reason


def test_recurrent_layers() -> None:
    torch.manual_seed(0)
    for layer in (nn.LSTM(6, 5, batch_first=True), nn.GRU(6, 5, 2, batch_first=True)):
        model = nn.ModuleDict({"rnn": layer.double(), "head": nn.Linear(5, 3).double()})

        class Last(nn.Module):
            def __init__(self, parts: nn.ModuleDict) -> None:
                super().__init__()
                self.parts = parts

            def forward(self, x: Tensor) -> Tensor:
                return self.parts["head"](self.parts["rnn"](x)[0][:, -1])

        last = Last(model)
        x = torch.randn(2, 4, 6).double()
        structure = trace(last, (x,), dynamic=False)
        assert [(a.kind, a.size) for a in free(structure)] == [("neuron", 5)]


def test_a_rule_is_registered_once() -> None:
    with pytest.raises(ValueError, match="two rules for operator 'linear'"):
        rule("linear")(RULES["linear"])
