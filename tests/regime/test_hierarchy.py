"""Tasks fitted together."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime import RegimeModel, model, read_runs
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.hierarchy import (
    BLOCKS,
    SPREAD,
    Hierarchy,
    TaskDraws,
    correlation_roots,
    stacked,
)
from probcomp.regime.model import FIXED_SIZE, PRIOR
from probcomp.regime.sampler import model_data
from probcomp.regime.toys import sk_table


def test_every_parameter_lies_in_one_block():
    named = [name for block in BLOCKS.values() for name in block]
    assert sorted(named) == sorted(PRIOR)
    assert set(BLOCKS) == set(SPREAD)


def test_a_task_alone_keeps_its_prior_and_tasks_correlate_as_r_says():
    spread = {"place": 0.2, "shape": 0.5, "effect": 0.8, "noise": 0.95}
    roots = correlation_roots(3, spread)
    assert roots.shape == (FIXED_SIZE, 3, 3)
    place = 0
    for name, (count, *_) in PRIOR.items():
        block = next(b for b, members in BLOCKS.items() if name in members)
        for root in roots[place : place + count]:
            cover = root @ root.T
            np.testing.assert_allclose(np.diag(cover), 1, atol=1e-12)
            np.testing.assert_allclose(cover[0, 2], 1 - spread[block] ** 2, atol=1e-12)
        place += count


def test_one_task_or_several_knobs_are_refused():
    columns, _ = sk_table([0.5, 1.0, 2.0], [0.5, 1.0, 2.0])
    with pytest.raises(InputError, match="1 task; a hierarchy needs two"):
        Hierarchy.fit({"a": columns})
    for bad in ({"mood": 0.5}, {"place": 1.5}):
        with pytest.raises(InputError):
            Hierarchy.fit({"a": columns, "b": columns}, spread=bad)
    both = {**columns, "lr": 0.1 + np.array([0.0, 5, 1, 7, 3, 8, 2, 6, 4])}
    with pytest.raises(InputError, match="several knobs"):
        Hierarchy.fit({"a": columns, "b": both})


def test_draws_read_as_a_model_reads_them():
    marks = np.array([[False, True, False], [True, True, False]])
    draws = TaskDraws(np.arange(24.0).reshape(2, 3, 4), marks)
    assert draws.get_samples()["u"].shape == (6, 4)
    assert draws.get_samples(group_by_chain=True)["u"].shape == (2, 3, 4)
    np.testing.assert_array_equal(
        draws.get_extra_fields()["diverging"], [False, True, False, True, True, False]
    )


def test_padding_rows_count_for_nothing():
    """Two tasks of different size, side by side and one by one, under the same parameters."""
    import jax
    import numpyro

    numpyro.enable_x64()
    values = np.array([0.5, 1.0, 2.0])
    datas = []
    for size, seed in ((3, 0), (2, 1)):
        columns, _ = sk_table(values[:size], values, noise=0.02, seed=seed)
        table = read_runs(columns)
        datas.append(model_data(table, Coordinates.of(table))[0])
    both = stacked(datas)
    assert both["x"].shape == (2, 9)
    assert both["valid"].sum() == 15
    row = 0.3 * np.random.default_rng(0).normal(size=FIXED_SIZE)
    theta = model.parameters(row, (False,))
    together = jax.vmap(lambda task: model.log_likelihood(theta, task).sum())(both)
    each = [model.log_likelihood(theta, data).sum() for data in datas]
    np.testing.assert_allclose(together, each, rtol=1e-12)


@pytest.mark.slow
def test_a_known_task_helps_one_with_five_runs():
    values = np.geomspace(0.5, 2.2, 5)
    known, _ = sk_table(values, values, noise=0.01)
    new, _ = sk_table(values, values, noise=0.01, seed=3)
    full = read_runs(new)
    few = {name: np.asarray(column)[[0, 4, 12, 20, 24]] for name, column in new.items()}
    pooled = Hierarchy.fit({"known": known, "new": few}, warmup=400, samples=400)
    alone = RegimeModel.fit(few, warmup=400, samples=400)

    def miss(model):
        mean = model.predict(full.settings, full.load).error.mean(0)
        return np.sqrt(np.mean((mean - full.error) ** 2))

    assert pooled.convergence.ok, str(pooled.convergence)
    assert miss(pooled.tasks["new"]) < miss(alone)
    assert pooled.spread == SPREAD
