"""What a decoding returns: texts, and the numbers behind each row."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.loop import Step


@dataclass(frozen=True)
class DecodeOutput:
    """Results of `probcomp.decode`, one entry a row.

    ``sequences`` prompts with their answers, right-padded, [batch, n]; ``nfe`` forwards of the row
    (verification included, forwards after it finished not); ``num_new_tokens`` content tokens,
    without EOS and padding; ``end_posterior`` P(end at 1, 2, ..., beyond) at the last forward, or
    None; ``boundaries`` block ends (tokens from the answer's start); ``expected_errors`` wrong
    tokens the ledger charged; ``canvas`` positions of the final window.
    """

    sequences: Tensor
    nfe: list[int]
    num_new_tokens: list[int]
    canvas: list[int]
    expected_errors: list[float]
    extensions: list[int]
    contractions: list[int]
    revocations: list[int]
    insertions: list[int]
    boundaries: list[list[int]]
    end_posterior: list[Tensor | None]
    answers: list[Tensor]
    config: DecodingConfig
    texts: list[str] | None = None
    history: list[Step] = field(default_factory=list, repr=False)

    @property
    def tokens_per_forward(self) -> list[float]:
        """Content tokens over forwards, per row."""
        return [n / max(f, 1) for n, f in zip(self.num_new_tokens, self.nfe)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "texts": self.texts,
            "nfe": self.nfe,
            "num_new_tokens": self.num_new_tokens,
            "tokens_per_forward": [round(value, 4) for value in self.tokens_per_forward],
            "canvas": self.canvas,
            "expected_errors": [round(value, 6) for value in self.expected_errors],
            "extensions": self.extensions,
            "contractions": self.contractions,
            "revocations": self.revocations,
            "insertions": self.insertions,
            "boundaries": self.boundaries,
            "end_posterior": [
                None if p is None else [round(float(v), 6) for v in p] for p in self.end_posterior
            ],
            "answers": [row.tolist() for row in self.answers],
            "config": self.config.to_dict(),
        }
