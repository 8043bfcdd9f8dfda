"""Tasks fitted together."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime import RegimeModel, read_runs
from probcomp.regime.hierarchy import BLOCKS, Hierarchy, TaskDraws, _columns, _mixed
from probcomp.regime.model import FIXED_SIZE, PRIOR
from probcomp.regime.toys import sk_table


def test_every_parameter_lies_in_one_block():
    named = [name for block in BLOCKS.values() for name in block]
    assert sorted(named) == sorted(PRIOR)
    columns = _columns()
    assert len(columns) == FIXED_SIZE
    assert columns[0] == columns[1] == list(BLOCKS).index("place")


def test_a_task_alone_keeps_its_prior_and_tasks_correlate_as_r_says():
    generator = np.random.default_rng(0)
    count = 40_000
    shared = generator.normal(size=(count, FIXED_SIZE))
    own = generator.normal(size=(2, count, FIXED_SIZE))
    r = np.tile([0.2, 0.5, 0.8, 0.95], (count, 1))
    first, second = _mixed(shared, own[0], r), _mixed(shared, own[1], r)
    # Five standard errors of variances and correlations of 40,000 draws are below .04.
    np.testing.assert_allclose(first.var(0), 1, atol=0.04)
    expected = (1 - r[0] ** 2)[_columns()]
    np.testing.assert_allclose((first * second).mean(0), expected, atol=0.04)


def test_one_task_or_several_knobs_are_refused():
    columns, _ = sk_table([0.5, 1.0, 2.0], [0.5, 1.0, 2.0])
    with pytest.raises(InputError, match="1 task; a hierarchy needs two"):
        Hierarchy.fit({"a": columns})
    both = {**columns, "lr": 0.1 + np.arange(9.0)}
    with pytest.raises(InputError, match="several knobs"):
        Hierarchy.fit({"a": columns, "b": both})


def test_draws_read_as_a_model_reads_them():
    draws = TaskDraws(np.arange(24.0).reshape(2, 3, 4))
    assert draws.get_samples()["u"].shape == (6, 4)
    assert draws.get_samples(group_by_chain=True)["u"].shape == (2, 3, 4)
    assert not draws.get_extra_fields()["diverging"].any()


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

    assert pooled.convergence.rhat < 1.05
    assert miss(pooled.tasks["new"]) < miss(alone)
    assert set(pooled.spread) == set(BLOCKS)
