"""A character tokenizer in the shape Transformers users expect, for the embedded model."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from probcomp.errors import InputError

CHARACTERS = '0123456789abcdefghijklmnopqrstuvwxyz+-*=;,|{}":?'


class CharacterTokenizer:
    """One id per character, after ``pad`` (0), ``eos`` (1, also the filler) and ``mask`` (2)."""

    pad_token_id = 0
    eos_token_id = 1
    mask_token_id = 2
    mask_token = "_"
    padding_side = "left"

    def __init__(self) -> None:
        self._ids = {character: 3 + i for i, character in enumerate(CHARACTERS)}
        self._ids[self.mask_token] = self.mask_token_id

    @property
    def vocab_size(self) -> int:
        return 3 + len(CHARACTERS)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of a text; ``_`` is the mask. Raises `InputError` on a character it has no id for."""
        strange = sorted({character for character in text if character not in self._ids})
        if strange:
            raise InputError(
                f"the embedded model has no token for {''.join(strange)!r}; "
                f"it reads the characters {CHARACTERS}"
            )
        return [self._ids[character] for character in text]

    def decode(self, ids: Iterable[int] | Tensor, skip_special_tokens: bool = True) -> str:
        """Text of ids. Special tokens are left out, or shown as ``~`` (pad), ``$`` and ``_``."""
        values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        special = ("", "", "") if skip_special_tokens else ("~", "$", "_")
        return "".join(special[i] if i < 3 else CHARACTERS[i - 3] for i in values)

    def batch_decode(
        self, rows: Iterable[Iterable[int] | Tensor], skip_special_tokens: bool = True
    ) -> list[str]:
        return [self.decode(row, skip_special_tokens) for row in rows]

    def __call__(self, texts: str | Sequence[str], **unused: object) -> dict[str, Tensor]:
        """Left-padded ``input_ids`` and ``attention_mask``, each [batch, longest prompt]."""
        rows = [self.encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        width = max(map(len, rows), default=0)
        ids = torch.full((len(rows), width), self.pad_token_id)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            if row:
                ids[i, width - len(row) :] = torch.tensor(row)
                mask[i, width - len(row) :] = 1
        return {"input_ids": ids, "attention_mask": mask}
