import pytest
import torch

from probcomp.errors import InputError
from probcomp.evidence import Statistics
from probcomp.evidence.wanda import column_scores, scores
from tests.evidence.seen import rows, statistics, weights

ROUNDING = 1e-12


def test_the_score_is_the_published_formula():
    x, w = rows(40, 6), weights(5, 6)
    found = column_scores(w, statistics(x, samples=8))
    for j in range(6):
        norm = sum(float(x[t, j]) ** 2 for t in range(40)) ** 0.5 / 8**0.5
        naive = sum(abs(float(w[i, j])) * norm for i in range(5)) / 5
        assert abs(float(found[j]) - naive) <= ROUNDING * naive


def test_a_unit_sums_its_columns():
    x, w = rows(40, 6), weights(5, 6)
    seen = statistics(x, 8)
    columns = torch.tensor([[0, 3], [1, 4], [2, 5]])
    each = column_scores(w, seen)
    assert torch.equal(scores(w, seen, columns), torch.stack([each[c].sum() for c in columns]))


def test_other_statistics_are_refused():
    with pytest.raises(InputError, match="Gram matrix of its inputs"):
        column_scores(weights(5, 7), statistics(rows(40, 6), 8))
    nothing = Statistics(torch.zeros(6, 6), torch.zeros(6), 0, 0)
    with pytest.raises(InputError, match="hold no rows"):
        column_scores(weights(5, 6), nothing)
