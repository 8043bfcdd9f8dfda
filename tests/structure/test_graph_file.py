"""A cut graph as data: the same outputs, and nothing is called that is not an operator."""

import json

import pytest
import torch
from torch import fx, nn

from probcomp.errors import InputError
from probcomp.structure import cut_graph, trace
from probcomp.structure.graph_file import read, write
from tests.structure.nets import LeNet5

X = torch.randn(3, 1, 28, 28)


@pytest.fixture(scope="module")
def written() -> tuple[fx.GraphModule, dict, dict]:
    torch.manual_seed(0)
    model = LeNet5().eval()
    structure = trace(model, (X[:2],))
    cut = cut_graph(structure, model, {"conv1.channel": torch.arange(6) % 2 == 0})
    description, tensors = write(cut)
    return cut, json.loads(json.dumps(description)), tensors


def test_outputs_come_back(written) -> None:
    cut, description, tensors = written
    back = read(description, tensors, "here")
    assert torch.equal(back(X), cut(X))
    assert torch.equal(back(X[:1]), cut(X[:1]))
    assert [n for n, _ in back.named_parameters()] == [n for n, _ in cut.named_parameters()]
    assert back.training == cut.training


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"python": "os:system"}, "not allowed"),
        ({"operator": "aten::no_such_thing", "overload": "default"}, "no_such_thing"),
        ({"record": "subprocess:Popen"}, "no class of results"),
    ],
)
def test_calls_that_are_no_operators_are_refused(written, target, words) -> None:
    _, description, tensors = written
    nodes = [
        {**node, "target": target} if node["kind"] == "call_function" else node
        for node in description["nodes"]
    ]
    with pytest.raises(InputError, match=words):
        read({**description, "nodes": nodes}, tensors, "here")


def test_a_malformed_description_is_told(written) -> None:
    _, description, tensors = written
    with pytest.raises(InputError, match="here: malformed description of the graph"):
        read({**description, "nodes": [{"kind": "output"}]}, tensors, "here")
    with pytest.raises(InputError, match="is missing"):
        read(description, {}, "here")


def test_graphs_that_call_modules_cannot_be_written() -> None:
    with pytest.raises(InputError, match="is a call_module"):
        write(fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2))))
