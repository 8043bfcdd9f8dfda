import math

import pytest

from probcomp.errors import InputError
from probcomp.inference.training import TurboConfig


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"rounds must be at least 1, got 0; .*damping must be in"):
        TurboConfig(rounds=0, damping=1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("steps", 0),
        ("refit_steps", -1),
        ("refit_epochs", -1),
        ("refit_teacher", 1.1),
        ("learn", "all"),
        ("coupling_start", -1.0),
        ("coupling_rounds", 1.5),
        ("max_coupling", 1.5),
        ("temperature", 0.0),
        ("learning_rate", 0.0),
        ("sigma_rate", math.inf),
        ("kl_weight", -0.1),
        ("kl_weight", math.nan),
        ("kappa_start", 1.0),
        ("kappa_end", 0.0),
        ("target_rounds", 1.5),
        ("freeze_below", 0.0),
        ("kernels", "both"),
        ("linear_draw", "x"),
        ("convolution_draw", ""),
    ],
)
def test_single_faults(name: str, value) -> None:
    with pytest.raises(InputError, match=f"{name} must be"):
        TurboConfig(**{name: value})


def test_a_coupling_does_not_rise_and_learn_at_once() -> None:
    TurboConfig(coupling_start=0.5)
    with pytest.raises(InputError, match="coupling_start must be None, or"):
        TurboConfig(coupling_start=0.5, learn="coupling")
