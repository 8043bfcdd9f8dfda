"""The posterior over supports: how probable it is that each unit and each weight is needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.storage import read_json, read_tensors, write_json, write_tensors

FORMAT = "probcomp-posterior-1"


@dataclass(frozen=True)
class UnitPosterior:
    """Supports of the units of one axis.

    Attributes:
        log_odds: ``log P(t=1|D) - log P(t=0|D)`` in nats, shape ``[size]``.
        probability: Inclusion probability ``P(t=1|D)``, shape ``[size]``.
    """

    log_odds: Tensor
    probability: Tensor


@dataclass(frozen=True)
class WeightPosterior:
    """Supports and values of the weights of one parameter; every tensor has the parameter's shape.

    Attributes:
        log_odds: ``log P(s=1|D) - log P(s=0|D)`` in nats.
        probability: Inclusion probability ``P(s=1|D)``.
        mean: Posterior mean of the weight given that it is kept.
        variance: Posterior variance of the weight given that it is kept.
    """

    log_odds: Tensor
    probability: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Posterior:
    """What the data left open: inclusion probabilities and weight moments.

    Attributes:
        weights: Parameter name to the posterior of its weights.
        units: Axis name to the posterior of its units.
        meta: JSON values that say where this came from: method, prior, seed, samples.
    """

    weights: Mapping[str, WeightPosterior] = field(default_factory=dict)
    units: Mapping[str, UnitPosterior] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def expected_kept(self) -> float:
        """Expected number of weights kept, ``sum_n P(s_n=1|D)``."""
        return float(sum(w.probability.double().sum().item() for w in self.weights.values()))

    def sample_supports(self, *, seed: int) -> dict[str, Tensor]:
        """Independent draws from the marginals: parameter name to a boolean tensor.

        Notes:
            Marginals only: neighbours that are correlated under the posterior are drawn apart.
        """
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.rand(w.probability.shape, generator=generator) < w.probability.cpu()
            for name, w in self.weights.items()
        }

    def to_arviz(self, *, draws: int = 200, chains: int = 4, seed: int = 0) -> Any:
        """This posterior as ArviZ data: draws of the supports, and the moments as constant data.

        Args:
            draws: Draws per chain. Draws are independent, so chains differ by their seed only.
            chains: Number of chains.
            seed: Seed of the draws.

        Returns:
            ``InferenceData`` under ArviZ 0.x, ``DataTree`` under ArviZ 1.x.
        """
        from probcomp.inference.arviz import posterior_to_arviz

        return posterior_to_arviz(self, draws=draws, chains=chains, seed=seed)

    def save(self, directory: Path | str) -> None:
        """Write ``posterior.safetensors`` and ``posterior.json`` into ``directory``."""
        directory = Path(directory)
        tensors = {
            f"{group}/{name}/{key}": value
            for group, entries in (("weights", self.weights), ("units", self.units))
            for name, entry in entries.items()
            for key, value in vars(entry).items()
        }
        write_tensors(directory / "posterior.safetensors", tensors)
        write_json(directory / "posterior.json", {"format": FORMAT, "meta": dict(self.meta)})

    @classmethod
    def load(cls, directory: Path | str) -> "Posterior":
        """Read what `save` wrote.

        Raises:
            InputError: A file is missing, damaged, or of another format.
        """
        directory = Path(directory)
        header = read_json(directory / "posterior.json")
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise InputError(f"{directory / 'posterior.json'} is not a {FORMAT} file")
        entries: dict[str, dict[str, dict[str, Tensor]]] = {"weights": {}, "units": {}}
        for key, value in read_tensors(directory / "posterior.safetensors").items():
            group, _, rest = key.partition("/")
            name, _, attribute = rest.rpartition("/")
            entries.setdefault(group, {}).setdefault(name, {})[attribute] = value
        try:
            return cls(
                weights={name: WeightPosterior(**e) for name, e in entries["weights"].items()},
                units={name: UnitPosterior(**e) for name, e in entries["units"].items()},
                meta=header["meta"],
            )
        except (TypeError, KeyError) as error:
            raise InputError(f"the posterior in {directory} is incomplete: {error}") from error
