"""Cost, accuracy and calibration of inference after training, against what they should be.

Cost: CPU seconds of an iteration and of whole solves for widths 256 to 2048 on one thread, beside
the model ``d^3 + 2 do d^2`` operations at the machine's own rate of matrix multiplication.
Accuracy: how far each number of iterations is from the fixed point, from exact probabilities, and
from greedy removal with updates (Optimal Brain Surgeon) at equal units. Calibration: supports of
known teachers, weights and groups, hyper-parameters known and learnt. Coupling: layers whose
support is smooth blobs.

    probcomp bench posttrain_scaling [--sizes 256 512 1024 2048]
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _posttrain_tables import calibrations, coupling, iterations_needed, top
from torch import Tensor

from probcomp.allocation.price import solve_price
from probcomp.evidence.obs import eliminate
from probcomp.inference.quadratic import (
    GroupFactor,
    GroupResult,
    Quadratic,
    column_evidence,
    ep_group,
    ep_shared,
    exchange,
    refit,
)
from probcomp.inference.quadratic.pivot import Pivot
from probcomp.priors import Independent
from probcomp.recipes.describe import machine
from probcomp.storage import read_json, write_json

BUDGET_ITERATIONS = 6
RESULTS = Path(__file__).parent / "results" / "posttrain_scaling.json"


def hidden_layer(
    size: int, rows: int, *, inputs: int, tokens: int, seed: int, dtype: torch.dtype = torch.float64
) -> Quadratic:
    """The read-out of ``size`` GELU units of ``inputs`` correlated inputs; redundant on purpose."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, inputs, generator=generator)
    x = x * torch.arange(1, inputs + 1) ** -0.5
    first = torch.randn(size, inputs, generator=generator)
    first = first * torch.exp(0.5 * torch.randn(size, 1, generator=generator))
    hidden = torch.nn.functional.gelu(x @ first.T + 0.3 * torch.randn(size, generator=generator))
    weight = torch.randn(rows, size, generator=generator) / size**0.5
    hidden = hidden.double()
    gram = hidden.T @ hidden
    return Quadratic(weight.to(dtype), gram.to(dtype))


def single_columns(quadratic: Quadratic) -> GroupFactor:
    return GroupFactor(quadratic, torch.arange(quadratic.size)[:, None])


def solve_budget(factor: GroupFactor, share: float, iterations: int) -> GroupResult:
    """The price that keeps a share of the units, solved again after every iteration."""
    units = len(factor.columns)
    result = ep_group([factor], iterations=1)
    for _ in range(iterations):
        price = solve_price(result.expected_cost, share * units).value
        result = ep_group([factor], price=price, start=result, iterations=1)
    return result


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Least CPU time of several runs after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


def rate(size: int, dtype: torch.dtype, repeats: int) -> float:
    """Operations a second of the machine's own matrix product."""
    a = torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / seconds(lambda: a @ a, repeats)


def scaling(sizes: list[int], repeats: int) -> dict[str, Any]:
    rows = []
    for size in sizes:
        do = size // 4
        quadratic = hidden_layer(size, do, inputs=size // 8, tokens=4 * size, seed=size)
        half = Quadratic(quadratic.weight.float(), quadratic.gram.float())
        operations = size**3 + 2 * do * size**2
        row: dict[str, Any] = {"size": size, "rows": do, "operations": operations}
        results = {}
        for name, q in (("float64", quadratic), ("float32", half)):
            factor = single_columns(q)
            speed = rate(size, q.weight.dtype, repeats)
            began = time.process_time()
            warm = solve_budget(factor, 0.5, BUDGET_ITERATIONS)
            solve = time.process_time() - began
            results[name] = warm
            group = seconds(lambda f=factor, w=warm: ep_group([f], start=w, iterations=1), repeats)
            state = ep_shared(q, prior=Independent(0.5), iterations=1, learn=False)
            shared = seconds(
                lambda q=q, s=state: ep_shared(
                    q, prior=Independent(0.5), start=s, iterations=1, learn=False
                ),
                repeats,
            )
            row[name] = {
                "matmul_gflops": speed / 1e9,
                "group_iteration_seconds": group,
                "shared_iteration_seconds": shared,
                "model_seconds": operations / speed,
                "group_share_of_matmul_rate": operations / speed / group,
                "shared_share_of_matmul_rate": operations / speed / shared,
                "group_solve_seconds": solve,
            }
        kept = top(results["float64"].log_odds, size // 2)
        factor = single_columns(quadratic)
        began = time.process_time()
        exchange([factor], results["float64"], kept)
        row["exchange_seconds"] = time.process_time() - began
        if size <= 1024:
            began = time.process_time()
            whole = ep_shared(quadratic, prior=Independent(0.5), iterations=15)
            row["shared_solve_seconds"] = time.process_time() - began
            row["shared_solve_iterations"] = whole.iterations
        p64, p32 = results["float64"].probability, results["float32"].probability.double()
        l64, l32 = results["float64"].evidence, results["float32"].evidence.double()
        row["float32_largest_probability_error"] = float((p64 - p32).abs().max())
        row["float32_same_set_share"] = float(
            (kept & top(results["float32"].log_odds, size // 2)).sum() / kept.sum()
        )
        row["float32_median_evidence_error"] = float(((l64 - l32).abs() / l64.abs()).median())
        rows.append(row)
        double = row["float64"]
        print(
            f"d={size:5}: {double['group_iteration_seconds']:.3f} s an iteration, "
            f"shared {double['shared_iteration_seconds']:.3f}, model "
            f"{double['model_seconds']:.3f}; solve {double['group_solve_seconds']:.2f}"
            f" + swaps {row['exchange_seconds']:.2f}; float32 "
            f"{row['float32']['group_iteration_seconds']:.3f}",
            flush=True,
        )
    exponents = {
        f"{kind}_{name}": slope(
            [r["size"] for r in rows], [r[name][f"{kind}_iteration_seconds"] for r in rows]
        )
        for kind in ("group", "shared")
        for name in ("float64", "float32")
    }
    return {"rows": rows, "fitted_exponent": exponents}


def slope(x: list[float], y: list[float]) -> float | None:
    """Least-squares slope of log y over log x; None of one point."""
    a, b = torch.tensor(x).double().log(), torch.tensor(y).double().log()
    a = a - a.mean()
    return float((a * (b - b.mean())).sum() / a.square().sum()) if len(x) > 1 else None


def encoder() -> dict[str, float]:
    """One encoder layer at half its units: FFN 1536 and 12 heads of 32, width 384; six in all."""
    wide = hidden_layer(1536, 384, inputs=384, tokens=4096, seed=0)
    narrow = hidden_layer(384, 384, inputs=96, tokens=4096, seed=10)
    factor = single_columns(wide)
    began = time.process_time()
    result = solve_budget(factor, 0.5, BUDGET_ITERATIONS)
    ffn = time.process_time() - began
    began = time.process_time()
    solve_budget(GroupFactor(narrow, torch.arange(384).view(12, 32)), 0.5, BUDGET_ITERATIONS)
    heads = time.process_time() - began
    began = time.process_time()
    exchange([factor], result, top(result.log_odds, 768))
    swaps = time.process_time() - began
    print(f"encoder layer: FFN {ffn:.2f} s, heads {heads:.2f} s, swaps {swaps:.2f} s", flush=True)
    return {
        "ffn_seconds": ffn,
        "heads_seconds": heads,
        "exchange_seconds": swaps,
        "six_layers_seconds": 6 * (ffn + heads + swaps),
        "iterations": BUDGET_ITERATIONS + 1,
    }


def pruning() -> dict[str, Any]:
    """Loss after compensation over that of Optimal Brain Surgeon's own set, at equal units."""
    table: dict[str, dict[str, float]] = {}
    for inputs in (8, 24, 64):
        ratios: dict[str, list[float]] = {}
        for seed in range(3):
            quadratic = hidden_layer(256, 64, inputs=inputs, tokens=8192, seed=seed)
            factor = single_columns(quadratic)
            slab = 1 / float(quadratic.weight.square().mean())
            gone = eliminate([(quadratic, factor.columns)]).order
            for share in (0.7, 0.5, 0.3):
                count = int(share * 256)
                surgeon = torch.ones(256, dtype=torch.bool).index_fill(
                    0, gone[: 256 - count], False
                )
                base = loss(quadratic, surgeon)
                size = quadratic.weight.norm(dim=0) * quadratic.gram.diagonal().sqrt()
                sets = {
                    "greedy by evidence": greedy(quadratic, factor.columns, count, slab),
                    "magnitude times input": top(size, count),
                    "one shot, no updates": top(
                        column_evidence(quadratic, factor.columns, slab), count
                    ),
                }
                for n in (1, 3, 6, 12):
                    result = solve_budget(factor, share, n)
                    sets[f"ep {n + 1} iterations"] = top(result.log_odds, count)
                    sets[f"ep {n + 1} iterations and swaps"] = exchange(
                        [factor], result, top(result.log_odds, count)
                    )
                for name, kept in sets.items():
                    ratios.setdefault(name, []).append(math.log(loss(quadratic, kept) / base))
        table[f"{inputs} inputs"] = {
            name: math.exp(sum(values) / len(values)) for name, values in ratios.items()
        }
        print(f"{inputs} inputs:", {k: round(v, 3) for k, v in table[f"{inputs} inputs"].items()})
    return table


def greedy(quadratic: Quadratic, columns: Tensor, count: int, slab: float) -> Tensor:
    """One unit at a time, that of least evidence given all removed so far, under the slab."""
    pivot = Pivot(quadratic, columns, slab, torch.ones(len(columns), dtype=torch.bool))
    while int(pivot.kept.sum()) > count:
        pivot.toggle(int(torch.where(pivot.kept, pivot.evidence(), torch.inf).argmin()))
    return pivot.kept.clone()


def loss(quadratic: Quadratic, kept: Tensor) -> float:
    return quadratic.loss_increase(refit(quadratic, kept) - quadratic.weight)


PARTS: dict[str, Callable[[], Any]] = {
    "scaling": lambda: scaling([256, 512, 1024, 2048], 3),
    "encoder": encoder,
    "calibration": calibrations,
    "iterations": iterations_needed,
    "pruning_loss_over_surgeon": pruning,
    "coupling": coupling,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), metavar="PART")
    parser.add_argument("--update", action="store_true", help="keep other parts of the file")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if unasked := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"unknown parts {unasked}; known: {', '.join(PARTS)}")
    result = {
        "command": " ".join(["probcomp bench posttrain_scaling", *sys.argv[1:]]),
        "machine": machine(),
        "torch": torch.__version__,
        "times": "CPU seconds of one thread, least of the repeats",
    }
    if arguments.update and arguments.out.is_file():
        result |= read_json(arguments.out)  # its command and machine stay with the other parts
    for name in arguments.parts:  # written part by part: the whole takes minutes
        if name == "scaling":
            result[name] = scaling(arguments.sizes, arguments.repeats)
        else:
            result[name] = PARTS[name]()
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
