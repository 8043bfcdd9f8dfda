"""Calibration by empirical Bayes: what a decoder believes of a model, fitted on dev answers.

`calibrate` fits the length prior, what EOS marginals say about the end, how often a confident
token is wrong, what speaks for a block border, how strongly tokens depend on each other, and how
bold to be; it holds a quarter of the answers out and refuses a fit that loses to the prior there.
"""

from probcomp.decoding.calibrating.fit import calibrate as calibrate
from probcomp.decoding.calibrating.record import Calibration as Calibration
from probcomp.decoding.calibrating.record import load_calibration as load_calibration

__all__ = ["Calibration", "calibrate", "load_calibration"]
