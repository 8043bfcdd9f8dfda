r"""How many tokens a draft needs: trimming the output vocabulary for speculative decoding.

With tokens sorted by frequency, coverage C(k) is concave and the head's cost linear in k, so

    U(k) = alpha C(k) + (1 - alpha) R(k),   R(k) = 1 - (base + head k) / (base + head V)

(arXiv 2603.05210, which searches k by TPE) has a closed-form maximiser: keep every token whose
relative frequency exceeds ((1 - alpha) / alpha) head / (base + head V). With a measured latency
curve in place of R the maximum is found by looking at every k it was measured at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError


@dataclass(frozen=True)
class TrimmedVocabulary:
    """``kept`` token ids, rising; ``coverage`` of the counts and its 95 % Beta interval;
    ``reduction`` R of the draft's cost per token."""

    kept: Tensor
    coverage: float
    interval: tuple[float, float]
    reduction: float


def trim_vocabulary(
    counts: Tensor,
    *,
    base: float,
    head: float,
    alpha: float = 0.5,
    min_coverage: float = 0.0,
    always_keep: Iterable[int] = (),
    latency: Mapping[int, float] | None = None,
) -> TrimmedVocabulary:
    """The best kept set for counts of emitted tokens, [vocabulary].

    Args:
        base: FLOPs per draft token outside the head.
        head: FLOPs per draft token and kept row of the head.
        alpha: weight of coverage against cost, in (0, 1).
        min_coverage: raise k until this share of the counts is covered.
        always_keep: ids that stay whatever their count (end tokens, byte fallbacks).
        latency: measured seconds by k; replaces the linear cost, over the k it holds.

    Raises:
        InputError: counts without mass or of wrong shape, or a setting out of range.
    """
    if counts.dim() != 1 or bool((counts < 0).any()) or float(counts.sum()) <= 0:
        raise InputError("counts are one row of token counts with at least one above 0")
    if not 0 < alpha < 1 or not 0 <= min_coverage <= 1 or base < 0 or head <= 0:
        raise InputError(
            f"alpha lies in (0, 1), min_coverage in [0, 1], base at least 0 and head above 0; got "
            f"alpha {alpha}, min_coverage {min_coverage}, base {base}, head {head}"
        )
    size, total = len(counts), counts.double().sum()
    share, order = (counts.double() / total).sort(descending=True, stable=True)
    coverage = share.cumsum(0)
    full = base + head * size
    if latency is None:
        k = max(int((share > (1 - alpha) / alpha * head / full).sum()), 1)
    else:
        usable = [n for n in latency if 1 <= n <= size]
        if not usable:
            raise InputError(f"the latency curve holds no k between 1 and {size}")
        slowest = latency[max(usable)]
        k = max(
            usable,
            key=lambda n: (
                alpha * float(coverage[n - 1]) + (1 - alpha) * (1 - latency[n] / slowest),
                -n,
            ),
        )
    k = max(k, min(int((coverage < min_coverage - 1e-12).sum()) + 1, size))
    forced = torch.tensor(sorted(set(always_keep)), dtype=torch.long)
    if len(forced) and not 0 <= int(forced.min()) <= int(forced.max()) < size:
        raise InputError(f"always_keep holds ids outside the vocabulary of {size}")
    kept = torch.cat((order[:k].cpu(), forced)).unique()
    covered = float(counts[kept].double().sum())
    from scipy.stats import beta

    # Jeffreys' prior on the share of emitted tokens that the kept set covers.
    low, high = beta.ppf((0.025, 0.975), covered + 0.5, float(total) - covered + 0.5)
    return TrimmedVocabulary(
        kept,
        covered / float(total),
        (float(low), float(high)),
        1 - (base + head * len(kept)) / full,
    )


class TrimmedHead(torch.nn.Module):
    """An output layer of the kept rows; every other logit is minus infinity.

    The output keeps the full width, so assisted generation with one tokenizer works unchanged:
    ``draft.set_output_embeddings(TrimmedHead.of(draft.get_output_embeddings(), kept))``. What the
    draft cannot say comes from the residual of speculative sampling, so the law stays the
    target's. Untie the embeddings of the draft first: its input must stay whole.
    """

    kept: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, kept: Tensor, vocabulary: int) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(weight)
        self.offset = None if bias is None else torch.nn.Parameter(bias)
        self.register_buffer("kept", kept)
        self.vocabulary = vocabulary

    @classmethod
    def of(cls, head: torch.nn.Linear, kept: Tensor) -> "TrimmedHead":
        """Trim a linear head to the rows ``kept``."""
        size = head.weight.shape[0]
        if kept.dim() != 1 or not len(kept) or int(kept.min()) < 0 or int(kept.max()) >= size:
            raise InputError(f"kept must be token ids below {size}, got {kept.tolist()[:8]}")
        if len(kept.unique()) != len(kept):
            raise InputError("kept holds an id twice")
        kept = kept.to(head.weight.device)
        bias = None if head.bias is None else head.bias.detach()[kept].clone()
        return cls(head.weight.detach()[kept].clone(), bias, kept, size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] -> [..., vocabulary]."""
        found = torch.nn.functional.linear(hidden, self.rows, self.offset)
        full = found.new_full((*hidden.shape[:-1], self.vocabulary), -torch.inf)
        return full.index_copy(-1, self.kept, found)
