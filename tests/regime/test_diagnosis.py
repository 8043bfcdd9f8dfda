"""Diagnosis: the posterior against quadrature, boundaries it must find, and bad input."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from probcomp.errors import InputError
from probcomp.regime.diagnosis import (
    COLUMNS,
    LANDSCAPE,
    Diagnosis,
    StackedDiagnosis,
    _laplace,
    order_parameters,
)


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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad):
    features, labels = collection(60, 0, [-1.0, 0.0, 1.0])
    models = [Diagnosis.fit(features, labels), StackedDiagnosis.fit(features, labels)]
    features[[4, 9], 2] = bad
    for kind, model in zip((Diagnosis, StackedDiagnosis), models):
        with pytest.raises(InputError, match=r"2 rows of features \(the first is row 5\)"):
            kind.fit(features, labels)
        with pytest.raises(InputError, match="2 rows of features"):
            model.probability(features)


def test_one_label_is_refused_by_the_stack_too():
    features, _ = collection(60, 0, [-1.0, 0.0, 1.0])
    for label in (True, False):
        with pytest.raises(InputError, match="same label"):
            StackedDiagnosis.fit(features, np.full(60, label))


def test_left_out_fits_choose_their_own_ridge(monkeypatch):
    """With the ridge of all rows they would have seen the rows they are judged on."""
    given = []
    fit = Diagnosis.fit

    def watched(features, labels, *, ridge=None):
        given.append(ridge)
        return fit(features, labels, ridge=ridge)

    monkeypatch.setattr(Diagnosis, "fit", staticmethod(watched))
    StackedDiagnosis.fit(*collection(60, 0, [-1.0, 0.0, 1.0]))
    assert len(given) > 2
    assert set(given) == {None}


def collection(rows, seed, sizes):
    """Runs whose label the landscape decides; how the hyperparameters follow it bends with size."""
    generator = np.random.default_rng(seed)
    landscape = generator.normal(size=(rows, 5))
    weights = generator.choice(sizes, rows)
    batch = landscape[:, 0] + 0.5 * np.abs(weights) ** 1.5 + 0.2 * generator.normal(size=rows)
    data = generator.normal(size=rows)
    labels = landscape[:, 0] - landscape[:, 1] + 0.3 * generator.normal(size=rows) > 0
    return np.column_stack([landscape, batch, weights, data]), labels


def test_weights_go_to_what_carries_over_to_other_sizes():
    features, labels = collection(600, 0, [-1.0, -0.5, 0.0, 0.5])
    # The batch size follows the landscape by a law that bends where nothing was seen.
    model = StackedDiagnosis.fit(features, labels)
    assert sum(model.weights.values()) == pytest.approx(1)
    unseen, truth = collection(600, 1, [2.0, 3.0])
    right = np.mean((model.probability(unseen) > 0.5) == truth)
    alone = {
        name: np.mean((member.probability(unseen[:, columns]) > 0.5) == truth)
        for name, member, columns in (
            ("all", model.members["all"], slice(0, 8)),
            ("landscape", model.members["landscape"], LANDSCAPE),
        )
    }
    assert right > 0.85
    assert right >= alone["all"] - 0.02
    assert right >= alone["landscape"] - 0.02
    with pytest.raises(InputError, match="the 8 of order_parameters"):
        StackedDiagnosis.fit(features[:, :3], labels)


def test_it_beats_the_refitted_tree_on_sizes_it_has_not_seen(real_data, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from _regime_diagnosis import diagnosed_runs

    from probcomp.regime.baselines import DiagnosisTree

    runs = diagnosed_runs(real_data)
    features, tree_features = runs["features"], runs["tree_features"]
    cold = runs["too_cold"]
    for out in (runs["data"] == 1, runs["data"] == 10, runs["width"] >= 45):
        ours = StackedDiagnosis.fit(features[~out], cold[~out]).probability(features[out])
        tree = DiagnosisTree.fit(tree_features[~out], np.where(cold[~out], 0, 1))
        right = np.mean((ours > 0.5) == cold[out])
        assert right >= np.mean((tree.probability(tree_features[out]) > 0.5) == cold[out])
        assert right > 0.9
