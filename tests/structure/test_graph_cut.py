"""The cut graph: inputs, results, aliases, patched arguments, other sizes, training."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import InputError, SurgeryError
from probcomp.structure import cut_graph, new_arguments, trace

from .cutting import EXACT, check_axes, distance, run
from .zoo_holdout import ZOO


class Result(nn.Module):
    """An MLP whose result comes in the container ``kind`` asks for."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 3)
        self.double()

    def forward(self, x: Tensor, scale: Tensor | None = None):
        y = self.down(torch.relu(self.up(x)))
        y = y if scale is None else y * scale
        if self.kind is dict:
            return {"y": y, "more": [y + 1, None]}
        if self.kind is Answer:
            return Answer(y, None)
        return (y, y.sum()) if self.kind is tuple else y


@dataclasses.dataclass
class Answer:
    y: Tensor
    extra: Tensor | None


X = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).double()
KEEP = {"up.neuron": torch.arange(8) % 3 != 0}


@pytest.mark.parametrize("kind", [Tensor, tuple, dict, Answer])
def test_results_keep_their_form(kind: type) -> None:
    model = Result(kind)
    structure = trace(model, {"x": X, "scale": X[:, :3]})
    cut = cut_graph(structure, model, KEEP)
    got = cut(x=X, scale=X[:, :3])
    want = structure.silence(model, KEEP)(X, X[:, :3])
    assert type(got) is type(want)
    if kind is dict:
        assert got["more"][1] is None
        assert torch.allclose(got["more"][0], want["more"][0], rtol=EXACT)
    first = {Tensor: lambda r: r, tuple: lambda r: r[0], dict: lambda r: r["y"]}
    pick = first.get(kind, lambda r: r.y)
    assert torch.allclose(pick(got), pick(want), rtol=EXACT)


def test_selected_outputs() -> None:
    structure = trace(Result(dict), (X,), outputs=["y"])
    assert set(cut_graph(structure, Result(dict), {})(X)) == {"y"}


def test_other_sizes_and_batch_of_one() -> None:
    model = Result(Tensor)
    cut = cut_graph(trace(model, (X[:1],)), model, KEEP)
    assert cut(X.repeat(3, 1)).shape == (6, 3)
    with pytest.raises(InputError, match=r"x has shape \[2, 4\], the graph was traced for"):
        cut(X[:, :4])


def test_fixed_sizes_are_checked() -> None:
    model = Result(Tensor)
    structure = trace(model, (X,), dynamic=False)
    assert not structure.dynamic
    with pytest.raises(InputError, match="trace the model again"):
        cut_graph(structure, model, KEEP)(X.repeat(2, 1))


@pytest.mark.parametrize("name", ["gpt2", "phi3", "shufflenetv2", "t5"])
def test_second_sizes_of_whole_models(name: str) -> None:
    entry = ZOO[name]
    model = entry.build()
    model.eval()
    structure = trace(model, entry.inputs(*entry.first))
    assert structure.dynamic
    axis = max((a for a in structure.axes if not a.blocked and a.exact), key=lambda a: a.size)
    keep = {axis.name: torch.arange(axis.size) % 3 != 1}
    second = entry.inputs(*entry.second)
    error = distance(
        run(cut_graph(structure, model, keep), second), run(structure.silence(model, keep), second)
    )
    assert error < 1e-5  # float32


def test_heads_of_stacked_layers_that_share_the_size_of_batch_times_heads() -> None:
    """Torch's own attention computes that size once for all layers, of any number of heads."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2).double().eval()
    for parameter in model.parameters():  # copies of one layer otherwise
        nn.init.normal_(parameter, std=0.5)
    sizes = [torch.randn(batch, length, 8).double() for batch, length in ((2, 7), (3, 5))]
    structure = trace(model, (sizes[0],))
    assert [a.kind for a in structure.axes if not a.blocked].count("head") == 2
    check_axes(structure, model, *((x,) for x in sizes))


def test_weights_are_copies_and_tied_ones_stay_tied() -> None:
    entry = ZOO["tied"]
    model = entry.build().double()
    x = tuple(t.double() for t in entry.inputs(*entry.first))
    structure = trace(model, x)
    before = copy.deepcopy(model.state_dict())
    cut = cut_graph(structure, model, {})
    with torch.no_grad():
        for p in cut.parameters():
            p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "mix.weight" in dict(cut.named_parameters())
    assert "again.weight" not in dict(cut.named_parameters())
    check_axes(structure, model, x)


def test_it_trains() -> None:
    model = Result(Tensor)
    model.up.bias.requires_grad_(False)
    cut = cut_graph(trace(model, (X,)), model, KEEP)
    cut(X).sum().backward()
    assert cut.get_parameter("up.weight").grad.shape == (5, 5)
    assert cut.get_parameter("up.bias").grad is None


def test_new_arguments_name_what_changes() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(5, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x).view(x.shape[0], 3, 4).transpose(1, 2).reshape(-1, 12)
            return self.down(torch.cat(y.chunk(2, 1), 1))

    structure = trace(Viewed().double(), (X,))
    axis = structure.axis("up.neuron")
    assert axis.size == 3
    changed = new_arguments(structure, {axis.name: torch.tensor([True, False, True])})
    found = {structure.program.instrs[i].op: new for i, new in changed.items()}
    assert found["view"]["size"][1:] == [2, 4]
    assert found["reshape"]["shape"][1] == 8
    assert found["chunk"]["split_sizes"] == [4, 4]
    assert new_arguments(structure, {}) == {}


def test_another_model_is_refused() -> None:
    structure = trace(Result(Tensor), (X,))
    other = Result(Tensor)
    other.up = nn.Linear(5, 9)
    with pytest.raises(SurgeryError, match=r"up.weight is \[9, 5\], expected \[8, 5\]"):
        cut_graph(structure, other, {})
