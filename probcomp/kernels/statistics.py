"""`decode_stats`: what a decoder reads from logits, in one pass and without the probabilities."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn.functional import linear

from probcomp.errors import InputError, unknown
from probcomp.kernels.dispatch import on_triton

CHUNK = 16_000_000  # logits held at once by the chunked paths: 64 MB in float32
CACHE = 500_000  # logits that stay in a core's cache between the passes over them
# exp of this is zero in float32 and negligible in float64, and 0 times it is not NaN.
_FLOOR = -750.0


class DecodeStats(NamedTuple):
    """One value for each selected row; see `decode_stats`."""

    argmax: Tensor  # int64; the lowest index of a tie; -1 where the row has no finite maximum
    top1: Tensor  # probability of the argmax
    margin: Tensor  # top1 minus the second probability
    entropy: Tensor  # nats
    eos_mass: Tensor  # probability of the end-of-sequence ids together
    logsumexp: Tensor  # of the logits over the temperature


def decode_stats(
    logits: Tensor | tuple[Tensor, ...],
    *,
    rows: Tensor | None = None,
    eos_ids: Sequence[int] | int = (),
    temperature: float = 1.0,
    backend: str = "auto",
) -> DecodeStats:
    r"""Argmax, confidence, margin, entropy and end-of-sequence mass of each row of logits.

    With l = logits / temperature, m = max l, Z = sum e^(l - m) and U = sum (l - m) e^(l - m):

        top1 = 1 / Z,   entropy = log Z - U / Z,   logsumexp = m + log Z.

    Args:
        logits: ``[..., V]``; or ``(hidden, head)`` / ``(hidden, head, bias)`` with hidden
            ``[..., D]`` and head ``[V, D]``: then only the selected rows meet the head, a chunk at
            a time, and the logits of all positions never exist.
        rows: Which positions: a boolean tensor of the leading shape, or flat indices ``[R]``.
            All by default.
        eos_ids: Vocabulary ids whose probabilities are summed, or one id.
        temperature: Positive divisor of the logits.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (a GPU).

    Returns:
        `DecodeStats` in float32 (float64 for float64 logits): the leading shape, or ``[R]`` when
        ``rows`` is given.

    Raises:
        InputError: Shapes, ids or the temperature do not fit.

    Notes:
        A logit of minus infinity has probability zero. A row that holds a NaN or plus infinity, or
        nothing but minus infinity, has argmax -1 and NaN elsewhere.
    """
    parts = logits if isinstance(logits, tuple) else (logits,)
    tensors = all(isinstance(part, Tensor) for part in parts)
    if len(parts) not in (1, 2, 3) or not tensors or parts[0].dim() < 1:
        raise InputError("logits must be a tensor, (hidden, head) or (hidden, head, bias)")
    if backend not in ("auto", "torch", "triton"):
        raise unknown("decode_stats backend", backend, ("auto", "torch", "triton"))
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"temperature must be positive and finite, got {temperature}")
    body, *head = parts
    if head and (head[0].dim() != 2 or head[0].shape[1] != body.shape[-1]):
        raise InputError(
            f"head has shape {list(head[0].shape)}, expected [V, {body.shape[-1]}] as hidden needs"
        )
    vocabulary = head[0].shape[0] if head else body.shape[-1]
    if vocabulary == 0:
        raise InputError("logits must have at least one entry of the vocabulary")
    if len(head) == 2 and tuple(head[1].shape) != (vocabulary,):
        raise InputError(
            f"the head's bias has shape {list(head[1].shape)}, expected [{vocabulary}]"
        )
    if len({part.dtype for part in parts}) > 1 and not torch.is_autocast_enabled(body.device.type):
        raise InputError(f"hidden and head differ in dtype: {[str(part.dtype) for part in parts]}")
    ids = sorted({int(token) for token in ([eos_ids] if isinstance(eos_ids, int) else eos_ids)})
    if ids and not (ids[0] >= 0 and ids[-1] < vocabulary):
        raise InputError(f"eos_ids must lie in [0, {vocabulary}), got {ids}")
    leading = body.shape[:-1]
    flat = body.reshape(-1, body.shape[-1])
    if rows is not None:
        flat = flat.index_select(0, _flat_rows(rows, leading))
    eos = torch.tensor(ids, dtype=torch.int64, device=body.device)
    step = max(1, CHUNK // max(vocabulary, 1)) if head else max(flat.shape[0], 1)
    pieces = []
    for start in range(0, max(flat.shape[0], 1), step):
        piece = flat[start : start + step]
        scores = linear(piece, *head) if head else piece
        pieces.append(decode_statistics(scores, eos, float(temperature), backend))
    stats = [torch.cat(columns) if len(columns) > 1 else columns[0] for columns in zip(*pieces)]
    if rows is None:
        stats = [column.view(leading) for column in stats]
    return DecodeStats(*stats)


def _flat_rows(rows: Tensor, leading: torch.Size) -> Tensor:
    if not isinstance(rows, Tensor):
        raise InputError(f"rows must be a tensor, got {type(rows).__name__}")
    if rows.dtype == torch.bool:
        if rows.shape != leading:
            raise InputError(f"rows has shape {list(rows.shape)}, expected {list(leading)}")
        return rows.reshape(-1).nonzero().squeeze(1)
    if rows.dim() != 1 or rows.is_floating_point():
        raise InputError("rows must be a boolean mask of the leading shape or flat indices [R]")
    count = leading.numel()
    if rows.numel() and not (int(rows.min()) >= 0 and int(rows.max()) < count):
        raise InputError(f"rows must lie in [0, {count})")
    return rows.long()


@custom_op("probcomp::decode_statistics", mutates_args=())
def decode_statistics(
    logits: Tensor, eos: Tensor, temperature: float, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The statistics of ``[R, V]`` logits, in the order of `DecodeStats`."""
    if logits.shape[0] == 0:
        return _empty(logits)
    triton = backend == "triton" or (backend == "auto" and on_triton(logits))
    if triton:
        from probcomp.kernels.gpu.decode_statistics import launch

        return _finish(logits, eos, temperature, *launch(logits, temperature))
    most = CACHE if logits.device.type == "cpu" else CHUNK
    step = max(1, most // logits.shape[1])
    pieces = [
        _finish(piece, eos, temperature, *_sums(piece, temperature)) for piece in logits.split(step)
    ]
    first, *rest = pieces
    if not rest:
        return first
    return tuple(torch.cat(columns) for columns in zip(*pieces))  # type: ignore[return-value]


@decode_statistics.register_fake
def _(logits: Tensor, eos: Tensor, temperature: float, backend: str) -> Any:
    return _empty(logits)


def _empty(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = logits.shape[0]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    argmax = logits.new_empty(rows, dtype=torch.int64)
    return (argmax, *(logits.new_empty(rows, dtype=dtype) for _ in range(5)))  # type: ignore[return-value]


def _sums(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """m1, m2, argmax, Z and U of each row; NaN in Z marks a row that cannot be normalised."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    best, index = wide.max(-1, keepdim=True)
    second = None
    if wide.shape[-1] > 1:
        second = wide.scatter_(-1, index, float("-inf")).amax(-1)
        wide.scatter_(-1, index, best)
    wide.sub_(best).clamp_(min=_FLOOR)
    weight = wide.exp()
    z = weight.sum(-1)
    u = torch.linalg.vecdot(wide, weight)
    best = best.squeeze(-1)
    if second is None:
        second = torch.full_like(best, float("-inf"))
    return best, second, index.squeeze(-1), z, u


def _finish(
    logits: Tensor, eos: Tensor, temperature: float,
    best: Tensor, second: Tensor, index: Tensor, z: Tensor, u: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """From the sums to the statistics; the end-of-sequence logits are read once more."""
    good = best.isfinite() & z.isfinite()
    top1 = torch.where(good, 1.0 / z, float("nan"))
    margin = top1 * (1.0 - (second - best).exp())
    log_z = z.log()
    entropy = torch.where(good, log_z - u / z, float("nan"))
    tail = logits.index_select(1, eos).to(best.dtype) / temperature - best.unsqueeze(-1)
    mass = tail.exp().sum(-1) * top1
    total = torch.where(good, best + log_z, float("nan"))
    return torch.where(good, index, -1), top1, margin, entropy.clamp(min=0.0), mass, total
