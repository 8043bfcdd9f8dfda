"""Export: what is refused before it starts, and the model as it was afterwards."""

import pytest
import torch
from torch import nn

from probcomp.errors import TraceError
from probcomp.structure.export import Leaf, Record, export_program, inference
from tests.structure.nets import MLP


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.randn(2, 9), "for one tensor pass"),
        ((), "at least one tensor"),
        ((None,), "example input 0 is NoneType"),
        ({"x": [1]}, "example input 'x' is list"),
        ((torch.randn(2, 8),), "shape|size|do not fit"),
    ],
)
def test_inputs_that_do_not_fit_are_told(inputs, words) -> None:
    with pytest.raises(TraceError, match=words) as error:
        export_program(MLP(), inputs)
    assert len(str(error.value).splitlines()) == 1


def test_the_layout_of_a_result_and_a_choice_of_it() -> None:
    class Many(MLP):
        def forward(self, x):
            y = super().forward(x)
            return {"y": y, "more": (y + 1, y.sum(0))}

    x = (torch.randn(2, 9),)
    _, layout, free = export_program(Many(), x)
    assert layout == {"y": Leaf(0), "more": (Leaf(1), Leaf(2))}
    assert free
    _, layout, free = export_program(Many(), x, outputs=["y"], dynamic=False)
    assert layout == {"y": Leaf(0)}
    assert not free
    with pytest.raises(TraceError, match="returns no 'z'; it returns"):
        export_program(Many(), x, outputs=["z"])


def test_results_that_are_no_tensors_are_refused() -> None:
    class Odd(MLP):
        def forward(self, x):
            super().forward(x)
            return object()

    with pytest.raises(TraceError, match="returns a object, expected tensors"):
        export_program(Odd(), (torch.randn(2, 9),))


def test_the_model_is_as_it_was_afterwards() -> None:
    model = nn.Sequential(MLP(), nn.Dropout()).train()
    model[0].layers[1].eval()
    modes = [m.training for m in model.modules()]
    export_program(model, (torch.randn(2, 9),))
    assert [m.training for m in model.modules()] == modes
    assert "forward" not in vars(model)
    fast = torch.backends.mha.get_fastpath_enabled()

    def stop() -> None:
        with inference(model):
            assert not model.training
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_named_results_keep_their_class() -> None:
    from collections import namedtuple

    pair = namedtuple("pair", "a b")

    class Named(MLP):
        def forward(self, x):
            y = super().forward(x)
            return pair(y, None)

    _, layout, _ = export_program(Named(), (torch.randn(2, 9),))
    assert layout == Record(pair, {"a": Leaf(0), "b": None})
