"""Fits of a benchmark, kept on disk so that a killed run goes on where it was."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probcomp.regime.coordinates import Coordinates
from probcomp.regime.fit import RegimeModel
from probcomp.regime.sampler import Convergence
from probcomp.regime.table import RunTable


@dataclass(frozen=True)
class Fits:
    """Fits by name; read again from ``folder`` where an earlier run left them."""

    folder: Path | None = None

    def fit(self, table: RunTable, name: str, seed: int = 0) -> tuple[RegimeModel, float]:
        """A fit and the seconds of CPU it took."""
        path = None if self.folder is None else self.folder / f"{name}.npz"
        if path is not None and path.is_file():
            kept = np.load(path)
            coordinates = Coordinates.of(table)
            gates = Convergence(*(kept["gates"][:2]), *map(int, kept["gates"][2:]))
            saved = SavedDraws(kept["u"])
            model = RegimeModel(table, coordinates, saved, gates, None, seed)
            return model.with_processes(), float(kept["seconds"])
        began = time.process_time()
        model = RegimeModel.fit(table, seed=seed)
        seconds = time.process_time() - began
        if path is not None:
            gates = model.convergence
            numbers = [gates.rhat, gates.ess, gates.divergences, gates.draws]
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, u=model.draws, gates=numbers, seconds=seconds)
        return model, seconds


@dataclass(frozen=True)
class SavedDraws:
    """Draws that an earlier run kept."""

    u: np.ndarray

    def get_samples(self) -> dict[str, np.ndarray]:
        """As NumPyro's sampler gives them."""
        return {"u": self.u}


def clear() -> None:
    """Drop compiled programs: each fit maps code, and the kernel limits the number of maps."""
    import jax

    jax.clear_caches()
