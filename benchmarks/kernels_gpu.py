"""Every Triton kernel on this machine's GPU: right, clean, tuned and timed, in under ten minutes.

Stages: the machine's own ceilings (copy, matrix product); the GPU tests; compute-sanitizer on the
smallest cases where it is installed; the tuner, whose table is what `masked_linear` reads; and the
table of this file. A time stands beside the best dense product of the same shape, beside PyTorch's
block-sparse layout and `blksprs` where they run, and beside the roofline that the ceilings give:
the larger of bytes over copy rate and live products over matrix rate.

    python benchmarks/kernels_gpu.py --out benchmarks/results/kernels_gpu.json

Without a GPU, ``--stand-in`` runs every stage interpreted at toy sizes, which checks this script
and says nothing of speed.
"""

# ruff: noqa: B023  (each run is called before its loop goes on)

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from probcomp.errors import InputError
from probcomp.kernels import (
    ScoreBlocks,
    chain_messages,
    decode_stats,
    gated_mlp_hidden,
    live_attention,
    masked_linear,
    pack,
    reparameterised_linear,
    tune,
)
from probcomp.kernels.nm import pack_nm
from probcomp.kernels.tuning import cold_seconds
from probcomp.storage import write_json

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, SECONDS, MOST = 25, 2e-3, 10


class Bench:
    """Times on one device, and the ceilings they are compared with."""

    def __init__(self, stand_in: bool) -> None:
        self.stand_in = stand_in
        self.device = torch.device("cpu" if stand_in else "cuda")
        self.dtype = torch.float32 if stand_in else torch.bfloat16
        self.rng = torch.Generator().manual_seed(0)
        self.rows: list[dict[str, Any]] = []
        self.copy = self.flops = 0.0

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        values = torch.randn(*shape, generator=self.rng)
        return values.to(self.device, self.dtype if dtype is None else dtype)

    def seconds(self, *runs: Callable[[], Any]) -> list[float]:
        """Median seconds of each run; they take turns, so a changing clock meets all alike."""
        if self.stand_in:
            return [_once(run) for run in runs]  # a GPU's cache is cold in each call
        times: list[list[float]] = [[] for _ in runs]
        repeats = []
        for run in runs:
            run()
            once = cold_seconds(run, 1, self.device)
            repeats.append(max(1, min(MOST, int(SECONDS / max(once, 1e-7)))))
        for _ in range(ROUNDS):
            for kept, run, count in zip(times, runs, repeats):
                kept.append(cold_seconds(run, count, self.device))
        return [statistics.median(kept) for kept in times]

    def ceilings(self) -> dict[str, float]:
        """Bytes a second of a copy (read and write) and products a second of a matrix product."""
        size = 2**12 if self.stand_in else 2**29
        source = torch.empty(size, dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        side = 32 if self.stand_in else 8192
        a, b = self.random(side, side), self.random(side, side)
        copied, multiplied = self.seconds(lambda: target.copy_(source), lambda: a @ b)
        self.copy, self.flops = 2 * size / copied, 2 * side**3 / multiplied
        return {"copy_bytes_per_s": self.copy, "matmul_flop_per_s": self.flops}

    def add(
        self, kernel: str, case: dict[str, Any], runs: dict[str, Callable[[], Any]],
        bytes_moved: float, flops: float,
    ) -> None:  # fmt: skip
        """One row: the first run is ours; those that fail are kept with their reason."""
        able: dict[str, Callable[[], Any]] = {}
        failed: dict[str, str] = {}
        for name, run in runs.items():
            try:
                run()
                able[name] = run
            except (RuntimeError, NotImplementedError, ImportError, ValueError) as error:
                failed[name] = str(error).splitlines()[0][:200]
        if next(iter(runs)) in failed:
            raise InputError(f"{kernel} {case} failed: {failed}")
        seconds = dict(zip(able, self.seconds(*able.values())))
        ours = seconds[next(iter(runs))]
        bound = max(bytes_moved / self.copy, flops / self.flops)
        row = {
            "kernel": kernel, **case, "us": {k: 1e6 * s for k, s in seconds.items()},
            "roofline_us": 1e6 * bound, "share_of_roofline": bound / ours,
            "bytes_per_s": bytes_moved / ours, "flop_per_s": flops / ours,
            "speedup": {k: s / ours for k, s in seconds.items() if s is not ours},
            "failed": failed,
        }  # fmt: skip
        self.rows.append(row)
        text = ", ".join(f"{k} {v:.1f}" for k, v in row["us"].items())
        print(f"{kernel:<14} {case}  us: {text}; roofline {row['roofline_us']:.1f}", flush=True)


def _once(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def block_rows(bench: Bench, toy: bool) -> None:
    n, k = (64, 64) if toy else (4096, 14336)
    weight = bench.random(n, k)
    for block in ((32, 32),) if toy else ((128, 64), (64, 32), (32, 32)):
        for density in (0.5,) if toy else (0.05, 0.1, 0.2, 0.3, 0.5, 1.0):
            grid = torch.rand(n // block[0], k // block[1], generator=bench.rng) < density
            support = grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
            support = support.to(bench.device)
            packed = pack(weight, support, block=block, format="blocks")
            masked = weight * support
            for m in (2,) if toy else (1, 16, 128, 2048):
                x = bench.random(m, k)
                live, size = packed.stored, weight.element_size()
                bench.add(
                    "block_linear",
                    {"M": m, "N": n, "K": k, "block": list(block), "density": packed.density},
                    {
                        "triton": lambda: masked_linear(x, packed, backend="triton"),
                        "dense": lambda: functional.linear(x, masked),
                        **others(x, masked, grid, block),
                    },
                    (live + x.numel() + m * n) * size,
                    2.0 * m * live,
                )


def others(
    x: torch.Tensor, masked: torch.Tensor, grid: torch.Tensor, block: tuple[int, int]
) -> dict[str, Callable[[], Any]]:
    """Block-sparse products of others, on the same shape; built once, outside the timing."""
    found: dict[str, Callable[[], Any]] = {}
    try:
        layout = masked.to_sparse_bsr(block)
        found["torch_bsr"] = lambda: functional.linear(x, layout)
    except RuntimeError as error:
        reason = str(error)
        found["torch_bsr"] = lambda: _raise(reason)
    try:
        import blksprs as bs  # type: ignore[import-not-found]
    except ImportError:
        return found
    if block[0] == block[1] and x.shape[0] % block[0] == 0:
        side = block[0]
        live = grid.t().contiguous().to(x.device)[None]
        right = bs.ops.to_sparse(bs.BlksprsTensor.wrap(masked.t().contiguous()[None]), live, side)
        every = torch.ones(1, x.shape[0] // side, x.shape[1] // side, dtype=torch.bool)
        left = bs.ops.to_sparse(bs.BlksprsTensor.wrap(x[None]), every.to(x.device), side)
        out = torch.ones(1, x.shape[0] // side, grid.shape[0], dtype=torch.bool).to(x.device)
        found["blksprs"] = lambda: bs.ops.matmul(left, every, right, live, out, side)
    return found


def _raise(reason: str) -> None:
    raise RuntimeError(reason)


def other_rows(bench: Bench, toy: bool) -> None:
    item = bench.random(1).element_size()
    for rows in (2,) if toy else (32, 256, 1024):
        vocabulary = 600 if toy else 128_256
        logits = bench.random(rows, vocabulary)
        bench.add(
            "decode_stats", {"rows": rows, "V": vocabulary},
            {
                "triton": lambda: decode_stats(logits, eos_ids=[2], backend="triton"),
                "softmax_topk_entropy": lambda: naive_statistics(logits),
            },
            logits.numel() * item, 0.0,
        )  # fmt: skip
    steps, chains = (40, 4) if toy else (4096, 14336)
    base = bench.random(steps, chains, dtype=torch.float32)
    runs = {"triton": lambda: chain_messages(base, 1.0, backend="triton")}
    if not toy:
        runs["torch"] = lambda: chain_messages(base, 1.0, backend="torch")
    bench.add("chain", {"T": steps, "C": chains}, runs, 8.0 * base.numel(), 0.0)
    hidden, width = (32, 32) if toy else (14336, 4096)
    gate, up = bench.random(hidden, width), bench.random(hidden, width)
    for m in (2,) if toy else (16, 2048):
        x = bench.random(m, width)
        bench.add(
            "gated_mlp", {"M": m, "H": hidden, "K": width},
            {
                "triton": lambda: gated_mlp_hidden(x, gate, up, backend="triton"),
                "two_products": lambda: functional.silu(x @ gate.T) * (x @ up.T),
            },
            (gate.numel() * 2 + x.numel() + m * hidden) * item, 4.0 * m * hidden * width,
        )  # fmt: skip
    n, k = (32, 32) if toy else (4096, 4096)
    groups = torch.rand(n, k // 4, 4, generator=bench.rng).argsort(-1).argsort(-1) < 2
    packed = pack_nm(bench.random(n, k), groups.view(n, k).to(bench.device), None, (2, 4))
    x, dense = bench.random(1, k), packed.dense()
    bench.add(
        "two_of_four", {"M": 1, "N": n, "K": k},
        {
            "triton": lambda: masked_linear(x, packed, backend="triton"),
            "dense": lambda: functional.linear(x, dense),
        },
        packed.nbytes, 0.0,
    )  # fmt: skip
    mean_, spread = bench.random(n, k), bench.random(n, k).square()
    whole = torch.ones(n, k, dtype=torch.bool, device=bench.device)
    drawn = pack(mean_, whole, block=(32, 32), format="blocks")
    variance = pack(spread, whole, block=(32, 32), format="blocks").val
    for m in (2,) if toy else (16, 2048):
        x = bench.random(m, k)
        bench.add(
            "reparameterised", {"M": m, "N": n, "K": k},
            {
                "triton": lambda: reparameterised_linear(
                    x, drawn, variance, seed=1, backend="triton"
                ),
                "two_products": lambda: noisy(x, mean_, spread),
            },
            2.0 * mean_.numel() * item, 4.0 * m * n * k,
        )  # fmt: skip
    attention_rows(bench, toy, item)


def attention_rows(bench: Bench, toy: bool, item: int) -> None:
    heads, length, width = (2, 128, 16) if toy else (32, 4096, 64)
    q, k, v = (bench.random(1, heads, length, width) for _ in range(3))
    for share in (0.5,) if toy else (0.1, 0.25, 0.5, 1.0):
        live = torch.rand(heads, length // 64, length // 64, generator=bench.rng) < share
        blocks = ScoreBlocks.of(live.to(bench.device))
        bench.add(
            "attention", {"H": heads, "L": length, "D": width, "density": blocks.density},
            {
                "triton": lambda: live_attention(q, k, v, blocks=blocks, backend="triton"),
                "dense": lambda: functional.scaled_dot_product_attention(q, k, v),
            },
            4.0 * q.numel() * item, 4.0 * heads * length * length * width * blocks.density,
        )  # fmt: skip


def naive_statistics(logits: torch.Tensor) -> Any:
    p = logits.float().softmax(-1)
    return p.topk(2, -1), torch.special.entr(p).sum(-1), logits.logsumexp(-1)


def noisy(x: torch.Tensor, mean_: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    center = x @ mean_.T
    return center + (x.square() @ spread.T).sqrt() * torch.randn_like(center)


def tuned(bench: Bench, toy: bool, folder: Path | None) -> str:
    """The table of winners and launch configurations; with ``folder`` it is the one that ships.

    The stages after it launch with what it found.
    """
    shapes = [(64, 64)] if toy else [(4096, 4096), (4096, 14336), (14336, 4096)]
    weights = []
    for n, k in shapes:
        for block in ((32, 32),) if toy else ((128, 64), (64, 32)):
            for density in (0.3,) if toy else (0.1, 0.2, 0.3, 0.5):
                grid = torch.rand(n // block[0], k // block[1], generator=bench.rng) < density
                support = grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
                support = support.to(bench.device)
                weights.append(pack(bench.random(n, k), support, block=block, format="blocks"))
    sizes = (2,) if toy else (1, 16, 64, 256, 1024, 2048)
    return str(tune(weights, sizes, folder=folder, rounds=1 if toy else 9))


def tests(bench: Bench) -> dict[str, Any]:
    """The GPU tests, and the sanitizer on the smallest of them."""
    environment = dict(os.environ)
    if bench.stand_in:
        environment |= {"TRITON_INTERPRET": "1", "PROBCOMP_GPU_TESTS": "cpu"}
    base = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-m",
        "gpu",
        "tests/kernels/test_on_gpu.py",
    ]
    chosen = ["-k", "int8"] if bench.stand_in else []
    done = subprocess.run(
        [*base, *chosen], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    result = {"passed": done.returncode == 0, "summary": done.stdout.strip().splitlines()[-1]}
    sanitizer = shutil.which("compute-sanitizer")
    result["sanitizer"] = sanitizer or "not installed: memcheck and racecheck were not run"
    if sanitizer and not bench.stand_in:
        for tool in ("memcheck", "racecheck"):
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *base]
            small = ["-k", "int8 or groups or (test_blocks and 1-block0) or (chain and shape1)"]
            checked = subprocess.run(
                [*command, *small], cwd=ROOT, capture_output=True, text=True, check=False,
                timeout=240,
            )  # fmt: skip
            result[tool] = checked.returncode == 0
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/kernels_gpu.json")
    parser.add_argument("--ship", action="store_true", help="write the tuner's table to ship")
    parser.add_argument("--stand-in", action="store_true", help="interpreted, at toy sizes")
    arguments = parser.parse_args()
    if arguments.stand_in:
        if os.environ.get("TRITON_INTERPRET") != "1":
            raise InputError("--stand-in needs TRITON_INTERPRET=1 in the environment")
    elif not torch.cuda.is_available():
        raise InputError("no GPU: PyTorch sees no CUDA or ROCm device on this machine")
    bench = Bench(arguments.stand_in)
    started = time.perf_counter()
    result: dict[str, Any] = {
        "command": "python benchmarks/kernels_gpu.py " + " ".join(sys.argv[1:]),
        "device": "interpreter" if bench.stand_in else torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "dtype": str(bench.dtype),
        "blksprs": "compared" if find_spec("blksprs") else "not installed: not compared",
        "ceilings": bench.ceilings(),
    }
    folder = ROOT / "probcomp/kernels/tables" if arguments.ship else None
    if bench.stand_in:
        folder = arguments.out.parent
    stages = {
        "tests": lambda: tests(bench),
        "table_of_winners": lambda: tuned(bench, bench.stand_in, folder),
        "block": lambda: block_rows(bench, bench.stand_in),
        "other": lambda: other_rows(bench, bench.stand_in),
    }
    for name, stage in stages.items():
        value = stage()
        result |= {name: value} if value is not None else {}
        result |= {"rows": bench.rows, "seconds": time.perf_counter() - started}
        write_json(arguments.out, result)  # what is measured stays, if a later stage fails
    return 0 if result["tests"]["passed"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
