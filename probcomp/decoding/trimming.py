"""A trimmed head on disk, and the published search for its size.

Only the kept ids are stored: the rows come from the draft they were cut from, whose head is named
by a checksum, so that ids never meet the head of another draft.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from probcomp.decoding.vocabulary import TrimmedHead, TrimmedVocabulary, trim_vocabulary
from probcomp.errors import InputError
from probcomp.storage import read_json, write_json

FILE = "trimmed_head.json"
FORMAT = 1


def head_checksum(head: torch.nn.Linear) -> str:
    """SHA-256 of shape, type and values of a head (weight and bias)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def save_kept(path: Path | str, head: torch.nn.Linear, found: TrimmedVocabulary) -> None:
    """Write the kept ids of ``head``; ``path`` may be the draft's folder."""
    write_json(
        _file(path),
        {
            "format": FORMAT,
            "vocabulary": head.weight.shape[0],
            "head": head_checksum(head),
            "kept": found.kept.tolist(),
            "ids": _ids_checksum(found.kept),
            "coverage": found.coverage,
            "interval": list(found.interval),
            "reduction": found.reduction,
        },
    )


def load_head(path: Path | str, head: torch.nn.Linear) -> TrimmedHead:
    """The trimmed head of the draft's full ``head``, as `save_kept` wrote it down.

    Raises:
        InputError: the file is missing, damaged, or belongs to another head.
    """
    where = _file(path)
    if not where.is_file():
        raise InputError(f"no trimmed head at {where}; trim the draft with save_kept first")
    found = read_json(where)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{where} is no trimmed head of format {FORMAT}; trim the draft again")
    kept = torch.tensor(found.get("kept", []), dtype=torch.long)
    if _ids_checksum(kept) != found.get("ids"):
        raise InputError(f"{where} is damaged: its ids do not have their checksum; trim again")
    if head.weight.shape[0] != found.get("vocabulary") or head_checksum(head) != found.get("head"):
        raise InputError(f"{where} was cut from another head; trim this draft again")
    return TrimmedHead.of(head, kept)


def search_by_tpe(
    counts: Tensor,
    *,
    base: float,
    head: float,
    alpha: float = 0.5,
    min_coverage: float = 0.0,
    smallest: int = 50,
    largest: int = 50_000,
    trials: int = 100,
    seed: int = 42,
    always_keep: Iterable[int] = (),
) -> TrimmedVocabulary:
    """The published search (arXiv 2603.05210): k by Optuna's TPE, infeasible trials score -1.

    For comparison: `trim_vocabulary` maximises the same utility in closed form. Defaults are
    those of the published script. Needs Optuna (``pip install optuna``).
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "search_by_tpe needs Optuna: pip install optuna, or use trim_vocabulary, which finds "
            "the optimum in closed form"
        ) from error
    size = len(counts)
    low, high = min(smallest, size), min(largest, size)
    share = (counts.double() / counts.double().sum()).sort(descending=True).values.cumsum(0)
    full = base + head * size

    def objective(trial: "optuna.Trial") -> float:
        k = trial.suggest_int("k", low, high)
        if float(share[k - 1]) < min_coverage:
            return -1.0
        return alpha * float(share[k - 1]) + (1 - alpha) * (1 - (base + head * k) / full)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    if study.best_value < 0:
        raise InputError(f"no k up to {high} covers {min_coverage} of the counts; raise largest")
    # A curve with this one k in it makes the closed form take exactly that k.
    return trim_vocabulary(
        counts,
        base=base,
        head=head,
        alpha=alpha,
        always_keep=always_keep,
        latency={int(study.best_params["k"]): 1.0},
    )


def _file(path: Path | str) -> Path:
    path = Path(path)
    return path / FILE if path.is_dir() else path


def _ids_checksum(kept: Tensor) -> str:
    return hashlib.sha256(",".join(map(str, kept.tolist())).encode()).hexdigest()
