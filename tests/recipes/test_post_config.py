"""How calibration samples are divided."""

import pytest
import torch

from probcomp.recipes.post_config import PostConfig, parts_of


@pytest.mark.parametrize("named", [False, True])
def test_samples_that_measure_are_spread_over_sorted_data(named: bool) -> None:
    x = torch.arange(103)
    fitted, tried = parts_of({"x": x} if named else (x,), PostConfig(measured=16))
    first, second = (p["x"] if named else p[0] for p in (fitted, tried))
    assert len(second) == 16
    assert torch.equal(torch.cat([first, second]).sort().values, x)
    assert int(second.diff().max()) <= 7
    assert int(second[0]) < 7
    assert int(second[-1]) > 95
