"""What the structure tracer finds and how exact its cuts are; tracing time and memory at scale.

    python benchmarks/structure.py [--only NAME ...] [--no-large]

Writes ``benchmarks/results/structure.json`` and prints two tables. The tiny networks are those of
the structure tests. Each large trace runs in a process of its own, on the meta device; its peak
memory is that process's maximum resident set.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
RESULT = ROOT / "benchmarks" / "results" / "structure.json"
LIMIT_SECONDS, LIMIT_GIB = 20.0, 4.0
LARGE = ("resnet50", "vit_b16", "bert_base", "llama_7b")


def distance(ours, theirs):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs))


def measure(name):
    """Axes, exactness of the graph and module cuts, and which axes reach a real module."""
    from structure.zoo_holdout import ZOO

    from probcomp.structure import cut_graph, silence, trace
    from probcomp.structure.gate import run
    from probcomp.structure.shrink import shrink_report

    entry = ZOO[name]
    model, inputs = entry.model(), [entry.example("first"), entry.example("second")]
    start = time.perf_counter()
    structure = trace(model, inputs[0])
    seconds = time.perf_counter() - start
    kinds, blocked = Counter(), Counter()
    graph_error = module_error = 0.0
    modules, graphs = 0, Counter()
    for axis in structure.axes:
        kinds[axis.kind] += 1
        if axis.blocked is not None:
            blocked[axis.kind] += 1
            continue
        keep = torch.zeros(1, dtype=torch.bool)
        if axis.kind != "layer":
            count = min(axis.size // 2, axis.size - axis.min_keep)
            if count < 1:
                continue
            order = torch.randperm(axis.size, generator=torch.Generator().manual_seed(0))
            keep = torch.ones(axis.size, dtype=torch.bool)
            keep[order[:count]] = False
        given = {axis.name: keep}
        made = shrink_report(model, structure, given)
        if made.surgery == "module":
            modules += 1
        else:
            graphs[axis.kind] += 1
        if not axis.exact and axis.kind != "expert":
            continue
        silent, graph = silence(structure, model, given), cut_graph(structure, model, given)
        for example in inputs:
            expected = run(silent, example)
            graph_error = max(graph_error, distance(run(graph, example), expected))
            if made.surgery == "module":
                module_error = max(module_error, distance(run(made.model, example), expected))
    return {
        "holdout": entry.holdout,
        "dtype": "float32" if entry.float32 else "float64",
        "trace_s": round(seconds, 2),
        "axes": dict(kinds),
        "blocked": dict(blocked),
        "blocked_share": round(sum(blocked.values()) / sum(kinds.values()), 3),
        "graph_error": graph_error,
        "module_error": module_error,
        "axes_by_module": modules,
        "axes_by_graph_only": dict(graphs),
    }


def peak_gib():
    """High-water mark of this process's resident memory, libraries included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise SystemExit("this system does not report VmHWM; the memory figures need Linux")


def large(name):
    """Build one full-size configuration on the meta device and trace it (own process)."""
    import transformers

    from probcomp.structure import trace

    ids = {"input_ids": torch.ones(2, 7, dtype=torch.long)}
    ids["attention_mask"] = torch.ones(2, 7, dtype=torch.long)
    pixels = {"pixel_values": torch.randn(2, 3, 224, 224)}
    config, cls, inputs = {
        "resnet50": ("ResNetConfig", "ResNetForImageClassification", pixels),
        "vit_b16": ("ViTConfig", "ViTForImageClassification", pixels),
        "bert_base": ("BertConfig", "BertForSequenceClassification", ids),
        "llama_7b": ("LlamaConfig", "LlamaForCausalLM", ids),
    }[name]
    with torch.device("meta"):
        model = getattr(transformers, cls)(getattr(transformers, config)())
    start = time.perf_counter()
    structure = trace(model.eval(), inputs)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trace_s": round(time.perf_counter() - start, 2),
        "peak_gib": round(peak_gib(), 2),
        "axes": dict(Counter(a.kind for a in structure.axes if a.blocked is None)),
        "blocked": dict(Counter(a.kind for a in structure.axes if a.blocked is not None)),
    }


def own_process(name):
    command = [sys.executable, __file__, "--large", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of networks (default: all)")
    parser.add_argument("--no-large", action="store_true", help="leave out the full-size traces")
    parser.add_argument("--large", choices=LARGE, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.large:
        print(json.dumps(large(options.large)))
        return
    from structure.zoo_holdout import ZOO

    from probcomp.storage import write_json

    rows = {}
    print(
        f"{'network':18} {'axes':>5} {'blocked':>8} {'graph':>9} {'module':>9}  module/graph only"
    )
    for name in options.only or ZOO:
        row = rows[name] = measure(name)
        only = ", ".join(f"{n} {kind}" for kind, n in row["axes_by_graph_only"].items())
        print(
            f"{name:18} {sum(row['axes'].values()):5} {row['blocked_share']:8.0%} "
            f"{row['graph_error']:9.1e} {row['module_error']:9.1e}  "
            f"{row['axes_by_module']}" + (f" / {only}" if only else ""),
            flush=True,
        )
    big = {}
    if not options.no_large:
        print(f"\n{'full size, meta device':24} {'parameters':>14} {'trace s':>8} {'peak GiB':>9}")
        for name in LARGE:
            row = big[name] = own_process(name)
            if "failed" in row:
                print(f"{name:24} failed: {row['failed']}")
                continue
            fits = row["trace_s"] < LIMIT_SECONDS and row["peak_gib"] < LIMIT_GIB
            print(
                f"{name:24} {row['parameters']:14,} {row['trace_s']:8} {row['peak_gib']:9}"
                + ("" if fits else f"  over {LIMIT_SECONDS:.0f} s or {LIMIT_GIB:.0f} GiB")
            )
    if (options.only or options.no_large) and options.out == RESULT:
        return  # a partial run does not replace the record
    write_json(
        options.out,
        {
            "command": "python benchmarks/structure.py",
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {
                "python": platform.python_version(),
                **{n: importlib.metadata.version(n) for n in ("torch", "transformers")},
            },
            "limits": {"trace_s": LIMIT_SECONDS, "peak_gib": LIMIT_GIB},
            "networks": rows,
            "large": big,
        },
    )


if __name__ == "__main__":
    main()
