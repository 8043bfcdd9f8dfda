"""Pilots: train, prune, retrain with independent seeds, and measure the landscape between them.

`run_pilot` is a function of its configuration alone; the store is a cache of what such runs have
given before. One record is written for each retrained model and one for each pair, when they are
ready, so a killed sweep loses at most the training in progress.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError, InputError
from probcomp.regime.landscape import (
    agreement,
    cka,
    classification_error,
    linear_connectivity,
    outputs_of,
)
from probcomp.regime.measures import dense_measures
from probcomp.regime.pruning import density_of, make_masks
from probcomp.regime.recipe import Recipe
from probcomp.regime.store import Record, Store, content_key
from probcomp.regime.tasks import PilotTask, load_task
from probcomp.regime.training import TrainState, mix, train

RETRAINING = 1
"""Sets the random numbers of retrainings apart from those of dense runs."""

MEASURE_BATCH = 512
LMC_POINTS = 11


@dataclass(frozen=True)
class PilotConfig:
    """One pilot: a dense network, pruned once and retrained with each of ``retrain_seeds``.

    Attributes:
        task: What `load_task` reads: ``digits``, ``file.py:function``.
        fingerprint: Hash of the task's data and network, so that a changed task is a new pilot.
        recipe: Stage 1, with the knob set; retrain: stage 3.
        density: Share of the prunable weights kept; method: the rule that chooses them.
        dense_seed: Of stage 1 (initial weights and batches).
    """

    task: str
    fingerprint: str
    recipe: Recipe
    density: float
    method: str
    dense_seed: int
    retrain: Recipe
    retrain_seeds: tuple[int, ...]

    @property
    def dense_key(self) -> str:
        """Of the dense run up to its stop: shared by all densities, methods and retrain seeds."""
        return content_key({"of": self.fingerprint, "recipe": self._dense(), "seed": self.seed})

    @property
    def trajectory_key(self) -> str:
        """Of the dense run whatever its stop: checkpoints of one run at different epochs."""
        recipe = {**self._dense(), "epochs": None}
        return content_key({"of": self.fingerprint, "recipe": recipe, "seed": self.seed})

    @property
    def seed(self) -> int:
        """Seed of the dense run."""
        return self.dense_seed

    def _dense(self) -> dict[str, Any]:
        return self.recipe.to_json()

    def randomness(self, seed: int) -> int:
        """What seeds the batches and the noise of one retraining.

        It depends on the dense seed too: were seed 0 the same batches for every dense network, the
        luck of that order would be common to all pilots, and their spread would not show it. It
        does not depend on knob and density, which are so compared under equal batches.
        """
        return mix(RETRAINING, self.dense_seed, seed)

    def run_key(self, seed: int) -> str:
        """Of one retrained model."""
        drawn = self.randomness(seed)
        return content_key({"dense": self.dense_key, "randomness": drawn, **self._pruned()})

    @property
    def key(self) -> str:
        """Of the whole pilot."""
        drawn = sorted(map(self.randomness, self.retrain_seeds))
        return content_key({"dense": self.dense_key, "randomness": drawn, **self._pruned()})

    def _pruned(self) -> dict[str, Any]:
        retrain = self.retrain.to_json()
        return {"density": self.density, "method": self.method, "retrain": retrain}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        out = asdict(self)
        out["recipe"], out["retrain"] = self.recipe.to_json(), self.retrain.to_json()
        out["retrain_seeds"] = list(self.retrain_seeds)
        return out

    @staticmethod
    def of(values: Mapping[str, Any]) -> "PilotConfig":
        """The configuration written by `to_json`."""
        try:
            recipe, retrain = Recipe.of(values["recipe"]), Recipe.of(values["retrain"])
            seeds = tuple(int(seed) for seed in values["retrain_seeds"])
            changed = {"recipe": recipe, "retrain": retrain, "retrain_seeds": seeds}
            return PilotConfig(**{**values, **changed})
        except (KeyError, TypeError) as error:
            raise InputError(f"not the configuration of a pilot: {error}") from error


def pilot_configs(
    task: PilotTask | str,
    value: float,
    density: float,
    *,
    method: str | None = None,
    dense_seeds: Sequence[int] | None = None,
) -> list[PilotConfig]:
    """The pilots of one cell (a value of the knob and a density), one for each dense seed.

    Those are the task's, unless others are named.
    """
    source = task if isinstance(task, str) else ""
    task = load_task(task) if isinstance(task, str) else task
    fingerprint = task.fingerprint()
    return [
        PilotConfig(
            source, fingerprint, task.recipe.turned(task.knob, value), float(density),
            method or task.prune, seed, task.retrain, tuple(task.retrain_seeds),
        )
        for seed in (task.dense_seeds if dense_seeds is None else dense_seeds)
    ]  # fmt: skip


def run_pilot(
    config: PilotConfig, store: Store | None = None, *, task: PilotTask | None = None
) -> Record:
    """Run one pilot, or read what it gave before.

    Args:
        config: What to run.
        store: Where finished parts are kept; without one nothing is kept.
        task: The task itself, where it is not to be loaded from ``config.task``.

    Returns:
        ``{"key", "config", "dense", "runs": [one a retrained model], "pairs": [one a pair]}``.
        ``status`` of the pilot is ``diverged`` where a training lost its footing (a loss, weights
        or logits that are not finite, a network that says the same of every sample), and
        ``reason`` then says what happened; such a pilot has no pairs.
    """
    done = store.pilots.get(config.key) if store else None
    if done is not None:
        return done
    task = task or load_task(config.task)
    if task.fingerprint() != config.fingerprint:
        raise InputError(
            f"task {task.name!r} has changed since this pilot was planned; plan it anew."
        )
    record: Record = {"key": config.key, "config": config.to_json(), "task": task.name}
    try:
        dense, about = dense_network(config, task, store)
        masks = make_masks(dense, task, config.density, config.method, config.dense_seed)
        runs, models = [], []
        for seed in config.retrain_seeds:
            run, model = _retrained(config, task, store, dense, masks, seed)
            runs.append({**run, "dense_train_error": about["train_error"]})
            models.append(model)
        pairs = [
            _pair(config, task, store, (runs[i], runs[j]), (models[i], models[j]))
            for i, j in itertools.combinations(range(len(models)), 2)
        ]
        record |= {"status": "done", "dense": about, "runs": runs, "pairs": pairs}
    except DivergenceError as error:
        record |= {"status": "diverged", "reason": str(error), "runs": [], "pairs": []}
    if store is not None:
        store.pilots.put(config.key, record)
        for seed in config.retrain_seeds:  # needed for the pairs only
            store.weights("runs", config.run_key(seed)).unlink(missing_ok=True)
    return record


def dense_network(
    config: PilotConfig, task: PilotTask, store: Store | None
) -> tuple[nn.Module, Record]:
    """The dense network of a pilot, and its errors; continued from the nearest checkpoint."""
    model = task.fresh(config.dense_seed)
    key, trajectory = config.dense_key, config.trajectory_key
    about = store.dense.get(key) if store else None
    tensors = store.load_weights("dense", trajectory, key) if store and about else None
    if about is not None and tensors is not None:
        model.load_state_dict(_part(tensors, "model."))
        return model.eval(), about
    began = time.perf_counter()
    state, used = _nearest(config, task, store, model)
    recipe = config.recipe
    state = train(
        model, task.train, recipe, seed=config.dense_seed, state=state, augment=task.augment
    )
    about = {
        "train_error": error_of(model, task.train),
        "test_error": error_of(model, task.test),
        "epochs": recipe.epochs,
        "trajectory": trajectory,
        "steps": state.step,
        "continued_from": used,
        "wall_s": time.perf_counter() - began,  # of training: costs of further pilots follow it
    }
    if task.measure:
        about |= dense_measures(model, task)
    if store is not None:
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"momentum.{k}": v for k, v in state.momentum.items()}
        store.save_weights(tensors, "dense", trajectory, key)
        store.dense.put(key, about)
    return model, about


def _nearest(
    config: PilotConfig, task: PilotTask, store: Store | None, model: nn.Module
) -> tuple[TrainState, int]:
    """The last checkpoint of the same run before the stop, loaded into ``model``."""
    if store is None:
        return TrainState(), 0
    stop = config.recipe.steps(len(task.train[0]))
    best: tuple[int, str] = (0, "")
    for path in store.weights("dense", config.trajectory_key, "x").parent.glob("*.safetensors"):
        about = store.dense.get(path.stem)
        if about is not None and best[0] < about["steps"] <= stop:
            best = (about["steps"], path.stem)
    tensors = store.load_weights("dense", config.trajectory_key, best[1]) if best[1] else None
    if tensors is None:
        return TrainState(), 0
    model.load_state_dict(_part(tensors, "model."))
    return TrainState(best[0], _part(tensors, "momentum.")), best[0]


def _retrained(
    config: PilotConfig,
    task: PilotTask,
    store: Store | None,
    dense: nn.Module,
    masks: dict[str, Tensor],
    seed: int,
) -> tuple[Record, nn.Module]:
    """One retrained model and its record."""
    key = config.run_key(seed)
    model = task.fresh(config.dense_seed)
    model.load_state_dict(dense.state_dict())
    record = store.runs.get(key) if store else None
    tensors = store.load_weights("runs", key) if store and record else None
    if record is not None and tensors is not None:
        model.load_state_dict(tensors)
        return record, model.eval()
    began = time.perf_counter()
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    pruned = error_of(model, task.test)
    drawn = config.randomness(seed)
    train(model, task.train, config.retrain, seed=drawn, masks=masks, augment=task.augment)
    realised = density_of(model, masks, task)
    record = {
        "run": key,
        "dense_seed": config.dense_seed,
        "retrain_seed": seed,
        "density": config.density,
        "density_realised": realised,
        "sparsity_realised": 1 - realised,
        "kept_by_layer": {name: float(mask.float().mean()) for name, mask in masks.items()},
        "pruned_test_error": pruned,
        "train_error": error_of(model, task.train),
        "test_error": error_of(model, task.test),
        "wall_s": time.perf_counter() - began,
        "device": str(next(model.parameters()).device),
        "versions": {"torch": torch.__version__, "numpy": version("numpy")},
    }
    if store is not None:
        store.save_weights(model.state_dict(), "runs", key)
        store.runs.put(key, record)
    return record, model


def _pair(
    config: PilotConfig,
    task: PilotTask,
    store: Store | None,
    runs: tuple[Record, Record],
    models: tuple[nn.Module, nn.Module],
) -> Record:
    """Connectivity and similarity of two retrained models, on the training set."""
    key = content_key({"runs": [run["run"] for run in runs]})
    record = store.pairs.get(key) if store else None
    if record is not None:
        return record
    began = time.perf_counter()
    batches = in_batches(task.train)
    lmc, curve = linear_connectivity(models[0], models[1], batches, points=LMC_POINTS)
    logits = [outputs_of(model, batches) for model in models]
    if any(bool((v == v[0]).all()) for v in logits):
        # No barrier and full agreement would be said of networks that have no opinion.
        raise DivergenceError(
            "a retrained network gives every sample the same logits; lower the retraining's lr, or "
            "keep more weights"
        )
    record = {
        "pair": key,
        "retrain_seeds": [run["retrain_seed"] for run in runs],
        "lmc": lmc,
        "lmc_curve": curve.tolist(),
        "cka_softmax": cka(*[v.softmax(1) for v in logits]),
        "cka_logits": cka(*logits),
        "agreement": agreement(*logits),
        "wall_s": time.perf_counter() - began,
    }
    if store is not None:
        store.pairs.put(key, record)
    return record


def in_batches(samples: tuple[Tensor, Tensor], size: int = MEASURE_BATCH) -> list[Any]:
    """Samples in order, as a list of batches."""
    return list(zip(samples[0].split(size), samples[1].split(size)))


@torch.no_grad()
def error_of(model: nn.Module, samples: tuple[Tensor, Tensor]) -> float:
    """Share of samples classified wrongly by the network, which is left in evaluation mode."""
    return classification_error(model.eval(), in_batches(samples))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def at_epochs(config: PilotConfig, epochs: float) -> PilotConfig:
    """The same dense run, stopped elsewhere."""
    return replace(config, recipe=replace(config.recipe, epochs=epochs))
