"""What the regime model must beat: a process, a quadratic, a tree, and rules by hand.

The first three predict the typical run, ``exp`` of the mean logarithm. Compare errors on tables
without repeated runs: where runs repeat, the regime model predicts the mean over seeds instead.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from probcomp.regime.coordinates import Coordinates
from probcomp.regime.fit import KNOB_SLOPE, LOAD_SLOPE
from probcomp.regime.gp import GaussianProcess, draws
from probcomp.regime.knobs import Array
from probcomp.regime.table import RunTable

CONNECTED = -0.10
"""Connectivity (fraction of train error) below which the rule by hand calls runs disconnected."""

DISSIMILAR = 1.3
"""A run is called dissimilar where 1 - CKA exceeds this many times the least at its load."""


class ErrorModel(Protocol):
    """A baseline that predicts the test error from load and knobs alone."""

    def errors(self, settings: Array, load: Array, count: int, seed: int = 0) -> Array:
        """Draws of the test error (fraction), [count, rows]."""
        ...

    def observed(self, settings: Array, load: Array, count: int, seed: int = 0) -> Array:
        """Draws of the error a run would show, noise included, [count, rows]."""
        ...


def _inputs(coordinates: Coordinates, settings: Array, load: Array) -> Array:
    return np.column_stack([coordinates.load(load), coordinates.settings(settings)])


@dataclass(frozen=True)
class ProcessBaseline:
    """Matern-5/2 Gaussian process with slopes on the log error, at its most probable parameters.

    The slopes' prior is that of the process which the regime model is stacked with: one without
    slopes falls back to the mean of all runs outside of them, and is easily beaten there.
    """

    coordinates: Coordinates
    process: GaussianProcess
    values: Array

    @staticmethod
    def fit(table: RunTable) -> "ProcessBaseline":
        """Fit to all runs of a table."""
        co = Coordinates.of(table)
        values = co.observables(table)[:, 0]
        inputs = _inputs(co, table.settings, table.load)
        slopes = np.array([LOAD_SLOPE, *[KNOB_SLOPE] * table.settings.shape[1]])
        return ProcessBaseline(co, GaussianProcess.fit(inputs, values, slopes=slopes), values)

    def errors(self, settings: Array, load: Array, count: int, seed: int = 0) -> Array:
        """See `ErrorModel`."""
        weights, cover = self.process.condition(_inputs(self.coordinates, settings, load))
        z = draws(weights @ self.values, cover, count, np.random.default_rng(seed))
        return self.coordinates.error(z)

    def observed(self, settings: Array, load: Array, count: int, seed: int = 0) -> Array:
        """See `ErrorModel`."""
        weights, cover = self.process.condition(_inputs(self.coordinates, settings, load))
        cover = cover + self.process.noise**2 * np.eye(len(cover))
        z = draws(weights @ self.values, cover, count, np.random.default_rng(seed))
        return self.coordinates.error(z)


@dataclass(frozen=True)
class QuadraticBaseline:
    """Conjugate regression of the log error on all monomials of degree two or less.

    Coefficients ``N(0, s^2 10^2)``, noise ``s^2`` inverse gamma (1, 0.01).
    """

    coordinates: Coordinates
    mean: Any
    precision: Any
    shape: float
    rate: float

    @staticmethod
    def fit(table: RunTable) -> "QuadraticBaseline":
        """Fit to all runs of a table."""
        co = Coordinates.of(table)
        y = co.observables(table)[:, 0]
        features = _monomials(_inputs(co, table.settings, table.load))
        precision = features.T @ features + np.eye(features.shape[1]) / 100
        mean = np.linalg.solve(precision, features.T @ y)
        rate = 0.01 + 0.5 * float(y @ y - mean @ precision @ mean)
        return QuadraticBaseline(co, mean, precision, 1 + len(y) / 2, rate)

    def errors(self, settings: Array, load: Array, count: int, seed: int = 0) -> Array:
        """See `ErrorModel`."""
        return self.coordinates.error(self._z(settings, load, count, seed, noisy=False))

    def observed(self, settings: Array, load: Array, count: int, seed: int = 0) -> Array:
        """See `ErrorModel`."""
        return self.coordinates.error(self._z(settings, load, count, seed, noisy=True))

    def _z(self, settings: Array, load: Array, count: int, seed: int, *, noisy: bool) -> Array:
        generator = np.random.default_rng(seed)
        scale = np.sqrt(self.rate / generator.gamma(self.shape, size=(count, 1)))
        root = np.linalg.inv(np.linalg.cholesky(self.precision))
        steps = generator.standard_normal((count, len(self.mean))) @ root
        features = _monomials(_inputs(self.coordinates, settings, load))
        z = (self.mean + scale * steps) @ features.T
        return z + scale * generator.standard_normal(z.shape) * noisy


def _monomials(inputs: Array) -> Array:
    dims = inputs.shape[1]
    squares = [inputs[:, i] * inputs[:, j] for i in range(dims) for j in range(i, dims)]
    return np.column_stack([np.ones(len(inputs)), inputs, *squares])


@dataclass(frozen=True)
class TreeBaseline:
    """Regression tree of depth four on load and knobs; one value, repeated as draws."""

    coordinates: Coordinates
    tree: Any

    @staticmethod
    def fit(table: RunTable) -> "TreeBaseline":
        """Fit to all runs of a table."""
        from sklearn.tree import DecisionTreeRegressor

        co = Coordinates.of(table)
        tree = DecisionTreeRegressor(max_depth=4, random_state=0)
        tree.fit(_inputs(co, table.settings, table.load), co.observables(table)[:, 0])
        return TreeBaseline(co, tree)

    def errors(self, settings: Array, load: Array, count: int, seed: int = 0) -> Array:
        """See `ErrorModel`."""
        z = self.tree.predict(_inputs(self.coordinates, settings, load))
        return np.tile(self.coordinates.error(z), (count, 1))

    observed = errors


def connectivity_rule(table: RunTable) -> Array:
    """Raise (0), lower (1) or keep (2) for each run of a grid, from its own landscape.

    Disconnected: raise. Otherwise, where 1 - CKA exceeds 1.3 times the least among connected
    runs at the same load: lower. Otherwise keep. The cuts are fitted to the grid of Zhou et al.
    2023, whose own procedures have none.
    """
    unlike = 1 - table.similarity
    least = {load: unlike[table.load == load].min() for load in np.unique(table.load)}
    rows = zip(table.connectivity, unlike, table.load)
    return np.array([called(lmc, apart, least[load]) for lmc, apart, load in rows])


def called(connectivity: float, unlike: float, least: float) -> int:
    """The action of `connectivity_rule` for one run; ``least`` 1 - CKA at its load."""
    if connectivity < CONNECTED:
        return 0
    return 1 if unlike > DISSIMILAR * least else 2


def longest_training(table: RunTable) -> Array:
    """Lower (1) everywhere but at the coldest setting of the first knob, where it says keep."""
    heat = table.knobs[0].coordinate(table.settings[:, 0])
    return np.where(heat > heat.min(), 1, 2)


@dataclass(frozen=True)
class DiagnosisTree:
    """MD tree (Zhou et al. 2024, ICML): train error, connectivity and sharpness, depth three.

    Classifies "temperature too low" (raise, 0) against "too high" (lower, 1). The published tree
    has three fixed splits; here they are refitted, with the Gini index, on the training rows.
    """

    tree: Any

    @staticmethod
    def fit(features: Array, labels: Array) -> "DiagnosisTree":
        """``features`` [rows, 3] = (train error, connectivity, ln Hessian trace)."""
        from sklearn.tree import DecisionTreeClassifier

        tree = DecisionTreeClassifier(max_depth=3, min_samples_leaf=5, random_state=0)
        return DiagnosisTree(tree.fit(features, labels))

    def probability(self, features: Array) -> Array:
        """Probability of "too low" (raise), [rows]."""
        column = list(self.tree.classes_).index(0)
        return self.tree.predict_proba(features)[:, column]
