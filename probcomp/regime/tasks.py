"""What a pilot is about: a network, its data, and how it is trained, pruned and retrained."""

import hashlib
import importlib
import inspect
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.regime.knobs import KNOWN, Knob
from probcomp.regime.recipe import TURNABLE, Recipe
from probcomp.user_file import module_of

Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PilotTask:
    """A classification task on which pilots can be run.

    Attributes:
        name: For people.
        build: Makes the untrained network; called under a seed.
        train, test: Inputs and integer targets. Errors on ``test`` are what advice is drawn from,
            so it is a validation set: report the advised setting on samples no pilot has seen.
        recipe: Training of the dense network (stage 1), where the knob is turned.
        retrain: Training of the pruned network (stage 3), the same for every pilot.
        knob: The knob, a field of the recipe.
        levels: Values the knob may take, at least two; none that its scale has no place for, such
            as a weight decay of zero, whose logarithm is taken.
        densities: Shares of the prunable weights to keep at which pilots may be run.
        prune: ``uniform`` (largest weights of each layer), ``global`` (of all layers), or the
            address of a rule, ``module:function`` (`probcomp.regime.pruning.make_masks`), whose
            module is then imported, with the rights of the user.
        dense_seeds, retrain_seeds: Independent repetitions of a pilot; at least two of the latter,
            since connectivity is measured between them. A campaign runs some cells with further
            dense seeds, which follow the largest of these.
        augment: Changes a batch of training inputs; see `probcomp.regime.training.train`.
        prunable: Parameter names; by default the weights of all linear and convolution layers but
            the last.
        measure: Whether records hold curvature and exponent of each dense network
            (`probcomp.regime.measures`): a few hundred gradients of 200 samples each.
    """

    name: str
    build: Callable[[], nn.Module]
    train: Samples
    test: Samples
    recipe: Recipe
    retrain: Recipe
    knob: str
    levels: tuple[float, ...]
    densities: tuple[float, ...]
    prune: str = "uniform"
    dense_seeds: tuple[int, ...] = (0, 1)
    retrain_seeds: tuple[int, ...] = (0, 1)
    augment: Callable[[Tensor], Tensor] | None = None
    prunable: tuple[str, ...] | None = None
    measure: bool = False

    def __post_init__(self) -> None:
        wrong = []
        for part, (x, y) in (("train", self.train), ("test", self.test)):
            if len(x) != len(y) or len(x) == 0:
                wrong.append(f"{part} has {len(x)} inputs and {len(y)} targets")
            elif y.is_floating_point() or y.ndim != 1:
                wrong.append(f"{part} targets must be class numbers, one a sample")
            elif x.is_floating_point() and not torch.isfinite(x).all():
                wrong.append(f"{part} inputs hold NaN or infinite values")
        if self.knob not in TURNABLE:
            wrong.append(f"knob {self.knob!r} is none of {', '.join(TURNABLE)}")
        if len(set(self.levels)) < 2:
            wrong.append("levels: at least two different values of the knob are needed")
        if len(set(self.densities)) < 2 or not all(0 < d <= 1 for d in self.densities):
            wrong.append("densities: at least two different shares in (0, 1] are needed")
        if len(set(self.retrain_seeds)) < 2:
            wrong.append("retrain_seeds: at least two; connectivity is measured between them")
        if not self.dense_seeds:
            wrong.append("dense_seeds: at least one is needed")
        for part, seeds in (("dense", self.dense_seeds), ("retrain", self.retrain_seeds)):
            if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
                wrong.append(f"{part}_seeds: numbers from 0 on, each once; got {seeds}")
        if wrong:
            raise InputError(f"task {self.name!r}: " + "; ".join(wrong))
        # As recipes hold them, by which the records of pilots are found again.
        held = tuple(getattr(self.recipe.turned(self.knob, x), self.knob) for x in self.levels)
        try:
            self.turned_knob.check(np.array(held, float))
        except InputError as error:
            raise InputError(f"task {self.name!r}: levels: {error}") from None
        object.__setattr__(self, "levels", held)

    @property
    def turned_knob(self) -> Knob:
        """The knob with its direction and scale."""
        return KNOWN[self.knob]

    def fingerprint(self) -> str:
        """Hash of the data, of the network's shape, and of the code that can be seen.

        That is the source of ``build``, of ``augment`` and of the forward pass of every layer that
        is not torch's own, not of what they call. Computed once: a file edited while a sweep runs
        is another task for the next sweep only.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in (*self.train, *self.test):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        model = self.fresh(0)
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        layers = {type(m) for m in model.modules() if not type(m).__module__.startswith("torch.")}
        code = sorted(_code(layer.forward) for layer in layers)
        code += [_code(self.build), _code(self.augment)]
        digest.update(json.dumps([shapes, repr(model), code, self.prunable]).encode())
        if self.measure:  # what a record holds is a function of its key
            digest.update(b"measure, kernel positions pooled")
        return digest.hexdigest()[:16]

    def fresh(self, seed: int) -> nn.Module:
        """An untrained network; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()


def _code(function: Any) -> str:
    """Source of a function; its name where there is no source to read."""
    if function is None:
        return ""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return str(getattr(function, "__qualname__", type(function).__qualname__))


def digits_task() -> PilotTask:
    """Batch-norm network 64-64-64-64-10 on scikit-learn's digits, retrained at rate 0.5.

    1,200 of the images with a tenth of the labels drawn anew, and input noise while training. At
    that rate retraining may leave the valley of its start, so that connectivity depends on how
    the dense network was trained; at 0.1 every pruned network stays connected and there is
    nothing to predict.
    """
    from probcomp.data import load_digits

    data = load_digits(0)
    # The package's split is 80:20; the first 1,200 are used for training, all others for test.
    parts: Any = (data.train, data.test)
    inputs = torch.cat([part[0] for part in parts]).flatten(1)
    targets = torch.cat([part[1] for part in parts])
    generator = torch.Generator().manual_seed(0)
    noisy = targets[:1200].clone()
    wrong = torch.rand(1200, generator=generator) < 0.1
    noisy[wrong] = torch.randint(0, 10, (1200,), generator=generator)[wrong]
    return PilotTask(
        name="digits",
        build=_digits_network,
        train=(inputs[:1200], noisy),
        test=(inputs[1200:], targets[1200:]),
        recipe=Recipe(epochs=60, horizon=60, lr=0.5, batch_size=32, weight_decay=1e-4),
        retrain=Recipe(epochs=30, horizon=30, lr=0.5, batch_size=32, weight_decay=1e-4),
        knob="epochs",
        levels=(3, 6, 12, 20, 30, 45, 60),
        densities=(0.04, 0.055, 0.08, 0.12, 0.2, 0.4),
        dense_seeds=(0, 1, 2, 3),
        augment=_jitter,
    )


def _digits_network() -> nn.Module:
    widths, layers = (64, 64, 64, 64), []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def _jitter(x: Tensor) -> Tensor:
    return x + 0.15 * torch.randn_like(x)


EMBEDDED: dict[str, Callable[[], PilotTask]] = {"digits": digits_task}


@lru_cache(maxsize=8)
def load_task(source: str) -> PilotTask:
    """The task that a name stands for: ``digits``, ``file.py`` or ``file.py:function``.

    The file defines ``task``, a function that returns a `PilotTask` (or another name, after a
    colon). ``package.module:function`` works as well. It runs with the rights of the user.

    Raises:
        InputError: no such task, or one that fails, with its line.
    """
    if source in EMBEDDED:
        return EMBEDDED[source]()
    place, _, name = source.partition(":")
    name = name or "task"
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise InputError(f"no task file {place}")
        module = module_of(Path(place), "probcomp_task_")
    else:
        try:
            module = importlib.import_module(place)
        except (ImportError, ValueError) as error:  # ValueError: an empty name
            raise InputError(
                f"no task {source!r}: expected {', '.join(EMBEDDED)}, file.py, file.py:function "
                f"or package.module:function ({error})"
            ) from error
        except Exception as error:  # whatever the user's module raises, a SyntaxError too
            kind = type(error).__name__
            raise InputError(f"{place} raised {kind} when imported: {error}") from error
    made = getattr(module, name, None)
    if made is None:
        raise InputError(f"{place} has no {name!r}; define a function {name}() -> PilotTask.")
    value = made() if callable(made) else made
    if not isinstance(value, PilotTask):
        raise InputError(f"{source}: {name} gave {type(value).__name__}; expected a PilotTask.")
    return value
