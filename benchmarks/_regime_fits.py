"""Fits of a benchmark, kept on disk so that a killed run goes on where it was."""

import hashlib
import inspect
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probcomp.regime import sampler
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.fit import RegimeModel
from probcomp.regime.model import BEND, PRIOR
from probcomp.regime.sampler import Convergence
from probcomp.regime.table import RunTable


@dataclass(frozen=True)
class Fits:
    """Fits by name; read again from ``folder`` where a run on the same table left them."""

    folder: Path | None = None

    def fit(self, table: RunTable, name: str, seed: int = 0) -> tuple[RegimeModel, float]:
        """A fit and the seconds of CPU it took."""
        path = None if self.folder is None else self.folder / f"{name}.npz"
        key = checksum(table, seed)
        kept = np.load(path) if path is not None and path.is_file() else {}
        if "of" in kept and str(kept["of"]) == key:
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
            np.savez(path, u=model.draws, gates=numbers, seconds=seconds, of=key)
        return model, seconds


def checksum(table: RunTable, seed: int) -> str:
    """Of all that a fit is made from: runs, knobs, seed, prior, and the settings of the sampler."""
    settings = (sampler.ROUNDS, sampler.DEPTH, sampler.CHAINS, sampler.MAX_RHAT, sampler.MIN_ESS)
    defaults = str(inspect.signature(RegimeModel.fit))  # numbers of steps and draws among them
    about = (table.knobs, table.load_name, seed, settings, PRIOR, BEND, defaults)
    digest = hashlib.sha256(repr(about).encode())
    for name in ("settings", "load", "error", "connectivity", "similarity", "measured"):
        digest.update(np.ascontiguousarray(getattr(table, name), float).tobytes())
    return digest.hexdigest()


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
