"""A worker: reads jobs from standard input, one JSON line each, and answers with one line.

Started as ``python -m probcomp.regime.worker``. Jobs and answers are plain values, so nothing is
pickled, the program that started it is not imported again, and a worker whose owner was killed
finishes its job, sees the end of its input and leaves.
"""

import json
import os
import sys
from typing import Any

from probcomp.errors import DivergenceError, ProbcompError


def do_job(job: dict[str, Any]) -> dict[str, Any]:
    """``{"do": "dense" | "pilot", "config", "store", "optuna"}``: the record it gives.

    A dense job trains the dense network of a configuration and leaves its checkpoint. One that
    diverges answers so and leaves none: the pilots that need it meet the same divergence and
    record it, and the pilots at other values of the knob go on.
    """
    import torch

    from probcomp.regime.pilots import PilotConfig, dense_network, run_pilot
    from probcomp.regime.store import Store
    from probcomp.regime.tasks import load_task

    torch.set_num_threads(1)
    store = Store(job["store"], job.get("optuna"))
    config = PilotConfig.of(job["config"])
    if job["do"] == "dense":
        try:
            return dense_network(config, load_task(config.task), store)[1]
        except DivergenceError as error:
            return {"status": "diverged", "reason": str(error)}
    return run_pilot(config, store)


def main() -> None:
    """Answer jobs until the input ends."""
    # What a task prints must not mix with the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            try:
                answer: dict[str, Any] = {"record": do_job(json.loads(line))}
            except ProbcompError as error:
                answer = {"error": str(error)}
            except Exception as error:  # the owner decides what to do with it
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
            except BrokenPipeError:  # the owner was killed; what was done is in the store
                os._exit(0)


if __name__ == "__main__":
    main()
