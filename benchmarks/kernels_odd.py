"""What the dispatcher chooses where no table has the case, against the best dense product.

Random problems on a CPU: odd sizes, any number of rows, bfloat16, strided inputs, every format,
supports without a live block and without a dead one. `masked_linear` runs as it likes; the dense
product is the fastest of MKL (``F.linear``) and oneDNN prepacked for this batch, each a bare call.
All take turns; the first rounds choose the best dense product and count for nothing else, in the
others a ratio is taken within a round, and its median is the problem's. Where the dense product
takes less than `SHORT` microseconds the difference is told instead, since a
call's own cost decides there.

    python benchmarks/kernels_odd.py --threads 1
"""

import argparse
import math
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from kernels import onednn_product, quantiles
from probcomp.errors import InputError
from probcomp.kernels import cpp, masked_linear, pack
from probcomp.kernels.blocks import grid_shape
from probcomp.kernels.dispatch import choose
from probcomp.kernels.tuning import problem_of
from probcomp.recipes.describe import machine
from probcomp.storage import write_json

RESULTS = Path(__file__).parent / "results" / "kernels_odd.json"
SHORT = 100.0  # microseconds
SLOWER = 0.95
CHOOSING, ROUNDS, SLICE = 4, 9, 1e-3
MOST = 1.5e9  # multiplications of a product
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def draw(rng: random.Random) -> dict[str, Any]:
    """A problem that no table was made for."""

    def size() -> int:
        return round(math.exp(rng.uniform(math.log(16), math.log(4096))))

    found = {
        "N": size(), "K": size(), "M": rng.choice([1, 1, 2, 3, 5, 16, 17, 33, 64, 100, 300, 1024]),
        "block": rng.choice([(16, 16), (32, 32), (64, 32), (64, 64), (128, 32), (24, 40), (8, 8)]),
        "density": rng.choice([0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 1.0]),
        "format": rng.choice(["auto", "blocks", "blocks", "blocks", "int8", "runs"]),
        "dtype": rng.choice([torch.float32] * 4 + [torch.bfloat16]),
        "strided": rng.random() < 0.3,
    }  # fmt: skip
    while found["M"] * found["N"] * found["K"] > MOST:
        found["M"] = max(1, found["M"] // 4)
    return found


def run(case: dict[str, Any], seed: int) -> dict[str, Any]:
    """Time one problem."""
    rng = torch.Generator().manual_seed(seed)
    n, k, m, dtype, block = (case[name] for name in ("N", "K", "M", "dtype", "block"))
    weight = torch.randn(n, k, generator=rng)
    live = torch.rand(grid_shape((n, k), block), generator=rng) < case["density"]
    support = live.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:n, :k]
    shape = "auto" if case["format"] in ("auto", "runs") else block
    packed = pack(weight, support, block=shape, format=case["format"], dtype=dtype)
    x = torch.randn(m, 2 * k, generator=rng).to(dtype)[:, :k]
    x = x if case["strided"] else x.contiguous()
    folded = packed.dense().to(dtype)
    want = x.double() @ folded.double().T
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    with torch.inference_mode():
        ours = masked_linear(x, packed)
        if not (ours.double() - want).norm() <= BOUNDS[dtype] * (1 + want.norm()):
            raise InputError(f"wrong: {case}")
        first, second = (onednn_product(folded, rows) for rows in (m, 16))
        runs = {
            "ours": lambda: masked_linear(x, packed), "MKL": lambda: functional.linear(x, folded),
            "oneDNN": lambda: first(x), "oneDNN of 16": lambda: second(x),
        }  # fmt: skip
        repeats, times = {}, {name: [] for name in runs}
        for name, call in runs.items():
            call()
            start = clock()
            call()
            repeats[name] = max(1, min(100, int(SLICE / max(clock() - start, 1e-7))))
        for _ in range(CHOOSING + ROUNDS):
            for name, call in runs.items():
                call()
                start = clock()
                for _ in range(repeats[name]):
                    call()
                times[name].append(1e6 * (clock() - start) / repeats[name])
    dense = [name for name in runs if name != "ours"]
    best = min(dense, key=lambda name: _low(times[name][:CHOOSING]))
    times = {name: values[CHOOSING:] for name, values in times.items()}
    return {
        **case, "dtype": str(dtype).removeprefix("torch."), "kind": packed.kind,
        "stored": packed.density, "backend": choose(problem_of(packed, m)).backend, "best": best,
        "us": {name: _low(values) for name, values in times.items()},
        "ratio": statistics.median(b / a for a, b in zip(times["ours"], times[best])),
    }  # fmt: skip


def _low(values: list[float]) -> float:
    """The lower quartile: other processes only ever add time."""
    return sorted(values)[len(values) // 4]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How often and by how much the choice was slower, long and short products apart."""
    long = [r for r in rows if r["us"][r["best"]] >= SHORT]
    added = [r["us"]["ours"] - r["us"][r["best"]] for r in rows if r["us"][r["best"]] < SHORT]
    return {
        "long": len(long), "ratio": quantiles([r["ratio"] for r in long]),
        "least_ratio": min(r["ratio"] for r in long),
        "slower": sum(r["ratio"] < SLOWER for r in long),
        "short": len(added), "added_us": quantiles(added), "most_added_us": max(added),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--count", type=int, default=200, help="problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-build", action="store_true", help="as where no compiler is")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.no_build:
        cpp._hidden = True
    else:
        cpp.build()
    rng = random.Random(arguments.seed)
    rows = [run(draw(rng), arguments.seed + i) for i in range(arguments.count)]
    rows.sort(key=lambda row: row["ratio"])
    found = summary(rows)
    print(found)
    for row in [r for r in rows if r["us"][r["best"]] >= SHORT][:10]:
        print({name: row[name] for name in ("ratio", "N", "K", "M", "kind", "backend", "us")})
    command = "python benchmarks/kernels_odd.py " + " ".join(sys.argv[1:])
    about = {"machine": machine(), "cpp": cpp.instruction_set(), "threads": arguments.threads}
    write_json(arguments.out, {"command": command, **about, "summary": found, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
