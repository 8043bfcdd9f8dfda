"""The flat program: bound arguments, inlined regions, dead code, aliases and in-place writes."""

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import TraceError
from probcomp.structure.export import export_program
from probcomp.structure.ir import canonical_names, dependencies, live_nodes


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.twin = nn.Linear(4, 4), nn.Linear(4, 4)
        self.twin.weight = self.first.weight
        self.register_buffer("shift", torch.ones(4), persistent=False)
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            offset = self.shift * 2 + torch.tensor([1.0, 2.0, 3.0, 4.0])
        self.idle(x)  # dead
        y = self.first(x)
        y = self.first(y)
        buffer = x.new_zeros(x.shape[0], 8)
        buffer[:, :4] = y
        buffer[:, 4:] = self.twin(x)
        return buffer.sum(1, keepdim=True) + offset


@pytest.fixture(scope="module")
def program():
    model = Mixed()
    return export_program(model, (torch.randn(2, 4),))[0]


def test_regions_are_inlined_and_dead_code_is_gone(program) -> None:
    ops = [i.op for i in program.instrs]
    assert not any("wrap_with" in op or "assert" in op for op in ops)
    assert ops.count("linear") == 3
    assert "idle.weight" not in program.holders
    assert ops.count("mul") == 1


def test_holders_have_canonical_names(program) -> None:
    assert {"first.weight", "first.bias", "twin.bias", "shift"} <= set(program.holders)
    assert "twin.weight" not in program.holders
    assert program.aliases["twin.weight"] == "first.weight"
    ((name, value),) = program.constants.items()
    assert name in program.holders
    assert value.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_calls_and_orders_tell_repeated_calls_apart(program) -> None:
    first = [i for i in program.instrs if i.op == "linear" and i.module == "first"]
    assert len({i.call for i in first}) == 2
    assert [i.order for i in first] == [0, 0]
    top = [i for i in program.instrs if i.op == "copy_" and i.module == ""]
    assert [i.order for i in top] == [0, 1]


def test_arguments_are_bound_by_schema_name(program) -> None:
    total = next(i for i in program.instrs if i.op == "sum")
    assert list(total.arguments["dim"]) == [1]
    assert total.arguments["keepdim"] is True
    assert total.arguments["dtype"] is None  # a default
    assert total.shape == (2, 1)


def test_in_place_writes_are_read_through_aliases(program) -> None:
    nodes = [i.node for i in program.instrs]
    depends = dependencies(nodes)
    writes = [i.index for i in program.instrs if i.op == "copy_"]
    total = next(i.index for i in program.instrs if i.op == "sum")
    assert set(writes) <= depends[total]
    assert all(i.node in live_nodes(nodes) for i in program.instrs)
    assert all(program.instrs[w].writes for w in writes)


def test_every_name_has_one_canonical_name() -> None:
    names = canonical_names(Mixed())
    assert names["twin.weight"] == names["first.weight"] == "first.weight"
    assert names["shift"] == "shift"


def test_control_flow_is_refused_in_words() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))

    with pytest.raises(TraceError, match="control flow"):
        export_program(Branching(), (torch.randn(2, 4),))


def test_autocast_inside_is_refused() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.map(x)

    with pytest.raises(TraceError, match="autocast"):
        export_program(Casting(), (torch.randn(2, 4),))
