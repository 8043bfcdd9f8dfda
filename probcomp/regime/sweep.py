"""Many pilots: planned, spread over an engine, resumed, or listed for a job array."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from probcomp.errors import InputError
from probcomp.progress import progress
from probcomp.regime.engines import Submit, open_engine
from probcomp.regime.optuna_store import absolute_address
from probcomp.regime.pilots import PilotConfig, pilot_configs, run_pilot
from probcomp.regime.store import Record, Store
from probcomp.regime.tasks import PilotTask, load_task
from probcomp.storage import write_text


def default_jobs() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def grid_configs(
    task: str | PilotTask,
    levels: Sequence[float] | None = None,
    densities: Sequence[float] | None = None,
    *,
    method: str | None = None,
) -> list[PilotConfig]:
    """Pilots at every level and density; the task's own where none are given."""
    about = load_task(task) if isinstance(task, str) else task
    return [
        config
        for density in densities or about.densities
        for level in levels or about.levels
        for config in pilot_configs(task, level, density, method=method)
    ]


def run_pilots(
    configs: Sequence[PilotConfig],
    store: Store,
    *,
    engine: str = "processes",
    jobs: int | None = None,
    task: PilotTask | None = None,
    submit: Submit | None = None,
    show: bool = True,
) -> list[Record]:
    """Run pilots, or read those that the store has, and return their records in order.

    Dense networks come first: each run is trained once, with a checkpoint wherever a pilot stops
    it, and its pilots start when it is ready.

    Args:
        engine: ``processes`` (the default), ``serial``, ``ray`` or ``dask``.
        jobs: Workers, one thread each; by default one a processor.
        task: For tasks that no worker can load by name; runs in this process.
        submit: An engine that is open already (`open_engine`) and stays so.
        show: Whether to show a bar on standard error.
    """
    found: dict[str, Record] = {}
    missing: dict[str, PilotConfig] = {}
    for config in configs:
        record = store.pilots.get(config.key)
        if record is None:
            missing[config.key] = config
        else:
            found[config.key] = record
    if task is not None or any(not config.task for config in missing.values()):
        with progress("pilots", len(missing), show=show) as advance:
            for key, config in missing.items():
                found[key] = run_pilot(config, store, task=task)
                advance("")
    elif missing:
        workers = min(jobs or default_jobs(), len(missing))
        with (
            nullcontext(submit) if submit else open_engine(engine, workers) as send,
            progress("pilots", len(missing), show=show) as advance,
        ):
            for key, record in _run(missing, store, send):
                found[key] = record
                advance("")
    return [found[config.key] for config in configs]


def stored_pilots(
    task: str | PilotTask, store: Store, *, method: str | None = None
) -> list[Record]:
    """Every pilot at a level and a density of a task that a store has, whoever asked for it.

    Raises:
        InputError: where there is none.
    """
    about = load_task(task) if isinstance(task, str) else task
    wanted = {
        _but_seed(config) for config in grid_configs(task, method=method)[:: len(about.dense_seeds)]
    }
    found = [
        record
        for record in store.pilots.all().values()
        if _but_seed(PilotConfig.of(record["config"])) in wanted
    ]
    if not found:
        raise InputError(
            f"{store.folder} has no pilot of task {about.name!r} as it is; run some first."
        )
    return found


def _but_seed(config: PilotConfig) -> str:
    """What two pilots share that differ by their dense seeds alone."""
    return json.dumps({**config.to_json(), "dense_seed": 0, "task": ""}, sort_keys=True)


def _run(missing: dict[str, PilotConfig], store: Store, submit: Submit) -> Any:
    """Yield (key, record) as pilots finish; each dense run goes before its pilots."""
    chains: dict[str, list[PilotConfig]] = {}
    for config in missing.values():
        chains.setdefault(config.trajectory_key, []).append(config)
    running: dict[Future[Record], tuple[str, Any]] = {}

    def send(kind: str, config: PilotConfig, then: Any) -> None:
        job = {
            "do": kind,
            "config": _from_anywhere(config),
            "store": str(store.folder.resolve()),
            "optuna": store.optuna and absolute_address(store.optuna),
        }
        running[submit(job)] = (kind, then)

    def next_stop(chain: list[PilotConfig]) -> None:
        """Train to the next stop of a dense run, unless its checkpoint is there."""
        send("dense", chain[0], chain)

    for chain in chains.values():
        chain.sort(key=lambda config: config.recipe.epochs)
        next_stop(chain)
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            kind, rest = running.pop(future)
            record = future.result()
            if kind == "pilot":
                yield rest, record
                continue
            stop = rest[0].recipe.epochs
            ready = [config for config in rest if config.recipe.epochs == stop]
            later = [config for config in rest if config.recipe.epochs > stop]
            if later:
                next_stop(later)
            for config in ready:
                send("pilot", config, config.key)


def write_plan(configs: Sequence[PilotConfig], path: Path | str) -> None:
    """A task list for job arrays: one pilot a line, as JSON, to be run from any folder.

    Lines started together that share a dense network (those of one seed that differ in density
    only) each train it, since none is there yet; `run_pilots` trains it once.
    """
    write_text(path, "".join(json.dumps(_from_anywhere(config)) + "\n" for config in configs))


def _from_anywhere(config: PilotConfig) -> dict[str, Any]:
    """Plain values of a pilot whose task file is found from every folder of this host."""
    place, colon, name = config.task.partition(":")
    if not place.endswith(".py"):
        return config.to_json()
    return {**config.to_json(), "task": os.path.abspath(place) + colon + name}


def read_plan(path: Path | str) -> list[PilotConfig]:
    """The pilots of a task list."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    out = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(f"{path}, line {number} is blank; a line is a pilot: delete it.")
        try:
            out.append(PilotConfig.of(json.loads(line)))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number} is not JSON ({error}); make the list anew with --task."
            ) from error
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    if not out:
        raise InputError(f"{path} lists no pilots.")
    return out


def run_line(path: Path | str, number: int, store: Store) -> Record:
    """Run line ``number`` (from 1) of a task list: what one member of a job array does."""
    configs = read_plan(path)
    if not 1 <= number <= len(configs):
        raise InputError(f"{path} has lines 1 to {len(configs)}; got {number}.")
    return run_pilot(configs[number - 1], store)
