"""What every variational baseline does before and after its training."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.baselines.engine import Epoch, Fit, Schedule, train
from probcomp.inference.baselines.gating import Gate
from probcomp.inference.baselines.places import columns
from probcomp.inference.baselines.readout import Limit, settle
from probcomp.inference.training.checkpoint import checksum
from probcomp.inference.training.distillation import check_teacher, distilled
from probcomp.inference.training.layers import Noise, bayesian_layers, from_bayesian, to_bayesian
from probcomp.inference.training.own_weights import check_plain, own_layers
from probcomp.inference.training.readout import unit_masks
from probcomp.inference.training.refitting import apply_masks, refit
from probcomp.inference.training.units import UnitGroup, slots
from probcomp.inference.training.weights import BatchSource, Loss, terms_of

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a baseline is given.

    Attributes:
        model: Pretrained or fresh; not changed.
        batches: Seeded epochs of batches.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        units: Groups of units that may be removed; an `Axis` of the structure is one.
        seed: Seed of all noise.
        limit: A budget, or ``None`` for the method's own rule.
        checkpoint: Directory to continue from and to write to after each epoch, or ``None``.
        on_epoch: Called after each epoch.
    """

    model: nn.Module
    batches: BatchSource
    loss: Loss
    units: Sequence[UnitGroup] = ()
    seed: int = 0
    limit: Limit | None = None
    checkpoint: Path | None = None
    on_epoch: Callable[[Epoch], None] | None = None


@contextmanager
def seeded(seed: int) -> Iterator[Noise]:
    """The source of a run's noise; torch's global state is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield Noise(torch.Generator().manual_seed(seed))


def working_copy(setting: Setting) -> tuple[nn.Module, list[str]]:
    """A copy to train, and the names of its layers whose weights have a support.

    These are the linear layers and convolutions that a forward pass really calls, whose weight
    is trainable and no other module's.

    Raises:
        InputError: There is none, a weight cannot be trained (`own_layers`), or the model is not on
            the CPU.
    """
    elsewhere = {p.device.type for p in setting.model.parameters()} - {"cpu"}
    if elsewhere:
        raise InputError(
            f"this method trains on the CPU, and the model is on {', '.join(sorted(elsewhere))}; "
            "give model.cpu() and data there"
        )
    check_plain(setting.model)
    model = copy.deepcopy(setting.model)
    layers = own_layers(model, lambda module: type(module) in KINDS)
    called: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda m, x, name=name: called.append(name))
        for name, module in layers.items()
    ]
    training = model.training
    with torch.no_grad():
        setting.loss(model.eval(), next(iter(setting.batches(0))))
    model.train(training)
    for handle in handles:
        handle.remove()
    names = list(dict.fromkeys(called))
    if not names:
        raise InputError("the model has no trainable linear or convolution layer to prune")
    return model, names


def give_posterior(
    model: nn.Module, layers: Sequence[str], noise: Noise, log_variance: float
) -> dict[str, Any]:
    """Gaussian posteriors with local reparameterisation for the named layers, in place.

    Args:
        model: Changed in place.
        layers: Names of the layers.
        noise: Source of noise.
        log_variance: Log of the initial posterior variance of every weight.

    Returns:
        Weight name to layer.
    """
    to_bayesian(model, noise, linear="outputs", convolution="outputs")
    wanted = set(layers)
    found = {}
    for name, module in list(bayesian_layers(model)):
        if name not in wanted:
            from_bayesian(module)
            continue
        with torch.no_grad():
            module.weight_log_sigma.fill_(0.5 * log_variance)
        found[f"{name}.weight" if name else "weight"] = module
    return found


def run(fit: Fit, setting: Setting, schedule: Schedule) -> dict[str, list[float]]:
    """Train, and give the series over the epochs."""
    batch = next(iter(setting.batches(0)))
    check_teacher(setting.loss, setting.model, batch, schedule.refit_teacher)
    kinds = sorted({type(part).__name__ for part in (*fit.gates, *fit.terms)})
    identity = (
        f"{schedule!r} {' '.join(kinds)} seed={setting.seed} samples={setting.batches.samples} "
        f"terms={terms_of(setting.batches)} "
        f"allowed={setting.limit.allowed if setting.limit else None} "
        f"model={checksum(dict(setting.model.state_dict())):08x} batch={checksum(batch):08x}"
    )
    history = train(
        fit, checkpoint=setting.checkpoint, identity=identity, on_epoch=setting.on_epoch
    )
    return {
        "step": [float(epoch.epoch) for epoch in history],
        "nll": [epoch.nll for epoch in history],
        "kl": [epoch.kl for epoch in history],
    }


def decide_units(
    model: nn.Module, layers: Sequence[str], units: Sequence[UnitGroup], gates: Sequence[Gate]
) -> Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The decision of a group method: from the units alive at each place to masks and units."""
    names = [f"{name}.weight" if name else "weight" for name in layers]
    shapes = {name: model.get_parameter(name).shape for name in names}
    places = [gate.place for gate in gates]

    def decide(alive: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
        for name, kept in columns(places, alive).items():
            masks[name] &= kept.reshape(1, -1, *[1] * (masks[name].dim() - 2))
        return settle(model, masks, units)

    return decide


class Later:
    """The epochs of a source from some epoch on, so that batches differ from earlier ones."""

    def __init__(self, batches: BatchSource, first: int) -> None:
        self.batches, self.first = batches, first
        self.samples, self.terms = batches.samples, terms_of(batches)

    def __call__(self, epoch: int) -> Iterable[Any]:
        """The batches of epoch ``first + epoch``."""
        return self.batches(self.first + epoch)


def finish(
    model: nn.Module,
    setting: Setting,
    schedule: Schedule,
    masks: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
) -> list[float]:
    """Zero what is not kept, in place, and train the rest where the schedule says so.

    Returns:
        Mean loss of each refit epoch.
    """
    whole = all_masks(model, setting.units, masks, keep)
    if not schedule.refit_epochs:
        apply_masks(model, whole)
        return []
    history = refit(
        model,
        Later(setting.batches, schedule.epochs),
        loss=distilled(setting.loss, setting.model, share=schedule.refit_teacher),
        masks=whole,
        epochs=schedule.refit_epochs,
        learning_rate=schedule.refit_rate,
    )
    model.train(setting.model.training)
    return history


def all_masks(
    model: nn.Module,
    units: Sequence[UnitGroup],
    masks: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Masks of the weights and of every other parameter of removed units.

    Units that ``keep`` does not name all stay.
    """
    units = [group for group in units if group.name in keep]
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}
    shapes = parameters | {name: tuple(b.shape) for name, b in model.named_buffers()}
    whole = unit_masks(keep, slots(units, shapes), shapes)
    return {n: m for n, m in whole.items() if n in parameters} | dict(masks)
