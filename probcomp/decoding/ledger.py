r"""The error ledger: an answer may hold so many wrong tokens in expectation, and spends that.

Committing i costs eps_i = 1 - c_i with the calibrated confidence c_i; sums need no independence.
A forward may spend

    min(eps_step, (eps_total - spent) (masked in block) / (content still expected)).

What a forward leaves stays in the total for the later ones. Units: wrong tokens per answer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ledger:
    """``total`` and ``step`` are the allowances; ``spent`` [batch] the expected wrong tokens."""

    total: float
    step: float
    spent: Tensor

    @classmethod
    def open(cls, rows: int, total: float, step: float) -> "Ledger":
        """A ledger with nothing spent."""
        return cls(total, step, torch.zeros(rows, dtype=torch.float64))

    def allowance(self, rows: Tensor, in_block: Tensor, expected: Tensor) -> Tensor:
        """What one forward may spend, [rows]. in_block, expected: token counts [rows]."""
        left = (self.total - self.spent[rows]).clamp(min=0.0)
        share = (in_block.double() / expected.clamp(min=1)).clamp(max=1.0)
        return (left * share).clamp(max=self.step)

    def spend(self, rows: Tensor, error: Tensor, committed: Tensor) -> "Ledger":
        """The ledger after committing. error, committed [rows, width]."""
        paid = (error.double() * committed).sum(1)
        return Ledger(self.total, self.step, self.spent.index_add(0, rows, paid))
