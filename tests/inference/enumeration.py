"""The brute-force reference, which ships in the package for those who add a prior."""

from probcomp.testing.enumeration import Enumerated, all_supports, enumerate_posterior

__all__ = ["Enumerated", "all_supports", "enumerate_posterior"]
