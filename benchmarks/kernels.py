"""Packed kernels on a CPU against the best dense product: the table that the documentation quotes.

The network is an MLP, K -> H -> K with GELU, float32. Every variant runs once in each round, in
turn, so load on the machine meets all of them; a ratio is taken within a round and the median over
rounds is reported with its 20 and 80 % quantiles. The best dense product is the fastest of MKL
(``F.linear``) and oneDNN prepacked, once for this batch size as PyTorch orders it and once in the
order that we keep; these are bare calls with GELU after the product, and rounds of their own choose
among them, so that noise does not. Where a weight lies in memory moves a time by some per cent, so
everything is built anew ``--copies`` times and the rounds are shared out. Our own dense product in
C++ is a row of the table. Inputs are random, never zeros. "auto" is what `masked_linear` runs,
"library" what it runs where no compiler is.

    python benchmarks/kernels.py --threads 2 --out benchmarks/results/kernels_cpu_2threads.json
    python benchmarks/kernels.py --threads 2 --rounds 5 --tune probcomp/kernels/tables
"""

import argparse
import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from probcomp.errors import InputError
from probcomp.kernels import PackedWeight, compact_mlp, cpp, masked_linear, pack, tune
from probcomp.kernels.dispatch import choose, forget_choices
from probcomp.kernels.fast_dense import ONEDNN_ROWS
from probcomp.kernels.tuning import problem_of
from probcomp.storage import write_json

Run = Callable[[Tensor], Tensor]
Cases = dict[str, tuple[Run, Run, float]]
DENSE = ("dense MKL", "dense oneDNN", "dense oneDNN kept")
CHOOSING = 5  # rounds that only choose the best dense product
ALLOWED = 1e-4  # float32 sums of up to 3072 terms in another order


def blocks_of(shape: tuple[int, int], block: tuple[int, int], density: float, seed: int) -> Tensor:
    """A support with the same number of live blocks in each block row, at random columns."""
    rows, columns = shape[0] // block[0], shape[1] // block[1]
    score = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    live = score.argsort(1).argsort(1) < max(1, round(density * columns))
    return live.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def dense_pair(up: Tensor, down: Tensor, product: Callable[..., Tensor]) -> Run:
    """The whole MLP with one kind of dense product."""
    return lambda x: product(functional.gelu(product(x, up, None)), down, None)


def packed_pair(up: PackedWeight, down: PackedWeight, backend: str) -> Run:
    """The whole MLP with packed weights on one backend."""

    def run(x: Tensor) -> Tensor:
        hidden = masked_linear(x, up, activation="gelu", backend=backend)
        return masked_linear(hidden, down, backend=backend)

    return run


def library_pair(up: PackedWeight, down: PackedWeight, batches: list[int]) -> Run:
    """The whole MLP as `masked_linear` would run it had the C++ kernel not been built."""
    up, down = dataclasses.replace(up), dataclasses.replace(down)  # decided apart from the others
    with cpp.hidden():
        forget_choices()
        chosen = {m: [choose(problem_of(w, m)).backend for w in (up, down)] for m in batches}
    forget_choices()
    seen: set[int] = set()

    def run(x: Tensor) -> Tensor:
        first, second = chosen[x.shape[0]]
        if x.shape[0] not in seen:
            seen.add(x.shape[0])
            with cpp.hidden():
                return run(x)
        hidden = masked_linear(x, up, activation="gelu", backend=first)
        return masked_linear(hidden, down, backend=second)

    return run


def onednn_product(weight: Tensor, rows: int) -> Run:
    """A bare product by oneDNN with the weight ordered once, for this many rows."""
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight.clone(), rows)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, ordered, None, "none", [], "")


def onednn_pair(up: Tensor, down: Tensor, rows: int | None = None) -> Run:
    """The whole MLP by oneDNN, its weights ordered for the batch's or a given row count."""
    kept: dict[int, tuple[Run, Run]] = {}

    def run(x: Tensor) -> Tensor:
        wanted = x.shape[0] if rows is None else rows
        if wanted not in kept:
            kept[wanted] = onednn_product(up, wanted), onednn_product(down, wanted)
        first, second = kept[wanted]
        return second(functional.gelu(first(x)))

    return run


def variants(k: int, h: int, density: float, batches: list[int], seed: int) -> Cases:
    """Each variant: how it runs, its dense twin as a reference, and its stored density."""
    rng = torch.Generator().manual_seed(seed)
    up = torch.randn(h, k, generator=rng) / k**0.5
    down = torch.randn(k, h, generator=rng) / h**0.5
    mkl = dense_pair(up, down, functional.linear)
    found = {
        "dense MKL": (mkl, mkl, 1.0),
        "dense oneDNN": (onednn_pair(up, down), mkl, 1.0),
        "dense oneDNN kept": (onednn_pair(up, down, ONEDNN_ROWS), mkl, 1.0),
    }
    keep = torch.zeros(h, dtype=torch.bool)
    keep[torch.randperm(h, generator=rng)[: max(1, round(density * h))]] = True
    small = compact_mlp(
        up,
        down,
        keep[:, None].expand(h, k),
        keep[None].expand(k, h),
        activation="gelu",
        multiple=16,
    )
    twin = dense_pair(up * keep[:, None], down * keep, functional.linear)
    share = small.up.shape[0] / h
    found["compact"] = (small, twin, share)
    found["compact oneDNN"] = (onednn_pair(small.up, small.down, ONEDNN_ROWS), twin, share)
    if cpp.available():
        layers = [cpp.dense_layer(up), cpp.dense_layer(down)]
        whole = cpp.chain(layers, [None, None], ["gelu", "none"])
        found["dense C++"] = (lambda x: cpp.run_chain(x, whole), mkl, 1.0)
    shapes = {"32x32": (32, 32), "64x64": (64, 64), "256x64": (256, 64)}
    for name, block in shapes.items():
        supports = [
            blocks_of((h, k), block, density, seed + 1),
            blocks_of((k, h), block, density, seed + 2),
        ]
        pair = [pack(w, s, block=block, format="blocks") for w, s in zip((up, down), supports)]
        twin = dense_pair(up * supports[0], down * supports[1], functional.linear)
        for backend in ["panels", *(["cpp"] if cpp.available() else []), "auto"]:
            run = packed_pair(pair[0], pair[1], backend)
            found[f"{backend} {name}"] = (run, twin, pair[0].density)
        found[f"library {name}"] = (library_pair(*pair, batches), twin, pair[0].density)
    return found


def measure(cases: Cases, x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after a check against its dense twin."""
    for name, (run, twin, _) in cases.items():
        error = float((run(x) - twin(x)).norm() / twin(x).norm())
        if not error <= ALLOWED:
            raise InputError(f"{name} differs from its dense twin: relative error {error:.2e}")
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    repeats = max(2, 64 // x.shape[0])
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (run, _, _) in cases.items():
            run(x)  # brings the variant's own weights into the caches, as in steady use
            start = clock()
            for _ in range(repeats):
                run(x)
            times[name].append((clock() - start) / repeats)
    return times


def quantiles(values: list[float]) -> dict[str, float]:
    """Median and 20 to 80 % range."""
    cuts = statistics.quantiles(values, n=5)
    return {"median": statistics.median(values), "p20": cuts[0], "p80": cuts[-1]}


def best_dense(cases: Cases, x: Tensor, rounds: int = CHOOSING) -> str:
    """The dense product with the lowest median time, by rounds that count for nothing else."""
    times = measure({name: cases[name] for name in DENSE}, x, rounds)
    return min(DENSE, key=lambda name: statistics.median(times[name]))


def table(arguments: argparse.Namespace) -> list[dict]:
    """One row for each density, batch and variant."""
    rows = []
    print(f"{'M':>5} {'d':>5}  {'variant':<17} {'us':>9}  ratio to best dense [20%, 80%]")
    for density in arguments.densities:
        spent: dict[tuple[int, str], list[float]] = {}
        ratios: dict[tuple[int, str], list[float]] = {}
        best: dict[int, str] = {}
        shared = -(-arguments.rounds // arguments.copies)
        for _ in range(arguments.copies):
            sizes = arguments.inputs, arguments.hidden
            cases = variants(*sizes, density, arguments.batches, arguments.seed)
            for m in arguments.batches:
                x = torch.randn(m, arguments.inputs, generator=torch.Generator().manual_seed(m))
                with torch.inference_mode():
                    best.setdefault(m, best_dense(cases, x))
                    times = measure(cases, x, shared)
                for name, seconds in times.items():
                    spent.setdefault((m, name), []).extend(seconds)
                    paired = [d / s for d, s in zip(times[best[m]], seconds)]
                    ratios.setdefault((m, name), []).extend(paired)
        for (m, name), seconds in sorted(spent.items(), key=lambda item: item[0][0]):
            ratio, us = quantiles(ratios[m, name]), quantiles([1e6 * s for s in seconds])
            rows.append(
                {"M": m, "density": density, "stored": cases[name][2], "variant": name,
                 "best_dense": best[m], "us": us, "ratio": ratio}
            )  # fmt: skip
            spread = f"{ratio['median']:.2f} [{ratio['p20']:.2f}, {ratio['p80']:.2f}]"
            case = f"{m:>5} {density:>5}  {name:<17}"
            print(f"{case} {us['median']:>9.0f}  {spread}", flush=True)
    return rows


def tuned(arguments: argparse.Namespace) -> Path:
    """Time every backend for common shapes on this machine, and write the table of winners."""
    weights = []
    for shape in ((384, 384), (768, 768), (3072, 768)):
        weight = torch.randn(*shape, generator=torch.Generator().manual_seed(arguments.seed))
        for block in ((16, 16), (32, 32), (64, 32), (128, 32)):
            for density in (0.1, 0.2, 0.3, 0.5):
                support = blocks_of(shape, block, density, arguments.seed + 1)
                weights.append(pack(weight, support, block=block, format="blocks"))
    return tune(weights, folder=arguments.tune, rounds=arguments.rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=768)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--densities", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.1])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--copies", type=int, default=3, help="times that all is built anew")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-build", action="store_true", help="do not compile the C++ kernel")
    parser.add_argument("--tune", type=Path, metavar="FOLDER", help="write a table of winners")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.no_build:
        cpp.build()
    if arguments.tune:
        print(tuned(arguments))
        return 0
    rows = table(arguments)
    if arguments.out:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cpp": cpp.instruction_set(),
            "torch": torch.__version__,
            "threads": arguments.threads,
            "load": os.getloadavg(),
        }
        command = "python benchmarks/kernels.py " + " ".join(sys.argv[1:])
        write_json(arguments.out, {"command": command, "machine": machine, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
