"""Streaming statistics against plain concatenation, loops over positions, and closed forms."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.errors import InputError
from probcomp.evidence import Matrix, collect, collect_within, readouts
from probcomp.evidence.collect import needed_bytes, parts_within
from probcomp.evidence.matrices import matrix_of
from probcomp.structure import trace

EXACT = 1e-10  # float64 sums in another order
HALF = 1e-5  # relative; float32 products of half-precision values (their own would be 1e-2)
FLOAT32 = 1e-6  # relative; what a limit puts on disk


def run(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if isinstance(batch, dict) else model(batch[0])


class Tokens(nn.Module):
    """A feed-forward pair on every token."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def tokens() -> tuple[Tokens, Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    return Tokens().double(), torch.randn(5, 4, 5, dtype=torch.float64), mask


MATRICES = {"down.weight": Matrix("down", "linear")}


def test_sums_equal_those_of_the_concatenated_tokens_without_padding() -> None:
    model, x, mask = tokens()
    batches = [{"x": x[a:b], "attention_mask": mask[a:b]} for a, b in ((0, 2), (2, 3), (3, 5))]
    found = collect(model, MATRICES, batches, run)["down.weight"]
    rows = torch.cat(
        [torch.relu(model.up(x[i, j]))[None] for i in range(5) for j in range(4) if mask[i, j]]
    )
    assert (found.count, found.samples) == (len(rows), 5)
    torch.testing.assert_close(found.gram, rows.T @ rows, atol=EXACT, rtol=0)
    torch.testing.assert_close(found.sum, rows.sum(0), atol=EXACT, rtol=0)


def test_fisher_equals_the_outer_products_of_gradients_at_the_output() -> None:
    model, x, mask = tokens()
    batches = [{"x": x[a:b], "attention_mask": mask[a:b]} for a, b in ((0, 3), (3, 5))]

    def probe(outputs: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
        kept = outputs * batch["attention_mask"][:, :, None]
        return [kept.square().sum() / 2, kept.sum()]  # gradients: the output, and one

    found = collect(model, MATRICES, batches, run, probe=probe)["down.weight"]
    with torch.no_grad():
        outputs = model(x)[mask.bool()]
    ones = torch.ones_like(outputs)
    assert found.probes == 2
    expected = (outputs.T @ outputs + ones.T @ ones) / (2 * len(outputs))
    torch.testing.assert_close(found.metric, expected, atol=EXACT, rtol=0)


def test_some_batches_alone_are_probed() -> None:
    """Gradients are those of every second batch, inputs those of all."""
    model, x, mask = tokens()
    batches = [{"x": x[i : i + 1], "attention_mask": mask[i : i + 1]} for i in range(len(x))]

    def probe(outputs: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
        return [(outputs * batch["attention_mask"][:, :, None]).square().sum() / 2]

    some = collect(model, MATRICES, batches, run, probe=probe, every=2)["down.weight"]
    whole = collect(model, MATRICES, batches, run)["down.weight"]
    half = collect(model, MATRICES, batches[::2], run, probe=probe)["down.weight"]
    assert torch.equal(some.gram, whole.gram)
    assert some.count == whole.count
    assert some.probed == half.count < whole.count
    torch.testing.assert_close(some.metric, half.metric, atol=EXACT, rtol=0)
    both = (some + half).metric
    torch.testing.assert_close(both, half.metric, atol=EXACT, rtol=0)


def test_the_model_is_left_as_it_was() -> None:
    model, x, mask = tokens()
    model.train()
    model.up.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, MATRICES, [{"x": x, "attention_mask": mask}], run, probe=lambda o, b: [o.sum()])
    assert model.training
    assert model.down.training
    assert not model.up.bias.requires_grad
    assert model.down.weight.requires_grad
    assert model.down.weight.grad is None
    assert not model.down._forward_hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


CONVOLUTIONS = {
    "plain": (nn.Conv2d(3, 4, 3), (2, 3, 6, 7)),
    "strided": (nn.Conv2d(3, 4, 3, stride=2), (2, 3, 7, 8)),
    "padded": (nn.Conv2d(2, 3, (3, 2), padding=(2, 1)), (2, 2, 5, 5)),
    "dilated": (nn.Conv2d(2, 3, 3, dilation=2, padding=2), (2, 2, 7, 6)),
    "same": (nn.Conv2d(2, 3, 4, padding="same"), (2, 2, 7, 6)),
    "valid": (nn.Conv2d(2, 3, 2, padding="valid"), (1, 2, 5, 6)),
    "one-dimensional": (nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9)),
    "one-dimensional same": (nn.Conv1d(3, 4, 4, padding="same"), (2, 3, 9)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_unfolded_rows_times_the_matrix_give_the_convolution(case: str) -> None:
    module, shape = CONVOLUTIONS[case]
    module = module.double()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = matrix_of(module, "")
    assert isinstance(matrix, Matrix)
    with torch.no_grad():
        expected = module(x)
        rows = matrix.rows(module, x)
        made = rows @ matrix.of(module.weight).T + module.bias
    torch.testing.assert_close(made, matrix.outputs(expected), atol=EXACT, rtol=0)


def test_the_columns_of_a_channel_are_all_of_its_kernel() -> None:
    matrix = Matrix("", "conv", kernel=4)
    weight = torch.randn(5, 3, 2, 2)
    columns = matrix.columns(torch.tensor([[0], [2]]))
    masked = matrix.of(weight).clone()
    masked[:, columns[1]] = 0
    expected = weight.clone()
    expected[:, 2] = 0
    assert torch.equal(matrix.back(masked, weight), expected)


def test_modules_without_a_matrix_say_why() -> None:
    assert "grouped" in str(matrix_of(nn.Conv2d(4, 4, 3, groups=2), "a"))
    assert "reflect" in str(matrix_of(nn.Conv2d(4, 4, 3, padding_mode="reflect"), "a"))
    assert "LSTM" in str(matrix_of(nn.LSTM(4, 4), "a"))


def test_a_memory_limit_makes_several_passes_with_the_same_result() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(),
        nn.Linear(5, 2),
    ).double()  # fmt: skip
    x = torch.randn(20, 4, dtype=torch.float64)
    matrices = {f"{i}.weight": Matrix(str(i), "linear") for i in (2, 4, 6)}
    passes = []

    def batches() -> list[tuple[Tensor]]:
        passes.append(len(passes))
        return [(x[:12],), (x[12:],)]

    whole = collect(model, matrices, batches(), run)
    limit = 8 * (8 * 8 + 8)  # the widest read-out alone
    with collect_within(model, matrices, batches, run, limit=limit) as store:
        assert len(passes) == 1 + 3
        assert set(store) == set(matrices)
        for name, expected in whole.items():
            found = store[name]
            assert (found.count, found.samples) == (20, 20)
            torch.testing.assert_close(found.gram, expected.gram, rtol=FLOAT32, atol=1e-5)


@pytest.mark.parametrize(
    "limited",
    [True, False],
)
def test_a_limit_bounds_what_is_held_at_any_batch(limited: bool) -> None:
    """The sums are the only float64 tensors here; all of them alive are counted at each batch."""
    torch.manual_seed(0)
    sizes = (300, 500, 400)
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in zip((4, *sizes), (*sizes, 2))))
    matrices = {f"{i}.weight": Matrix(str(i), "linear") for i in (1, 2, 3)}
    x = torch.randn(20, 4)
    limit = 8 * (500 * 500 + 500) if limited else None
    gc.collect()
    before = {id(t) for t in gc.get_objects() if type(t) is Tensor}
    held = []

    def count() -> None:
        mine = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in gc.get_objects()
            if type(t) is Tensor and t.dtype == torch.float64 and id(t) not in before
        }
        held.append(sum(mine.values()))

    def batches() -> list[tuple[Tensor]]:
        return [(x[:12],), (x[12:],)]

    with collect_within(model, matrices, batches, run, limit=limit, on_batch=count) as store:
        assert set(store) == set(matrices)
    assert max(held) > 0
    most = 8 * sum(n * n + n for n in sizes)
    assert max(held) <= (limit if limited else most)
    if not limited:
        assert max(held) == most


def test_seven_billion_weights_in_twenty_four_gibibytes() -> None:
    """A Llama-2 of 4,096 channels, 11,008 neurons and 32 blocks, with a limit of 6 GiB."""
    with torch.device("meta"):
        heads, neurons = nn.Linear(4096, 4096, bias=False), nn.Linear(11008, 4096, bias=False)
    needs = {
        f"{block}.{name}": needed_bytes(Matrix(name, "linear"), layer.weight, fisher=True)
        for block in range(32)
        for name, layer in (("o_proj", heads), ("down_proj", neurons))
    }
    parts = parts_within(needs, 6 * 2**30)
    assert len(parts) == 8
    held = max(sum(needs[name] for name in part) for part in parts)
    weights = 2 * 6_738_415_616  # bfloat16
    activations = 2 * 128 * 2048 * 4096  # one block's input of 128 sequences
    assert weights + activations + held < 24 * 2**30
    assert sum(needs.values()) > 24 * 2**30  # without a limit the sums alone would not fit


def test_a_limit_below_one_readout_is_refused_and_says_what_it_needs() -> None:
    assert parts_within({"a": 3, "b": 3, "c": 5}, 6) == [["a", "b"], ["c"]]
    with pytest.raises(InputError, match=r"statistics of c take 5 bytes.*limit is 4"):
        parts_within({"a": 3, "c": 5}, 4)


def test_a_readout_that_is_used_as_a_function_is_reported() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.relu(self.one(x)), self.two.weight)

    with pytest.raises(InputError, match="two was never called as a module"):
        collect(Functional(), {"two.weight": Matrix("two", "linear")}, [(torch.randn(2, 3),)], run)


def test_inputs_that_are_not_finite_are_refused() -> None:
    model, x, mask = tokens()
    x[0, 0, 0] = torch.inf
    with pytest.raises(InputError, match="inputs of down are not finite"):
        collect(model, MATRICES, [{"x": x, "attention_mask": mask}], run)


def test_statistics_of_two_sets_add_up() -> None:
    model, x, mask = tokens()
    parts = [
        collect(model, MATRICES, [{"x": x[a:b], "attention_mask": mask[a:b]}], run)["down.weight"]
        for a, b in ((0, 2), (2, 5), (0, 5))
    ]
    added = parts[0] + parts[1]
    assert (added.count, added.samples) == (parts[2].count, 5)
    torch.testing.assert_close(added.gram, parts[2].gram, atol=EXACT, rtol=0)


def test_masking_the_columns_of_a_unit_removes_it() -> None:
    """The read-outs of every axis of a small convolution net: zero columns = silenced unit."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 9, 6), nn.ReLU(), nn.Linear(6, 2),
    ).double().eval()  # fmt: skip
    x = torch.randn(3, 1, 6, 6, dtype=torch.float64)
    structure = trace(model, (x[:2],))
    found = readouts(model, structure)
    assert [r.parameter for r in found] == ["3.weight", "6.weight", "8.weight"]
    for readout in found:
        axis = structure.axis(readout.axis)
        keep = torch.ones(axis.size, dtype=torch.bool)
        keep[1] = False
        weight = model.get_parameter(readout.parameter)
        with torch.no_grad():
            expected = structure.silence(model, {axis.name: keep})(x)
            old = weight.clone()
            masked = readout.matrix.of(weight).clone()
            masked[:, readout.columns[1]] = 0
            weight.copy_(readout.matrix.back(masked, weight))
            torch.testing.assert_close(model(x), expected, atol=EXACT, rtol=0)
            weight.copy_(old)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_as_its_values_are(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3)).to(dtype)
    x = torch.randn(200, 6, generator=generator).to(dtype)
    found = collect(
        model, {"0.weight": Matrix("0", "linear")}, [(x[:90],), (x[90:],)], run
    )["0.weight"]  # fmt: skip
    exact = sum(torch.outer(row, row) for row in x.double())
    scale = float(exact.diagonal().mean())
    torch.testing.assert_close(found.gram, exact, atol=HALF * scale, rtol=0)


class Keyword(nn.Module):
    """Calls its linear layer by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(input=x)


def test_a_module_called_by_keyword_is_named() -> None:
    with pytest.raises(InputError, match="down is called by keyword"):
        collect(Keyword(), {"down.weight": Matrix("down", "linear")}, [(torch.ones(3, 4),)], run)


def test_thinned_rows_stand_for_their_neighbours() -> None:
    model, x, mask = tokens()
    found = collect(model, MATRICES, [{"x": x, "attention_mask": mask}], run, thin=3)["down.weight"]
    rows = torch.relu(model.up(x))[mask.bool()].detach()
    some = rows[::3]
    assert found.count == len(rows) == 13
    weight = len(rows) / len(some)
    torch.testing.assert_close(found.gram, weight * some.T @ some, atol=EXACT, rtol=0)
    torch.testing.assert_close(found.sum, weight * some.sum(0), atol=EXACT, rtol=0)


def test_texts_of_one_length_lack_no_position() -> None:
    """A signal at odd positions alone, in texts of even length."""
    model = Tokens().double()
    model.up.weight.data.fill_(1.0)
    model.up.bias.data.zero_()
    x = torch.zeros(2, 4, 5, dtype=torch.float64)
    x[:, 1::2] = 1.0
    found = collect(model, MATRICES, [(x,), (x,)], run, thin=2)["down.weight"]
    rows = torch.relu(model.up(x)).flatten(0, 1).detach()
    torch.testing.assert_close(found.gram, 2 * rows.T @ rows, atol=EXACT, rtol=0)


@pytest.mark.parametrize("length", [6, 4])
def test_tokens_of_a_decoder_have_a_mask_of_their_own(length: int) -> None:
    """Both texts of one width, and of two."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4}
    model = hf.T5ForConditionalGeneration(
        hf.T5Config(**sizes, vocab_size=40, decoder_start_token_id=0)
    ).eval()
    ids, words = torch.randint(2, 40, (3, 6)), torch.randint(2, 40, (3, length))
    mask = torch.arange(6) < torch.tensor([[6], [3], [2]])  # 11 tokens
    asked = torch.arange(length) < torch.tensor([[1], [4], [2]])  # 7 tokens
    batch = {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "labels": words.masked_fill(~asked, -100),
    }
    paths = {
        "encoder.block.0.layer.1.DenseReluDense.wo": 11,
        "decoder.block.0.layer.1.EncDecAttention.k": 11,
        "decoder.block.0.layer.1.EncDecAttention.o": 7,
        "decoder.block.0.layer.2.DenseReluDense.wo": 7,
    }
    found = {path: matrix_of(model.get_submodule(path), path, model) for path in paths}
    matrices = {f"{path}.weight": m for path, m in found.items() if isinstance(m, Matrix)}
    for more in ({}, {"decoder_attention_mask": asked.long()}):
        sums = collect(model, matrices, [batch | more], run)
        assert {name[:-7]: one.count for name, one in sums.items()} == paths
