"""Diagnosis: the posterior against quadrature, boundaries it must find, and bad input."""

import numpy as np
import pytest
from scipy.special import expit

from probcomp.errors import InputError
from probcomp.regime.diagnosis import COLUMNS, Diagnosis, _laplace, order_parameters


def test_laplace_is_close_to_quadrature_in_one_dimension():
    generator = np.random.default_rng(0)
    x = generator.normal(size=200)
    y = (generator.random(200) < expit(1.3 * x)).astype(float)
    phi = np.column_stack([1e-9 * np.ones(200), x])  # the constant is out of play
    evidence, weights, cover = _laplace(phi, y, 2.0)
    w = np.linspace(-3, 5, 4001)
    log = (y[:, None] * np.outer(x, w) - np.logaddexp(0, np.outer(x, w))).sum(0) - w**2
    log += 0.5 * np.log(2 / (2 * np.pi))
    density = np.exp(log - log.max())
    step = w[1] - w[0]
    total = density.sum() * step
    mean = (w * density).sum() * step / total
    spread = np.sqrt(((w - mean) ** 2 * density).sum() * step / total)
    # 200 samples: skewness moves mean and mode apart by a tenth of the spread.
    assert weights[1] == pytest.approx(mean, abs=0.1 * spread)
    assert np.sqrt(cover[1, 1]) == pytest.approx(spread, rel=0.03)
    assert evidence == pytest.approx(log.max() + np.log(total), abs=0.02)


def test_it_finds_a_conic_boundary_and_is_unsure_far_away():
    generator = np.random.default_rng(1)
    z = generator.normal(size=(600, 2))
    labels = (z**2).sum(1) < 1.2
    model = Diagnosis.fit(z[:400], labels[:400])
    said = model.probability(z[400:])
    assert np.mean((said > 0.5) == labels[400:]) > 0.93
    # Chance of a tie between sides grows with the variance of the log-odds.
    assert model.probability(np.zeros((1, 2)))[0] > 0.9


def test_probabilities_are_calibrated_where_labels_are_noisy():
    generator = np.random.default_rng(2)
    z = generator.normal(size=(4000, 2))
    truth = expit(1.5 * z[:, 0] - z[:, 1] ** 2 + 1)
    labels = generator.random(4000) < truth
    said = Diagnosis.fit(z[:1000], labels[:1000]).probability(z[1000:])
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (said >= low) & (said < low + 0.25)
        assert labels[1000:][inside].mean() == pytest.approx(said[inside].mean(), abs=0.05)


def test_what_is_missing_is_named():
    columns = {name: np.ones(3) for name in COLUMNS}
    assert order_parameters(columns).shape == (3, 8)
    del columns["CKA"], columns["log_bs"]
    with pytest.raises(InputError, match="missing columns: CKA, log_bs"):
        order_parameters(columns)
    columns |= {"CKA": [1.0, np.nan, 1.0], "log_bs": np.ones(3)}
    with pytest.raises(InputError, match="'CKA' has missing"):
        order_parameters(columns)


def test_one_label_or_few_rows_are_refused():
    with pytest.raises(InputError, match="same label"):
        Diagnosis.fit(np.random.default_rng(0).normal(size=(20, 2)), np.ones(20))
    with pytest.raises(InputError, match="need 10"):
        Diagnosis.fit(np.zeros((3, 2)), [0, 1, 1])


def test_it_beats_the_refitted_tree_on_data_sizes_it_has_not_seen(real_data):
    from benchmarks.regime import diagnosed_runs
    from probcomp.regime.baselines import DiagnosisTree

    runs = diagnosed_runs(real_data)
    features, tree_features = runs["features"], runs["tree_features"]
    cold, sizes = runs["too_cold"], runs["data"]
    right = {"ours": [], "tree": []}
    for size in (1, 10):
        out = sizes == size
        ours = Diagnosis.fit(features[~out], cold[~out]).probability(features[out])
        tree = DiagnosisTree.fit(tree_features[~out], np.where(cold[~out], 0, 1))
        right["ours"] += list((ours > 0.5) == cold[out])
        right["tree"] += list((tree.probability(tree_features[out]) > 0.5) == cold[out])
    assert np.mean(right["ours"]) > np.mean(right["tree"])
    assert np.mean(right["ours"]) > 0.9
