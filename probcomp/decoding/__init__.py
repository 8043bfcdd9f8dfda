"""Bayesian decoding of masked diffusion language models.

Where does the generation end, where are its blocks, what may be committed now: exact posteriors
(`end`, `blocks`), rules (`schedule`, `coupled`, `extension`, `order`, `revoke`), one loop, and
published decoders as presets of it.
"""

from probcomp.decoding.api import decode as decode
from probcomp.decoding.calibrating import Calibration as Calibration
from probcomp.decoding.calibrating import calibrate as calibrate
from probcomp.decoding.calibrating import load_calibration as load_calibration
from probcomp.decoding.config import DecodingConfig as DecodingConfig
from probcomp.decoding.loop import Decoder as Decoder
from probcomp.decoding.output import DecodeOutput as DecodeOutput
from probcomp.decoding.presets import presets as presets

__all__ = [
    "Calibration",
    "DecodeOutput",
    "Decoder",
    "DecodingConfig",
    "calibrate",
    "decode",
    "load_calibration",
    "presets",
]
