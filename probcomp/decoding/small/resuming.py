"""A training run on disk: one safetensors file, written whole, that a cut run goes on from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.storage import read_tensors, write_tensors

LOG = "log"  # the name of the JSON part, as bytes


def save_state(
    path: Path,
    model: nn.Module,
    steppers: Sequence[torch.optim.Optimizer],
    settings: dict[str, Any],
    progress: dict[str, Any],
) -> None:
    """Write weights, the optimizers' tensors, what the run is and how far it has come."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for i, stepper in enumerate(steppers):
        for index, entry in stepper.state_dict()["state"].items():
            tensors |= {f"stepper/{i}/{index}/{name}": value for name, value in entry.items()}
    text = json.dumps({"settings": settings, "progress": progress}).encode()
    # In the same file, so that weights and their step are never of two moments.
    tensors[LOG] = torch.tensor(list(text), dtype=torch.uint8)
    write_tensors(path, tensors)


def load_state(
    path: Path,
    model: nn.Module,
    steppers: Sequence[torch.optim.Optimizer],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Restore a run in place; its progress.

    Raises:
        InputError: the file is of a run with other settings, or of no run.
    """
    tensors = read_tensors(path)
    try:
        log = json.loads(bytes(tensors[LOG].tolist()))
        found, progress = log["settings"], dict(log["progress"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no training run; delete it to begin anew") from error
    known = json.loads(json.dumps(settings))  # as JSON says it: tuples are lists there
    if found != known:
        names = sorted({*found, *known})
        other = [
            f"{n}={found.get(n)!r} there, {known.get(n)!r} here"
            for n in names
            if found.get(n) != known.get(n)
        ]
        raise InputError(
            f"{path} is of another run ({'; '.join(other)}): train with its settings, choose "
            "another folder, or delete it"
        )
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in steppers]
    for name, value in tensors.items():
        if name.startswith("stepper/"):
            _, i, index, key = name.split("/")
            states[int(i)].setdefault(int(index), {})[key] = value
    model.load_state_dict({n[6:]: v for n, v in tensors.items() if n.startswith("model/")})
    for stepper, state in zip(steppers, states):
        stepper.load_state_dict({**stepper.state_dict(), "state": state})
    return progress
