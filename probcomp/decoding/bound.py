"""A configuration bound to a denoiser: what every forward needs, worked out once."""

import torch

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.cutting import duration_of
from probcomp.decoding.durations import log_duration
from probcomp.decoding.end_model import EndModel
from probcomp.decoding.length import LengthPrior


class Bound:
    """The length prior and its survival table, the end model, block durations and end ids."""

    def __init__(self, adapter: Adapter, config: DecodingConfig) -> None:
        self.adapter, self.config = adapter, config
        self.prior = (
            LengthPrior(config.hazard)
            if config.hazard
            else LengthPrior.negative_binomial(config.length_mean, config.length_shape)
        )
        self.log_survival = self.prior.log_survival(config.max_new_tokens)
        self.end = EndModel.of(config)
        self.durations = log_duration(duration_of(config))
        self.models_end = (
            config.sizing == "utility"
            or config.stop == "posterior"
            or config.blocks == "posterior"
            or config.draws_end
        )
        self.eos = torch.tensor(adapter.eos_ids)
