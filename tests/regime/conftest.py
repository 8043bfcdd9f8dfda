"""One fit, shared by all test processes: sampling is what costs."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from probcomp.regime import RegimeModel
from probcomp.regime.sampler import Convergence
from probcomp.regime.toys import sk_table

# With this seed chains of this length pass the gates at once; else they would run twice.
LENGTH = {"warmup": 350, "samples": 350, "seed": 2}


@dataclass(frozen=True)
class Kept:
    """A finished sampler, read from a file."""

    u: np.ndarray
    diverging: np.ndarray

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Draws, [chains, draws, size] or [draws, size]."""
        return {"u": self.u if group_by_chain else self.u.reshape(-1, self.u.shape[-1])}

    def get_extra_fields(self) -> dict[str, np.ndarray]:
        """Which draws ended a divergent trajectory."""
        return {"diverging": self.diverging}


def kept_fit(path: Path, columns: dict[str, np.ndarray]) -> RegimeModel:
    """The fit at ``path``, made first where no other process has made it."""
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            model = RegimeModel.fit(columns, residual=False, **LENGTH)
            gates = model.convergence
            numbers = [gates.rhat, gates.ess, gates.divergences, gates.draws]
            drawn = np.asarray(model.mcmc.get_samples(group_by_chain=True)["u"])
            diverging = np.asarray(model.mcmc.get_extra_fields()["diverging"])
            np.savez(path, u=drawn, diverging=diverging, gates=numbers)
    kept = np.load(path)
    rhat, ess, *counts = kept["gates"]
    bare = RegimeModel.of_draws(
        columns, Kept(kept["u"], kept["diverging"]), Convergence(rhat, ess, *map(int, counts))
    )
    return replace(bare, seed=LENGTH["seed"]).with_processes()


@pytest.fixture(scope="session")
def spin_glass(tmp_path_factory, worker_id) -> tuple[RegimeModel, list[str]]:
    """The model fitted to 25 cells of the Sherrington-Kirkpatrick diagram, and their regimes."""
    columns, regimes = sk_table(np.geomspace(0.5, 2.2, 5), np.geomspace(0.5, 2.2, 5), noise=0.01)
    columns["wall_s"] = np.full(25, 4.0)
    folder = tmp_path_factory.getbasetemp()
    # Processes of one run have folders beside each other.
    shared = folder if worker_id == "master" else folder.parent
    return kept_fit(shared / "spin_glass.npz", columns), regimes
