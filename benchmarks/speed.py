"""End to end: the compressed model's speed against the dense one's, paired in one run.

The embedded default (64-300-100-10, half of what its neurons own, Turbo-VBI) and the MiniLM
sentence encoder (22.7 M parameters, half of what its heads and neurons own, Turbo-VBI after
training, real text), each on the threads of this machine. What is timed is the module that
`probcomp.compress` returns: smaller tensors, packed layers and chains of layers in one call, each
where it was measured to be faster. The last column takes apart what of that is the compression:
the dense module whose chains run in one call as well, over the compressed one.

    probcomp bench speed --threads 2
"""

import argparse
import copy
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _post_networks import minilm
from torch import Tensor, nn

import probcomp
from probcomp.data import Batches, load_digits
from probcomp.errors import InputError
from probcomp.kernels import cpp
from probcomp.kernels.fused import fuse
from probcomp.models import LeNet300100
from probcomp.models.train import train
from probcomp.recipes.describe import machine
from probcomp.storage import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "speed.json"
TARGET = 1.5
SLICE = 0.02  # seconds of one timing


def timed(dense: nn.Module, small: nn.Module, inputs: tuple[Tensor, ...], rounds: int) -> dict:
    """Median, 20 and 80 % quantiles of the ratio of paired timings, and the medians."""
    joined = copy.deepcopy(dense)
    for module in list(joined.modules()):
        fuse(module)
    models = (dense, small, joined)
    with torch.inference_mode():
        once = []
        for model in models:
            model(*inputs)
            start = time.perf_counter()
            model(*inputs)
            once.append(time.perf_counter() - start)
        repeats = max(1, int(SLICE / max(once)))
        pairs = []
        for _ in range(rounds):
            times = []
            for model in models:
                model(*inputs)
                start = time.perf_counter()
                for _ in range(repeats):
                    model(*inputs)
                times.append((time.perf_counter() - start) / repeats)
            pairs.append(times)
    ratios = [a / b for a, b, _ in pairs]
    cuts = statistics.quantiles(ratios, n=5)
    return {
        "speedup": statistics.median(ratios), "p20": cuts[0], "p80": cuts[-1],
        "dense_ms": 1e3 * statistics.median(a for a, _, _ in pairs),
        "compressed_ms": 1e3 * statistics.median(b for _, b, _ in pairs),
        "of_compression_alone": statistics.median(c / b for _, b, c in pairs),
    }  # fmt: skip


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def embedded(seed: int) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    data = load_digits(seed)
    torch.manual_seed(seed)
    model = LeNet300100(64)
    train(model, Batches(data.train, 64, seed), epochs=40, seed=seed)
    result = probcomp.compress(model, data, budget="prunable=0.5", seed=seed)
    quality = {"accuracy": _accuracy(result), "packed": _packed(result)}
    return model.eval(), result.model.eval(), quality


def encoder(folder: Path, directory: Path | None) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    network = minilm(folder, directory, 64)
    data = network.calibration(128, 0)
    result = probcomp.compress(
        network.model, data, budget="prunable=0.5", method="turbo-vbi-post", test=network.held,
        loss=lambda y, target: 0.5 * (y - target).square().sum(1).mean(),
    )  # fmt: skip
    quality = {**network.measure(result.model), "packed": _packed(result)}
    return network.model.eval(), result.model.eval(), quality


def kept(folder: Path | None, build: Any) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """What ``build`` makes, kept in a folder so that a busy machine can be timed again later."""
    if folder is None:
        return build()
    if not (folder / "quality.json").is_file():
        dense, small, quality = build()
        probcomp.save(dense, folder / "dense")
        probcomp.save(small, folder / "small")
        write_json(folder / "quality.json", quality)
    dense, small = (probcomp.load(folder / name).eval() for name in ("dense", "small"))
    return dense, small, read_json(folder / "quality.json")


def _packed(result: Any) -> list[str]:
    return [f"{layer.name} as {layer.format}" for layer in result.report.packed if layer.used]


def _accuracy(result: Any) -> float:
    return result.report.accuracy.compressed.value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("PROBCOMP_DATA"))
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the two compressed models")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    try:
        cpp.build()
    except InputError as error:
        print(f"without the C++ kernel: {error}", flush=True)
    rng = torch.Generator().manual_seed(arguments.seed)
    cases: dict[str, tuple[Any, list[tuple[Tensor, ...]]]] = {
        "embedded default": (
            lambda: embedded(arguments.seed),
            [(torch.rand(m, 64, generator=rng),) for m in (1, 128, 1024, 8192)],
        )
    }
    if arguments.data_dir is not None:
        ids = [torch.randint(1000, 20000, s, generator=rng) for s in ((1, 32), (8, 128), (32, 128))]
        cases["MiniLM encoder"] = (
            lambda: encoder(arguments.data_dir, arguments.model_dir),
            [(i, torch.ones_like(i)) for i in ids],
        )
    rows: list[dict[str, Any]] = []
    for name, (build, inputs) in cases.items():
        torch.set_num_threads(1)
        folder = arguments.keep and arguments.keep / name.replace(" ", "-").lower()
        dense, small, quality = kept(folder, build)
        torch.set_num_threads(arguments.threads)
        for batch in inputs:
            row = {
                "model": name, "batch": list(batch[0].shape), "threads": arguments.threads,
                "params_dense": count(dense), "params_compressed": count(small), **quality,
                **timed(dense, small, batch, arguments.rounds),
            }  # fmt: skip
            rows.append(row)
            spread = f"{row['speedup']:.2f} [{row['p20']:.2f}, {row['p80']:.2f}]"
            alone = f"{row['of_compression_alone']:.2f} by compression alone"
            print(f"{name:<18} {row['batch']!s:<10} {spread} times as fast, {alone}", flush=True)
    met = {name: min(r["speedup"] for r in rows if r["model"] == name) >= TARGET for name in cases}
    command = "probcomp bench speed " + " ".join(sys.argv[1:])
    write_json(
        arguments.out,
        {"command": command, "machine": machine(), "load": os.getloadavg(), "target": TARGET,
         "cpp": cpp.instruction_set(), "met_at_every_batch": met, "rows": rows},
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
