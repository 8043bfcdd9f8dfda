"""Diagnosis of one trained network from its own landscape: was its temperature too low?

Where the regime model needs runs around a setting, this needs the order parameters of one run, and
a collection of diagnosed runs (other widths, other data sizes) to learn from.

Boundaries in the landscape carry over to networks of other sizes, those in the hyperparameters do
not: a quadratic fitted up to width 32 says little at 128. Which to trust depends on the collection,
so a `StackedDiagnosis` weighs both, and a forest, by how they do on sizes that were left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from probcomp.errors import InputError
from probcomp.regime.coordinates import BARRIER_FLOOR, DISSIMILARITY_FLOOR
from probcomp.regime.knobs import Array
from probcomp.regime.stacking import stacking_weights

COLUMNS = (
    *("train_error", "mode_connectivity", "mode_connectivity_peak", "hessian_t", "CKA"),
    *("log_bs", "log_para_amount", "log_data_amount"),
)
LANDSCAPE = slice(0, 5)
"""The features of `order_parameters` that are measured on the network, not chosen."""

SIZES = (6, 7)
"""Features that tell how large network and data are."""

BLOCKS = 4
SURE = 0.002
"""Least chance that any member may give to either answer when members are compared."""

TREES, LEAF = 100, 3
RIDGES = np.geomspace(0.03, 100, 12)
NEWTON_STEPS = 60


def order_parameters(columns: Mapping[str, ArrayLike]) -> Array:
    """Features [rows, 8] of diagnosed runs, each about linear in its effect.

    ``ln(train error + .05 %)``, ``asinh`` of the connectivity (signed: below zero a barrier, above
    zero ends that are not yet at the bottom) and ``-ln(.5 % - peak)`` of its worst point, ln of
    the Hessian's trace, ``-ln(1 - CKA)``, and ln of batch size, weights and samples. Errors and
    connectivities in per cent, the trace already as its logarithm.

    Raises:
        InputError: a column is missing, or holds values that are not finite.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise InputError(
            f"missing column{'s' * (len(missing) > 1)}: {', '.join(missing)}; a diagnosis needs "
            f"{', '.join(COLUMNS)}."
        )
    value = {name: np.asarray(columns[name], float) for name in COLUMNS}
    bad = [name for name, v in value.items() if not np.all(np.isfinite(v))]
    if bad:
        raise InputError(f"column {bad[0]!r} has missing or non-finite values; leave those out.")
    peak = np.minimum(value["mode_connectivity_peak"], 0.0)
    return np.column_stack(
        [
            np.log(value["train_error"] + 0.05),
            np.arcsinh(value["mode_connectivity"]),
            -np.log(100 * BARRIER_FLOOR + 0.1 - peak),
            value["hessian_t"],
            -np.log(np.maximum(1 - value["CKA"], 0) + 10 * DISSIMILARITY_FLOOR),
            value["log_bs"],
            value["log_para_amount"],
            value["log_data_amount"],
        ]
    )


@dataclass(frozen=True)
class Diagnosis:
    """Posterior over a quadratic log-odds of "too cold", as a normal around its mode.

    ``logit P = w' phi(z)``: phi holds 1, the standardised features and their products two by two,
    so that each regime's boundary is a conic in the order parameters; ``w ~ N(0, 1 / ridge)`` and
    the ridge maximises Laplace's evidence (MacKay 1992, "The evidence framework applied to
    classification networks", eq. 10 and 12).
    """

    mean: Array
    scale: Array
    weights: Array
    cover: Array
    ridge: float

    @staticmethod
    def fit(features: Array, too_cold: ArrayLike, *, ridge: float | None = None) -> "Diagnosis":
        """Fit to features [rows, k] and labels [rows], true where the temperature was too low.

        ``ridge`` is found by the evidence if not given.
        """
        labels = np.asarray(too_cold, float)
        if features.ndim != 2 or len(features) != len(labels) or len(labels) < 10:
            raise InputError(f"features {features.shape}, {len(labels)} labels; need 10 or more.")
        if labels.min() == labels.max():
            raise InputError("all runs have the same label; runs of both kinds are needed.")
        _check_finite(features)
        mean, scale = features.mean(0), np.maximum(features.std(0), 1e-6)
        phi = _quadratic((features - mean) / scale)
        tried = RIDGES if ridge is None else [ridge]
        fits = [(_laplace(phi, labels, value), value) for value in tried]
        (_, weights, cover), best = max(fits, key=lambda fit: fit[0][0])
        return Diagnosis(mean, scale, weights, cover, float(best))

    def probability(self, features: Array) -> Array:
        """P(too cold) of each row, averaged over the posterior.

        ``sigma(m / sqrt(1 + pi v / 8))``, m and v the mean and variance of the log-odds: far
        from all that was seen the answer goes to one half.
        """
        _check_finite(features)
        phi = _quadratic((features - self.mean) / self.scale)
        variance = np.einsum("ij,jk,ik->i", phi, self.cover, phi)
        return expit(phi @ self.weights / np.sqrt(1 + np.pi * variance / 8))


@dataclass(frozen=True)
class StackedDiagnosis:
    """Members mixed by how they do on sizes of network and data that they have not seen.

    ``P = sum_k w_k P_k`` over a `Diagnosis` of all features (``all``), one of the landscape alone
    (``landscape``) and extremely randomised trees (``forest``; Geurts et al. 2006). The weights
    maximise the log score (Yao et al. 2018, eq. 4) on quarters of the collection, by number of
    weights and by number of samples, each predicted from the other three: two of the four lie
    outside what was fitted.
    """

    weights: dict[str, float]
    members: dict[str, Any]

    @staticmethod
    def fit(features: Array, too_cold: ArrayLike) -> "StackedDiagnosis":
        """Fit to `order_parameters` [rows, 8] and labels [rows].

        Raises:
            InputError: features of another shape or not finite, fewer than ten rows, or labels
                of one kind only.
        """
        labels = np.asarray(too_cold, bool)
        if features.ndim != 2 or features.shape[1] != len(COLUMNS):
            raise InputError(
                f"features {features.shape}; expected the {len(COLUMNS)} of order_parameters."
            )
        _check_finite(features)
        members = _members(features, labels)
        held = [_quarter(features[:, column]) == k for column in SIZES for k in range(BLOCKS)]
        scores: dict[str, list[Array]] = {name: [] for name in members}
        for out in held:
            # A quarter is empty where few sizes occur; one label alone teaches nothing.
            if not out.any() or len(np.unique(labels[~out])) < 2 or (~out).sum() < 10:
                continue
            part = _members(features[~out], labels[~out])
            for name, member in part.items():
                said = np.clip(_said(name, member, features[out]), SURE, 1 - SURE)
                scores[name].append(np.log(np.where(labels[out], said, 1 - said)))
        if not scores["all"]:
            return StackedDiagnosis(dict.fromkeys(members, 1 / len(members)), members)
        weights = stacking_weights({name: np.concatenate(v) for name, v in scores.items()})
        return StackedDiagnosis(weights, members)

    def probability(self, features: Array) -> Array:
        """P(too cold) of each row."""
        _check_finite(features)
        each = [w * _said(name, self.members[name], features) for name, w in self.weights.items()]
        return np.sum(each, axis=0)


def _members(features: Array, labels: Array) -> dict[str, Any]:
    """The members, each with all that it chooses (ridges too) chosen on these rows alone."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, random_state=0)
    return {
        "all": Diagnosis.fit(features, labels),
        "landscape": Diagnosis.fit(features[:, LANDSCAPE], labels),
        "forest": forest.fit(features, labels),
    }


def _check_finite(features: Array) -> None:
    """Refuse NaN: the forest would take it for a value, the others answer NaN."""
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if bad.size:
        raise InputError(
            f"{bad.size} row{'s' * (bad.size > 1)} of features (the first is row {bad[0] + 1}) "
            "hold missing or non-finite values; leave those out."
        )


def _said(name: str, member: Any, features: Array) -> Array:
    if name == "forest":
        return np.asarray(member.predict_proba(features)[:, 1], float)
    inputs = features[:, LANDSCAPE] if name == "landscape" else features
    return np.asarray(member.probability(inputs), float)


def _quarter(values: Array) -> Any:
    return np.digitize(values, np.quantile(values, [0.25, 0.5, 0.75]))


def _quadratic(z: Array) -> Array:
    pairs = [z[:, i] * z[:, j] for i in range(z.shape[1]) for j in range(i, z.shape[1])]
    return np.column_stack([np.ones(len(z)), z, *pairs])


def _laplace(phi: Array, labels: Array, ridge: float) -> tuple[float, Array, Array]:
    """Log evidence, mode and covariance of a ridge logistic regression; the constant is free."""
    prior = np.full(phi.shape[1], ridge)
    prior[0] = 1e-3
    weights = np.zeros(phi.shape[1])

    def loss(w: Array) -> float:
        odds = phi @ w
        return float(np.logaddexp(0, odds).sum() - labels @ odds + 0.5 * prior @ w**2)

    for _ in range(NEWTON_STEPS):
        p = expit(phi @ weights)
        slope = phi.T @ (p - labels) + prior * weights
        bend = (phi * (p * (1 - p))[:, None]).T @ phi + np.diag(prior)
        step = np.linalg.solve(bend, slope)
        size, before = 1.0, loss(weights)
        while loss(weights - size * step) > before and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if float(np.abs(step).max()) < 1e-8:
            break
    p = expit(phi @ weights)
    bend = (phi * (p * (1 - p))[:, None]).T @ phi + np.diag(prior)
    evidence = -loss(weights) + 0.5 * np.log(prior).sum() - 0.5 * np.linalg.slogdet(bend)[1]
    return float(evidence), weights, np.linalg.inv(bend)
