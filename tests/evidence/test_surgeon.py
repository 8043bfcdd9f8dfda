"""Blocked tables against the plain updates of the surgeon."""

import pytest
import torch

from probcomp.evidence import surgeon
from probcomp.evidence.surgeon import GroupedColumns, SingleColumns
from probcomp.inference.quadratic import Quadratic
from tests.evidence.seen import rows, weights

ROUNDING = {False: 1e-8, True: 1e-3}
"""Relative error of scores in double and in single precision."""


@pytest.mark.parametrize("single", [False, True])
def test_blocks_change_nothing(single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of one column, as groups of one: removals past several blocks, columns of no unit."""
    monkeypatch.setattr(surgeon, "BLOCK", 5)
    monkeypatch.setattr(surgeon, "WIDE", 10 if single else 100)
    x, w = rows(200, 40, common=1.0), weights(6, 40)
    quadratic = Quadratic(w, x.T @ x, 1e-2)
    columns = torch.arange(39, 6, -1)  # the first seven belong to no unit
    fast, plain = SingleColumns(quadratic, columns), GroupedColumns(quadratic, columns[:, None])
    for _ in range(30):
        expected, found = plain.scores(33), fast.scores(33)
        live = torch.isfinite(expected)
        assert torch.equal(live, torch.isfinite(found))
        torch.testing.assert_close(
            found[live].double(), expected[live], rtol=ROUNDING[single], atol=0
        )
        unit = int(expected.argmin())
        fast.remove(unit)
        plain.remove(unit)
