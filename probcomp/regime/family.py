"""Which network of a family to prune: the trained ones at hand, ranked at the density wanted.

The second use that Zhou et al. 2023 (ICML) make of the regimes. They drop candidates that are not
connected and take the best of the rest; here each has a posterior of its error after pruning, and
with it a probability of being the best.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from probcomp.errors import InputError
from probcomp.regime.checks import check_inside
from probcomp.regime.fit import RegimeModel


@dataclass(frozen=True)
class Candidate:
    """One network of the family.

    Attributes:
        settings: How it was trained, by knob.
        error_points: Expected test error after pruning and retraining, in points (per cent).
        error_interval: Its 90 % interval.
        best: Probability that its expected error is the least of the family.
        regime: Probability of I, II-A and II-B.
    """

    settings: dict[str, float]
    error_points: float
    error_interval: tuple[float, float]
    best: float
    regime: dict[str, float]


def rank_family(
    model: RegimeModel, settings: Mapping[str, ArrayLike], load: float
) -> list[Candidate]:
    """Candidates by expected error after pruning to ``load``, the least first.

    Args:
        model: A fit that passed its gates, to runs that surround the candidates.
        settings: Values of every knob, one a candidate: ``{"epochs": [40, 80, 160]}``.
        load: Density (or width) to prune to.

    Raises:
        InputError: fewer than two candidates, some outside the runs, or a fit that did not
            converge.
    """
    from probcomp.regime.model import REGIMES  # imports JAX

    values, loads = model.points(settings, load)
    if len(values) < 2:
        raise InputError("a family has at least two candidates; give several settings.")
    for position, knob in enumerate(model.table.knobs):
        check_inside(knob.name, values[:, position], model.table.settings[:, position])
    check_inside(model.table.load_name, loads, model.table.load)
    if not model.convergence.ok:
        raise InputError(f"no ranking from a fit that is {model.convergence}.")
    said = model.predict(values, loads)
    low, high = 100 * said.interval()
    mean = 100 * said.error.mean(0)
    best = np.bincount(said.error.argmin(1), minlength=len(values)) / len(said.error)
    names = [knob.name for knob in model.table.knobs]
    return [
        Candidate(
            dict(zip(names, map(float, values[k]))),
            float(mean[k]),
            (float(low[k]), float(high[k])),
            float(best[k]),
            dict(zip(REGIMES, map(float, said.regime[k]))),
        )
        for k in np.argsort(mean, kind="stable")
    ]
