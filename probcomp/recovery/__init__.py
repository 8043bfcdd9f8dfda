"""What makes up for removed units: biases and refitted read-outs (`ridge`)."""

from probcomp.recovery.compensation import add_bias as add_bias
from probcomp.recovery.compensation import mean_bias as mean_bias

__all__ = ["add_bias", "mean_bias"]
