"""Checkpoints from which a run continues to the same bits.

One safetensors file for each round kept, and ``turbo.json``, which is written last and names the
file: an interrupted write leaves the previous checkpoint whole.
"""

import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.training.build import with_orders
from probcomp.inference.training.engine import Info, State
from probcomp.inference.training.gates import Gated, Graph, Matrix, MatrixMessages, Messages
from probcomp.inference.training.learning import is_learnable
from probcomp.inference.training.weights import Run
from probcomp.storage import read_json, read_tensors, write_json, write_tensors

FORMAT = "probcomp-turbo-2"
HEADER = "turbo.json"


def save_checkpoint(
    directory: Path | str, run: Run, state: State, history: list[Info], identity: Mapping[str, Any]
) -> None:
    """Write the state between two rounds.

    Args:
        directory: Where; made if absent.
        run: Model, optimiser and noise are stored in full.
        state: The state to store.
        history: One entry for each round.
        identity: JSON values that a run which continues must share.
    """
    directory = Path(directory)
    tensors: dict[str, Tensor] = {}
    rng = {"noise": run.noise.generator.get_state(), "torch": torch.get_rng_state()}
    matrices = {
        name: {"prior": m.prior, "slots": m.slots, "psi": m.psi, "state": m.state}
        for name, m in state.messages.matrices.items()
    }
    content = {
        "model": dict(run.model.state_dict()),
        "optimizer": run.optimizer.state_dict()["state"],
        "rng": rng,
        "log_odds": state.log_odds,
        "psi": state.psi,
        "precision": state.precision,
        "orders": state.orders,
        "fields": state.graph.fields,
        "units": state.messages.units,
        "matrices": matrices,
    }
    layout = _pack(content, "", tensors)
    data = f"turbo-{state.round:05d}.safetensors"
    write_tensors(directory / data, tensors)
    header = {
        "format": FORMAT,
        "identity": dict(identity),
        "data": data,
        "layout": layout,
        "round": state.round,
        "place": list(state.place),
        "priors": {
            name: [matrix.prior.field, matrix.prior.coupling]
            for name, matrix in state.graph.matrices.items()
            if is_learnable(matrix.prior)
        },
        "calm": state.calm,
        "slab": dict(state.slab),
        "first_slab": dict(state.first_slab),
        "price": state.messages.price,
        "converged": {n: m.converged for n, m in state.messages.matrices.items()},
        "history": [asdict(info) for info in history],
    }
    write_json(directory / HEADER, header)
    for old in directory.glob("turbo-*.safetensors"):
        if old.name != data:
            old.unlink(missing_ok=True)


def load_checkpoint(
    directory: Path | str, run: Run, state: State, identity: Mapping[str, Any]
) -> tuple[State, list[Info]] | None:
    """Restore a run in place, or return ``None`` where there is no checkpoint.

    Args:
        directory: Where `save_checkpoint` wrote.
        run: A run as freshly made; its model, optimiser and noise are overwritten.
        state: A state as freshly made, for its graph.
        identity: Must equal what was stored.

    Raises:
        InputError: The checkpoint is damaged, or belongs to another run.
    """
    directory = Path(directory)
    if not (directory / HEADER).is_file():
        return None
    header = read_json(directory / HEADER)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{directory / HEADER} is not a {FORMAT} file")
    differing = [k for k, v in identity.items() if header["identity"].get(k) != v]
    if differing:
        raise InputError(
            f"the checkpoint in {directory} belongs to another run: {', '.join(differing)} "
            "differ; name another directory or remove it"
        )
    content = _unpack(header["layout"], read_tensors(directory / header["data"]))
    try:
        run.model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint in {directory} does not fit this model: {error}"
        ) from error
    optimizer = run.optimizer.state_dict()
    optimizer["state"] = {int(k): v for k, v in content["optimizer"].items()}
    run.optimizer.load_state_dict(optimizer)
    run.noise.generator.set_state(content["rng"]["noise"])
    torch.set_rng_state(content["rng"]["torch"])
    matrices = {
        name: MatrixMessages(**entry, converged=header["converged"][name])
        for name, entry in content["matrices"].items()
    }
    graph = replace(with_orders(state.graph, content["orders"]), fields=content["fields"])
    learnt = dict(graph.matrices)
    for name, (field, coupling) in header["priors"].items():
        prior = replace(learnt[name].prior, field=field, coupling=coupling)
        learnt[name] = replace(learnt[name], prior=prior)
    graph = replace(graph, matrices=learnt)
    restored = State(
        graph=graph,
        messages=Messages(content["units"], matrices, header["price"]),
        log_odds=content["log_odds"],
        psi=content["psi"],
        precision=content["precision"],
        slab=header["slab"],
        first_slab=header["first_slab"],
        orders=content["orders"],
        round=header["round"],
        place=tuple(header["place"]),
        calm=header["calm"],
    )
    return restored, [Info(**entry) for entry in header["history"]]


def fingerprint(run: Run, graph: Graph) -> dict[str, str]:
    """What makes two runs with the same settings different: costs, units, data, where they began.

    Checksums of: the shape and cost of every entry and which units gate it; the names and sizes of
    the groups of units; the first batch, which changes with the data, the batch size and its seed;
    the values of the model, which has to be as before any round.
    """
    costs, gates = 0, 0
    entries: dict[str, Matrix | Gated] = {**graph.matrices, **graph.gated}
    for name, entry in entries.items():
        costs = checksum((name, entry.cost), costs)
        gates = checksum((name, [(s.group, s.dim, s.index) for s in entry.slots]), gates)
    costs = checksum(graph.constant, costs)
    gates = checksum([(name, len(field)) for name, field in graph.fields.items()], gates)
    batch = next(iter(run.batches(0)), None)
    sums = {"cost": costs, "units": gates, "batches": checksum(batch)}
    sums["model"] = checksum(dict(run.model.state_dict()))
    return {name: f"{value:08x}" for name, value in sums.items()}


def checksum(value: Any, start: int = 0) -> int:
    """Checksum of nested tensors, numbers and strings; other objects count by their type."""
    if isinstance(value, Tensor):
        whole = value.detach().cpu().contiguous()
        data = whole.reshape(-1).view(torch.uint8).numpy().tobytes() if whole.numel() else b""
        return zlib.crc32(data, zlib.crc32(repr(tuple(value.shape)).encode(), start))
    if isinstance(value, Mapping):
        return checksum([*value.items()], start)
    if isinstance(value, tuple | list):
        for entry in value:
            start = checksum(entry, start)
        return zlib.crc32(str(len(value)).encode(), start)
    known = value is None or isinstance(value, bool | int | float | str)
    return zlib.crc32((repr(value) if known else type(value).__name__).encode(), start)


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors out of nested dicts and tuples; what is left is JSON."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": {str(k): _pack(v, f"{path}/{k}", tensors) for k, v in value.items()}}
    if isinstance(value, tuple | list):
        return {"tuple": [_pack(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise InputError(f"{path} of type {type(value).__name__} cannot be stored in a checkpoint")


def _unpack(layout: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, value),) = layout.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {k: _unpack(v, tensors) for k, v in value.items()}
    if kind == "tuple":
        return tuple(_unpack(v, tensors) for v in value)
    return value
