import pytest

from probcomp.errors import InputError
from probcomp.evaluation import Estimate
from probcomp.evaluation.estimate import check_level


def test_reads_as_a_number_with_its_interval() -> None:
    assert str(Estimate(0.5, 0.25, 0.75, 0.9, "Wilson", 9)) == "0.5 (90% 0.25 to 0.75)"


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, float("nan"), 95])
def test_level_is_a_probability(level) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        check_level(level)
