"""A law that is a list: texts with their chances, and every conditional exact by filtering it.

Token joints, bracket words, small records, Sudoku: whatever can be written down text by text.
The end token fills a text up to the common width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from probcomp.decoding.adapters.callable import CallableAdapter
from probcomp.errors import InputError


class EnumeratedOracle:
    """Texts of symbols 0..symbols - 1 with weights; ``symbols`` is EOS, ``symbols + 1`` the mask.

    Args:
        texts: each a sequence of symbols, at most ``width`` long.
        weights: relative chances, uniform when None.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        symbols: int,
        weights: Tensor | None = None,
        width: int | None = None,
    ) -> None:
        if not texts:
            raise InputError("an enumerated law needs at least one text")
        self.symbols, self.eos_id, self.mask_id = symbols, symbols, symbols + 1
        self.vocab_size = symbols + 2
        self.width = width or max(map(len, texts))
        self.texts = torch.full((len(texts), self.width), self.eos_id)
        for i, text in enumerate(texts):
            self.texts[i, : len(text)] = torch.tensor(list(text), dtype=torch.long)
        weight = torch.ones(len(texts)) if weights is None else weights
        self.weights = weight.double() / weight.double().sum()

    def agree(self, ids: Tensor) -> Tensor:
        """P(text) of the texts that fit what is visible, unnormalised, [batch, texts]."""
        n = ids.shape[1]
        inside = self.texts[:, :n]
        if n > self.width:
            inside = torch.nn.functional.pad(inside, (0, n - self.width), value=self.eos_id)
        fits = (ids[:, None] == self.mask_id) | (ids[:, None] == inside)
        return fits.all(2) * self.weights

    def marginals(self, ids: Tensor) -> Tensor:
        """P(x_i | visible), float64 [batch, n, symbols + 1]; all 0 where nothing fits."""
        n = ids.shape[1]
        inside = self.texts[:, :n]
        if n > self.width:
            inside = torch.nn.functional.pad(inside, (0, n - self.width), value=self.eos_id)
        one_hot = torch.nn.functional.one_hot(inside, self.symbols + 1).double()
        weight = self.agree(ids)
        found = torch.einsum("bt,tnv->bnv", weight, one_hot)
        return found / weight.sum(1).clamp(min=1e-300)[:, None, None]

    def log_prob(self, ids: Tensor) -> Tensor:
        """log P of what is visible, nats per row, [batch]."""
        return self.agree(ids).sum(1).log()

    def sample(self, rows: int, seed: int) -> Tensor:
        """Texts of the law, [rows, width]."""
        generator = torch.Generator().manual_seed(seed)
        at = torch.multinomial(self.weights, rows, replacement=True, generator=generator)
        return self.texts[at]

    def adapter(self) -> CallableAdapter:
        """The oracle as a denoiser; a row that left the law gets uniform marginals."""

        def logits(ids: Tensor, key_mask: Tensor) -> Tensor:
            ids = torch.where(key_mask.bool(), ids, self.mask_id)
            p = self.marginals(ids)
            lost = p.sum(-1, keepdim=True) <= 0
            p = torch.where(lost, 1.0 / (self.symbols + 1), p)
            return torch.nn.functional.pad(p.clamp(min=1e-300).log(), (0, 1), value=-torch.inf)

        return CallableAdapter(
            logits, mask_id=self.mask_id, eos_ids=self.eos_id, vocab_size=self.vocab_size
        )
