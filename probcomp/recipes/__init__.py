"""Recipes: the main job, and the methods as records of their choices."""

from probcomp.recipes.compress import compress
from probcomp.recipes.methods import METHODS, Method
from probcomp.recipes.result import Compressed

__all__ = ["METHODS", "Compressed", "Method", "compress"]
