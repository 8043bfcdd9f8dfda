"""Statistics on the pruned prefix against tensors computed by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence import Matrix
from probcomp.evidence.prefix import prefix_moments
from probcomp.evidence.watch import BiasPlace, bias_places, call_order
from probcomp.recovery.ridge import Moments, fit

EXACT = 1e-9  # float64 sums in another order


def run(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if isinstance(batch, dict) else model(batch[0])


class Residual(nn.Module):
    """Two feed-forward pairs that add to a stream, as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.up1, self.down1 = nn.Linear(4, 6), nn.Linear(6, 4)
        self.up2, self.down2 = nn.Linear(4, 5), nn.Linear(5, 4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = x + self.drop(self.down1(torch.relu(self.up1(x))))
        x = self.down2(torch.relu(self.up2(x))) + x
        return self.head(x)


def pair() -> tuple[Residual, Residual, Tensor]:
    torch.manual_seed(0)
    dense = Residual().double().eval()
    torch.manual_seed(0)
    pruned = Residual().double().eval()
    with torch.no_grad():
        pruned.down1.weight[:, 2] = 0
        pruned.down1.bias += 0.1
    return dense, pruned, torch.randn(5, 3, 4, dtype=torch.float64)


def by_hand(x: Tensor, y: Tensor) -> Moments:
    return Moments(x.T @ x, x.T @ y, x.sum(0), y.sum(0), y.square().sum(0), len(x))


def assert_same(found: Moments, expected: Moments) -> None:
    for name in ("gram", "cross", "inputs", "targets", "square"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), atol=EXACT, rtol=0
        )
    assert found.count == expected.count


@pytest.mark.parametrize("residual", [True, False])
def test_targets_make_up_for_this_block_and_for_earlier_ones(residual: bool) -> None:
    dense, pruned, x = pair()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
    kept = torch.tensor([True, False, True, True, True])
    batches = [{"x": x[a:b], "attention_mask": mask[a:b]} for a, b in ((0, 3), (3, 4), (4, 5))]
    folds = prefix_moments(
        dense, pruned, Matrix("down2", "linear"), kept, batches, run, residual=residual
    )
    with torch.no_grad():
        stream = [x + m.down1(torch.relu(m.up1(x))) for m in (dense, pruned)]
        inputs = [torch.relu(m.up2(s)) for m, s in zip((dense, pruned), stream)]
        target = (
            inputs[0] @ dense.down2.weight.T - inputs[1][..., kept] @ dense.down2.weight[:, kept].T
        )
        if residual:
            target = target + stream[0] - stream[1]
    for fold, samples in zip(folds, ([0, 2, 4], [1, 3])):  # even and odd over all batches
        chosen = mask[samples].bool()
        expected = by_hand(inputs[1][samples][chosen][:, kept], target[samples][chosen])
        assert_same(fold, expected)


def test_a_refit_of_the_moments_restores_the_stream() -> None:
    """With every column kept and more unknowns than errors, the block undoes what came before."""
    dense, pruned, x = pair()
    kept = torch.ones(5, dtype=torch.bool)
    folds = prefix_moments(dense, pruned, Matrix("down2", "linear"), kept, [(x,)], run)
    whole = folds[0] + folds[1]
    change = torch.linalg.lstsq(whole.gram, whole.cross).solution.T
    assert whole.error(change) < float(whole.square.sum())


class Convolutions(nn.Module):
    """Convolutions without a bias: the batch norm behind one takes up its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.last = nn.Conv2d(2, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.bn(self.conv2(torch.relu(self.conv1(x)))) + x))


def test_a_batch_norm_between_output_and_stream_is_undone() -> None:
    torch.manual_seed(0)
    dense = Convolutions().double().eval()
    with torch.no_grad():
        dense.bn.weight.copy_(torch.tensor([0.5, 2.0]))
        dense.bn.running_var.copy_(torch.tensor([3.0, 0.3]))
        dense.bn.running_mean.copy_(torch.tensor([0.3, -0.1]))
    pruned = Convolutions().double().eval()
    pruned.load_state_dict(dense.state_dict())
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    matrix = Matrix("conv2", "conv", 9)
    places = bias_places(dense, {"conv2.weight": matrix}, (x[:2],), run)
    assert places == {"conv2.weight": BiasPlace("bn.running_mean", -1)}
    # Dense and pruned get different inputs here, so that the streams differ.
    shift = 0.2

    def run_shifted(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0] + (shift if model is pruned else 0.0))

    kept = torch.ones(27, dtype=torch.bool)
    folds = prefix_moments(dense, pruned, matrix, kept, [(x,)], run_shifted)
    whole = folds[0] + folds[1]
    with torch.no_grad():
        before = [dense.conv2(torch.relu(dense.conv1(x + s))) for s in (0.0, shift)]
        scale = dense.bn.weight / (dense.bn.running_var + dense.bn.eps).sqrt()
        target = before[0] - before[1] - shift / scale.view(1, 2, 1, 1)
    rows = target.flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(whole.targets, rows.sum(0), atol=1e-8, rtol=0)
    torch.testing.assert_close(whole.square, rows.square().sum(0), atol=1e-8, rtol=0)


def test_places_of_a_bias() -> None:
    dense, _, x = pair()
    matrices = {"down2.weight": Matrix("down2", "linear")}
    assert bias_places(dense, matrices, (x,), run) == {"down2.weight": BiasPlace("down2.bias")}
    net = Convolutions().double().eval()
    images = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    last = {"last.weight": Matrix("last", "conv", 1)}
    assert bias_places(net, last, (images,), run) == {"last.weight": None}


def test_order_is_that_of_the_forward_pass() -> None:
    dense, _, x = pair()
    matrices = {f"{n}.weight": Matrix(n, "linear") for n in ("down2", "head", "down1")}
    assert call_order(dense, matrices, (x,), run) == ["down1.weight", "down2.weight", "head.weight"]


def test_a_module_that_is_never_called_is_named() -> None:
    dense, pruned, x = pair()
    dense.spare = pruned.spare = nn.Linear(2, 2)  # type: ignore[assignment]
    with pytest.raises(InputError, match="spare was never called"):
        prefix_moments(dense, pruned, Matrix("spare", "linear"), torch.ones(2).bool(), [(x,)], run)


def test_a_single_sample_is_not_validated_on_itself() -> None:
    dense, pruned, x = pair()
    kept = torch.ones(5, dtype=torch.bool)
    folds = prefix_moments(dense, pruned, Matrix("down2", "linear"), kept, [(x[:1],)], run)
    assert (folds[0].count, folds[1].count) == (3, 0)
    assert not fit(folds, bias=True).change.any()


class Flat(nn.Module):
    """Its read-out sees the tokens of a batch in one list, or not."""

    def __init__(self, flat: bool = True) -> None:
        super().__init__()
        self.down, self.flat = nn.Linear(4, 3).double(), flat

    def forward(self, x: Tensor) -> Tensor:
        if not self.flat:
            return self.down(x)
        return self.down(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def test_a_flat_list_of_tokens_is_split_by_samples() -> None:
    x = torch.randn(4, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model, kept = Flat(), torch.ones(4, dtype=torch.bool)
    folds = prefix_moments(
        model, model, Matrix("down", "linear"), kept, [(x[:3],), (x[3:],)], run, residual=False
    )
    for fold, samples in zip(folds, ([0, 2], [1, 3])):
        rows = x[samples].flatten(0, 1)
        torch.testing.assert_close(fold.gram, rows.T @ rows, atol=EXACT, rtol=0)


@pytest.mark.parametrize("flat", [False, True])
def test_one_of_several_positions_is_left_out_of_each_sample(flat: bool) -> None:
    """Which one differs from sample to sample of a half."""
    x = torch.randn(5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model, kept = Flat(flat), torch.ones(4, dtype=torch.bool)
    left_out = []
    matrix = Matrix("down", "linear")
    batches = [(x[:2],), (x[2:],)]
    folds = prefix_moments(model, model, matrix, kept, batches, run, residual=False, skip=3)
    for number in range(5):
        row = number if number < 2 else number - 2  # in its batch
        left_out.append([p for p in range(4) if (4 * row + p + number // 2) % 3 == 0])
    assert all(1 <= len(gone) <= 2 for gone in left_out)
    assert left_out[0] != left_out[2]
    for fold, samples in zip(folds, ([0, 2, 4], [1, 3])):
        rows = torch.cat([x[n, [p for p in range(4) if p not in left_out[n]]] for n in samples])
        torch.testing.assert_close(fold.gram, rows.T @ rows, atol=EXACT, rtol=0)
        assert fold.count == len(rows)


def test_samples_of_few_rows_keep_all() -> None:
    x = torch.randn(6, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model, kept = Flat(), torch.ones(4, dtype=torch.bool)
    folds = prefix_moments(
        model, model, Matrix("down", "linear"), kept, [(x,)], run, residual=False, skip=3
    )
    assert [fold.count for fold in folds] == [6, 6]
