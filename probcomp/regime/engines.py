"""Where pilots run: in this process, in worker processes, on a Ray or a Dask cluster.

An engine is a context that gives ``submit(job) -> Future``; see `probcomp.regime.worker` for jobs.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from probcomp.errors import InputError, ProbcompError, unknown

Job = dict[str, Any]
Submit = Callable[[Job], "Future[dict[str, Any]]"]
ENGINES = ("processes", "serial", "ray", "dask")


@contextmanager
def open_engine(name: str, jobs: int) -> Iterator[Submit]:
    """An engine of ``jobs`` workers with one thread each.

    Workers outlive a job, so an engine that is open for several rounds starts them once. Ray starts
    its cluster by a fork: where that comes after a fit of the regime model, which leaves JAX's
    threads in this process, it may hang. So a cluster is opened before the first fit.

    Raises:
        InputError: an unknown engine, or one whose library is not installed, with the cure.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; at least one worker is needed.")
    opener = {"processes": _processes, "serial": _serial, "ray": _ray, "dask": _dask}.get(name)
    if opener is None:
        raise unknown("engine", name, ENGINES)
    with opener(jobs) as submit:
        yield submit


@contextmanager
def _serial(jobs: int) -> Iterator[Submit]:
    from probcomp.regime.worker import do_job

    def submit(job: Job) -> "Future[dict[str, Any]]":
        future: Future[dict[str, Any]] = Future()
        try:
            future.set_result(do_job(job))
        except Exception as error:
            future.set_exception(error)
        return future

    yield submit


@contextmanager
def _processes(jobs: int) -> Iterator[Submit]:
    """Threads of this process, each of which owns a worker process and waits for its answers."""
    local = threading.local()
    workers: list[subprocess.Popen[str]] = []

    def work(job: Job) -> dict[str, Any]:
        if not hasattr(local, "worker"):
            local.worker = _start()
            workers.append(local.worker)
        worker = local.worker
        try:
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            code = worker.wait()
            del local.worker
            raise ProbcompError(
                f"a worker process died (status {code}; out of memory?); what was finished is "
                "kept in the store, and the same command resumes from it."
            )
        return _answer(json.loads(line))

    pool = ThreadPoolExecutor(jobs)
    try:
        yield lambda job: pool.submit(work, job)
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for worker in workers:
            if worker.stdin:
                worker.stdin.close()
            worker.wait()
            if worker.stdout:
                worker.stdout.close()


def _start() -> "subprocess.Popen[str]":
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-m", "probcomp.regime.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **one, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _answer(said: dict[str, Any]) -> dict[str, Any]:
    if "error" in said:
        raise ProbcompError(f"a pilot failed: {said['error']}")
    record: dict[str, Any] = said["record"]
    return record


@contextmanager
def _ray(jobs: int) -> Iterator[Submit]:
    """A running Ray cluster where there is one, else a local one of ``jobs`` processors."""
    try:
        import ray
    except ImportError as error:
        raise InputError("engine 'ray' needs Ray: pip install 'ray'.") from error
    from probcomp.regime.worker import do_job

    started = not ray.is_initialized()
    if started:
        address = os.environ.get("RAY_ADDRESS")
        size: dict[str, Any] = {} if address else {"num_cpus": jobs}
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False,
            logging_level=logging.ERROR, **size,
        )  # fmt: skip
    remote = ray.remote(num_cpus=1, max_retries=1)(do_job)
    try:
        yield lambda job: remote.remote(job).future()
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _dask(jobs: int) -> Iterator[Submit]:
    """The Dask cluster at ``DASK_SCHEDULER_ADDRESS``, else a local one of ``jobs`` processes."""
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError("engine 'dask' needs Dask: pip install 'dask[distributed]'.") from error
    from probcomp.regime.worker import do_job

    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    # Pilots are subprocesses of the workers there, so that user code is never unpickled there.
    options: dict[str, Any] = (
        {"address": address}
        if address
        else {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None}
    )
    with Client(**options) as client, client.get_executor(pure=False, retries=1) as executor:
        yield lambda job: executor.submit(do_job, job)
