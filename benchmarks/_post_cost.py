"""What inference after training costs, in forward passes over the calibration samples."""

import statistics
import time
from dataclasses import replace
from typing import Any

from _post_rows import Prepared, forward_seconds
from torch import Tensor

from probcomp.recipes.methods import METHODS

STAGES = {
    "reading": "one pass with statistics, gradients and targets",
    "judging": "elimination of every axis",
    "trying": "sampled removals",
    "posterior": "inclusion scores",
    "measuring": "the plan, measured",
    "refitting": "refit of all read-outs, in one pass in step",
    "done": "the rest",
}


def cost(
    prepared: Prepared, data: tuple[Tensor, ...], removed: float, seed: int, *, repeats: int
) -> dict[str, Any]:
    """Processor seconds by stage and in all, beside forward passes before and after each run.

    Of the run in the middle; the first one, which finds memory and caches cold, is left out.
    """
    runs = []
    for _ in range(repeats + 1):
        spent = dict.fromkeys(STAGES, 0.0)
        before = forward_seconds(prepared, data)
        start = last = time.process_time()

        def on_step(step: int, total: int, text: str, spent: dict[str, float] = spent) -> None:
            nonlocal last
            now = time.process_time()
            spent[text.split()[0]] += now - last
            last = now

        job = replace(prepared.job(data, prepared.budget(removed)[0], None, seed), on_step=on_step)
        METHODS["turbo-vbi-post"].run(job)
        whole = time.process_time() - start
        forward = 0.5 * (before + forward_seconds(prepared, data))
        runs.append((whole, forward, spent))
    runs = runs[1:]
    ratios = [w / f for w, f, _ in runs]
    middle = statistics.median_low(ratios)
    whole, forward, spent = runs[ratios.index(middle)]
    return {
        "removed": removed,
        "samples": len(data[0]),
        "forward_seconds": forward,
        "seconds": whole,
        "forwards": middle,
        "forwards_of_runs": ratios,
        "stages": {STAGES[name]: value / forward for name, value in spent.items()},
    }
