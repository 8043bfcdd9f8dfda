"""A complete report of a small network with a clustered mask, made without the recipe."""

import torch
from torch import nn

from probcomp.coding import coded_size, quantise
from probcomp.data import Batches, load_digits
from probcomp.evaluation import (
    Comparison,
    compare_accuracy,
    compare_nll,
    compare_with_magnitude,
    layer_sizes,
    magnitude_mask,
    measure_latency,
    predict,
    reliability,
    size_of,
)
from probcomp.kernels import PackedLayer
from probcomp.models import LeNet300100, train
from probcomp.report import (
    BudgetLine,
    CodedFile,
    CodedRow,
    Histogram,
    MaskPicture,
    Prediction,
    Report,
    UnitSummary,
)


def make_report(hidden: tuple[int, int] = (60, 30)) -> Report:
    """Everything in it is measured, except that the posterior is made up from smoothed weights."""
    data = load_digits(0)
    torch.manual_seed(0)
    dense, small = LeNet300100(64, hidden=hidden), LeNet300100(64, hidden=hidden)
    train(dense, Batches(data.train, 64, 0), epochs=15)
    small.load_state_dict(dense.state_dict())
    with torch.no_grad():
        strength = small.fc1.weight.norm(dim=1) * small.fc2.weight.norm(dim=0)
        keep = strength >= strength.quantile(0.4)
        small.fc1 = cut(small.fc1, keep, 0)
        small.fc2 = cut(small.fc2, keep, 1)
        masks, pictures, regularity, inclusion = {}, [], [], []
        for name, weight in dense.named_parameters():
            if weight.dim() < 2:
                continue
            smooth = nn.functional.avg_pool2d(weight.abs()[None], 3, 1, 1)[0]
            level = smooth.quantile(0.75)
            mask = smooth > level
            probability = torch.sigmoid((smooth - level) / (0.1 * smooth.std()))
            if name != "fc3.weight":
                index = keep.nonzero().squeeze(1)
                mask &= keep[:, None] if name == "fc1.weight" else keep[None, :]
                kept = mask[index] if name == "fc1.weight" else mask[:, index]
            else:
                kept = mask
            masks[name] = mask
            small.get_parameter(name).mul_(kept)
            inclusion.append(Histogram.of(name, probability))
            regularity.append(compare_with_magnitude(name, mask, weight))
            pictures.append(MaskPicture.of(name, mask, magnitude_mask(weight, mask), probability))
    train_again(small, data)
    before, after = predict(dense, data.test), predict(small, data.test)
    sizes = size_of(dense, macs=64 * 60), size_of(small, macs=64 * 20)
    achieved = sizes[1].nonzero / sizes[0].nonzero
    return Report(
        model=f"64-{hidden[0]}-{hidden[1]}-10",
        method="turbo-vbi",
        prior="chain along each row, gated by neurons",
        data="scikit-learn digits (1,437 training + 360 test samples)",
        seed=0,
        command="probcomp compress --budget params=0.25 --seed 0",
        budget=(BudgetLine("params", 0.25, achieved, sizes[0].nonzero, sizes[1].nonzero),),
        dense=sizes[0],
        compressed=sizes[1],
        layers=layer_sizes(dense, small),
        accuracy=compare_accuracy(before, after),
        nll=compare_nll(before, after),
        reliability=(reliability("dense", before), reliability("compressed", after)),
        packed=(PackedLayer("fc1", "blocks", 0.1, 0.12, 128, 2.5, True),),
        prediction=Prediction(0.05, {"fc1": 0.04, "fc2": 0.01}, {"fc1": 2.5, "fc2": 0.8}),
        coded=coded_file(small, compare_accuracy(before, after)),
        latency=measure_latency(dense, small, (data.test[0][:128],), repeats=12),
        regularity=tuple(regularity),
        pictures=tuple(pictures),
        inclusion=tuple(inclusion),
        units=(
            UnitSummary.of(
                "fc1", "neuron", torch.sigmoid(12 * (strength / strength.quantile(0.4) - 1)), keep
            ),
        ),
        history={
            "step": [1, 2, 3, 4],
            "nll": [0.9, 0.4, 0.2, 0.1],
            "kl": [900.0, 700.0, 650.0, 640.0],
            "density": [0.9, 0.6, 0.4, 0.25],
            "price": [0.0, 0.5, 1.1, 1.2],
        },
        seconds={"structure": 0.4, "inference": 31.0, "surgery": 0.1, "measurement": 1.2},
        warnings=("3 % less remains than was allowed.",),
        versions={"torch": torch.__version__},
        machine={"processor": "test", "threads": "1"},
        created="2026-01-01T00:00:00+00:00",
    )


def coded_file(model: nn.Module, accuracy: Comparison) -> CodedFile:
    size = coded_size(quantise(model, 0.1).model)
    rows = tuple(
        CodedRow(t.name, t.shape, t.nonzero, t.distinct, dict(t.bits)) for t in size.tensors
    )
    return CodedFile(size.bytes, 20_000, dict(size.bits), rows, 0.01, 0.012, accuracy)


def cut(layer: nn.Linear, keep: torch.Tensor, dim: int) -> nn.Linear:
    weight = layer.weight[keep] if dim == 0 else layer.weight[:, keep]
    smaller = nn.Linear(weight.shape[1], weight.shape[0])
    smaller.weight = nn.Parameter(weight.clone())
    smaller.bias = nn.Parameter(layer.bias[keep].clone() if dim == 0 else layer.bias.clone())
    return smaller


def train_again(model: nn.Module, data) -> None:
    """A few epochs with the zeros held."""
    zeros = {name: p.detach() != 0 for name, p in model.named_parameters()}

    def loss(model, batch):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.mul_(zeros[name])
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    train(model, Batches(data.train, 64, 1), epochs=10, loss=loss)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(zeros[name])
