"""Budgets, and the price that meets them."""

from probcomp.allocation.budget import Budget
from probcomp.allocation.price import Price, price_field, solve_price

__all__ = ["Budget", "Price", "price_field", "solve_price"]
