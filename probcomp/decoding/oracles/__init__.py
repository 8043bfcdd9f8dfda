"""Exact denoisers of known laws: with them the best decoding is known, not guessed."""

from probcomp.decoding.oracles.enumerated import EnumeratedOracle as EnumeratedOracle
from probcomp.decoding.oracles.markov import MarkovOracle as MarkovOracle

__all__ = ["EnumeratedOracle", "MarkovOracle"]
