"""One fit, shared: sampling is what costs."""

import numpy as np
import pytest

from probcomp.regime import RegimeModel
from probcomp.regime.toys import sk_table


@pytest.fixture(scope="session")
def spin_glass() -> tuple[RegimeModel, list[str]]:
    """The model fitted to 25 cells of the Sherrington-Kirkpatrick diagram, and their regimes."""
    columns, regimes = sk_table(np.geomspace(0.5, 2.2, 5), np.geomspace(0.5, 2.2, 5), noise=0.01)
    columns["wall_s"] = np.full(25, 4.0)
    # With this seed chains of this length pass the gates at once; else they would run twice.
    return RegimeModel.fit(columns, warmup=350, samples=350, seed=2), regimes
