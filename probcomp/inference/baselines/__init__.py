"""Published methods to compare with."""

from probcomp.inference.baselines.magnitude import MagnitudeResult, magnitude, magnitude_masks

__all__ = ["MagnitudeResult", "magnitude", "magnitude_masks"]
