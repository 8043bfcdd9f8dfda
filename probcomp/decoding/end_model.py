"""From EOS marginals to the posterior of the end: one reading, for decoding and for its fit."""

from dataclasses import dataclass

from torch import Tensor

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.end import (
    beyond_probability,
    cdf_end,
    hmm_end,
    share_of_prior,
    shrunk,
    tail_evidence,
    tail_mean,
    tilted,
    with_beyond,
    with_prior,
)


@dataclass(frozen=True)
class EndModel:
    """The options of a configuration that decide p_end, by their names there."""

    end_model: str
    beyond: bool
    end_temper: float = 1.0
    end_platt: tuple[float, float] = (0.0, 1.0)
    tail_truncated: tuple[float, float] = (1.0, 2.0)
    tail_fits: tuple[float, float] = (8.0, 1.0)
    tail_window: int = 32
    end_noise: float = 0.0
    end_tilt: float = 0.0
    end_share: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, config: DecodingConfig) -> "EndModel":
        """The end model of a configuration."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def read(
        self, mass: Tensor, masked: Tensor, allowed: Tensor, log_prior: Tensor, length: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(what the marginals say, that with the prior mixed in), float64 [rows, width + 1].

        Args:
            mass: EOS probability of each position; 0 or 1 where a token is visible. [rows, width].
            masked: undecided positions inside the window, [rows, width].
            allowed: ends that visible tokens leave possible, [rows, width + 1].
            log_prior: `LengthPrior.log_end` of these windows, [rows, width + 1].
            length: the window of each row, [rows].
        """
        mass = mass.double()
        if self.end_model == "cdf":
            p = shrunk(cdf_end(mass, allowed, length), self.end_noise, length)
        else:
            intercept, slope = self.end_platt
            evidence = tail_evidence(mass, masked, log_prior, intercept=intercept, slope=slope)
            p = hmm_end(log_prior, evidence, allowed, self.end_temper)
        if self.beyond:
            survival = log_prior.gather(1, length[:, None])[:, 0].exp()
            mean = tail_mean(mass, length, self.tail_window)
            past = beyond_probability(mean, survival, self.tail_truncated, self.tail_fits)
            p = with_beyond(p, length, past)
        p = tilted(p, self.end_tilt, length)
        if not self.end_share:
            return p, p
        return p, with_prior(p, log_prior, allowed, share_of_prior(p, self.end_share))
