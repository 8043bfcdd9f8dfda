"""Tables, Pareto fronts and the picture of the benchmark's records."""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from _bayes_published import PUBLISHED

Point = tuple[str, str]
Row = dict[str, Any]


def grouped(records: Iterable[Row]) -> dict[tuple[str, str], dict[Point, list[Row]]]:
    """Records by network and data, then by method and operating point."""
    groups: dict[tuple[str, str], dict[Point, list[Row]]] = {}
    for record in records:
        config = record["config"]
        rows = groups.setdefault((config["network"], config["data"]), {})
        rows.setdefault((config["method"], config["label"]), []).append(record)
    return groups


def mean(rows: list[Row], read: Callable[[Row], float]) -> float:
    return statistics.mean(read(row) for row in rows)


def summary(rows: list[Row]) -> Row:
    """Means over seeds of what is compared."""
    first = min(rows, key=lambda row: row["config"]["seed"])
    ratio = [row["precision"]["ratio"] for row in rows if row["precision"]]
    parts = ("data", "weights", "mask")
    back = [row["bits_back"] for row in rows if row["bits_back"]]
    of = back[0]["of"] if back else None
    return {
        "seeds": len(rows),
        "epochs": first["config"]["epochs"]["method"],
        "sizes": first["sizes"],
        "dense_error": mean(rows, lambda r: r["dense_error"]),
        "error": mean(rows, lambda r: r["error"]),
        "coded_error": mean(rows, lambda r: r["coding"]["error"]),
        "coded_error_range": [
            min(r["coding"]["error"] for r in rows),
            max(r["coding"]["error"] for r in rows),
        ],
        "bytes": mean(rows, lambda r: r["coding"]["bytes"]),
        "file_ratio": statistics.harmonic_mean([r["coding"]["file_ratio"] for r in rows]),
        "csr_bytes": mean(rows, lambda r: r["coding"]["csr_bytes"]),
        "finer": _finer(rows),
        "params_ratio": statistics.harmonic_mean([r["params_ratio"] for r in rows]),
        "architecture_ratio": statistics.harmonic_mean([r["architecture_ratio"] for r in rows]),
        "macs_ratio": statistics.harmonic_mean([r["macs_ratio"] for r in rows]),
        "precision_ratio": statistics.harmonic_mean(ratio) if ratio else None,
        "bits_back": statistics.mean(sum(b[k] for k in parts) for b in back) if back else None,
        "bits_back_of": of,
        "cpu_seconds": mean(rows, lambda r: r["seconds"]["cpu"]),
    }


def _finer(rows: list[Row]) -> Row | None:
    """The second file of each run, which may cost less error, where there is one."""
    if not all("finer" in row for row in rows):
        return None
    return {
        "bytes": mean(rows, lambda r: r["finer"]["bytes"]),
        "file_ratio": statistics.harmonic_mean([r["finer"]["file_ratio"] for r in rows]),
        "coded_error": mean(rows, lambda r: r["finer"]["error"]),
    }


def on_front(points: dict[Point, tuple[float, float]]) -> list[Point]:
    """Points that no other beats in both error and cost, cheapest first."""
    best = [
        name
        for name, (error, cost) in points.items()
        if not any(e <= error and c <= cost and (e, c) != (error, cost) for e, c in points.values())
    ]
    return sorted(best, key=lambda name: points[name][1])


def fronts(records: list[Row]) -> Row:
    """Per network and data: every operating point, and the two fronts."""
    result = {}
    for (network, data), rows in grouped(records).items():
        means = {point: summary(r) for point, r in rows.items()}
        size = {p: (m["coded_error"], m["bytes"]) for p, m in means.items()}
        macs = {p: (m["coded_error"], 1 / m["macs_ratio"]) for p, m in means.items()}
        result[f"{network} on {data}"] = {
            "points": [{"method": p[0], "point": p[1], **m} for p, m in means.items()],
            "front_bytes": [" ".join(p) for p in on_front(size)],
            "front_macs": [" ".join(p) for p in on_front(macs)],
        }
    return result


def couplings(records: list[Row]) -> list[Row]:
    """Regularity of each mask with and without coupling, at the same budget: the ablation.

    Clusters are summed over the matrices; the fill of 16 x 16 blocks is weighted by non-zeros.
    Targets: at most a third of the clusters, and 1.5 times the fill, without losing accuracy.
    """
    result = []
    for (network, data), rows in grouped(records).items():
        for (method, label), without in rows.items():
            base, _, ending = method.rpartition(", coupling 0")
            if ending or not base:
                continue
            for other in (base, f"{base}, learnt coupling"):
                if (other, label) in rows:
                    row: Row = {"network": network, "data": data, "point": label}
                    row["without"] = {"method": method, **_regular(without)}
                    row["with"] = {"method": other, **_regular(rows[other, label])}
                    row["clusters_ratio"] = row["with"]["clusters"] / row["without"]["clusters"]
                    row["fill_ratio"] = row["with"]["fill_16"] / row["without"]["fill_16"]
                    result.append(row)
    return result


def _regular(rows: list[Row]) -> Row:
    def fill(row: Row) -> float:
        layers = row["regularity"].values()
        return sum(r["nonzero"] * (r["fill_16"] or 0) for r in layers) / row["nonzero"]

    return {
        "seeds": len(rows),
        "nonzero": mean(rows, lambda r: r["nonzero"]),
        "error": mean(rows, lambda r: r["error"]),
        "clusters": mean(rows, lambda r: sum(x["clusters"] for x in r["regularity"].values())),
        "singletons": mean(rows, lambda r: sum(x["singletons"] for x in r["regularity"].values())),
        "fill_16": mean(rows, fill),
    }


def table(records: list[Row]) -> list[str]:
    """The comparison as lines of text, published rows below our own."""
    lines = []
    for title, group in fronts(records).items():
        head = (
            f"{'method':24}{'point':>8}{'seeds':>6}{'epochs':>7}{'error %':>9}"
            f"{'coded %':>9}{'bytes':>8}{'file x':>8}{'weights x':>10}{'arch x':>8}"
            f"{'MACs x':>8}{'bits x':>8}  kept"
        )
        lines += ["", f"{title} (* on a front: b bytes, m MACs)", head]
        for row in sorted(group["points"], key=lambda r: r["bytes"]):
            name = f"{row['method']} {row['point']}"
            marks = "b" * (name in group["front_bytes"]) + "m" * (name in group["front_macs"])
            bits = f"{row['precision_ratio']:8.0f}" if row["precision_ratio"] else f"{'-':>8}"
            lines.append(
                f"{row['method']:24}{row['point']:>8}{row['seeds']:6d}{row['epochs']:7d}"
                f"{row['error']:9.2f}"
                f"{row['coded_error']:9.2f}{row['bytes']:8.0f}{row['file_ratio']:8.0f}"
                f"{row['params_ratio']:10.0f}{row['architecture_ratio']:8.1f}"
                f"{row['macs_ratio']:8.1f}{bits}  {row['sizes']}{' *' + marks if marks else ''}"
            )
            if fine := row["finer"]:
                lines.append(
                    f"  in a finer file{'':42}{fine['coded_error']:9.2f}{fine['bytes']:8.0f}"
                    f"{fine['file_ratio']:8.0f}"
                )
        network, _, data = title.partition(" on ")
        if data == "mnist":
            for of, method, error, kept, arch, stated, source in PUBLISHED:
                if of == network:
                    ratio = f"{arch:8.1f}" if arch else f"{'':8}"
                    text = f"  published {method:30}{error:6.2f} %{ratio} {stated:18} {kept}"
                    lines.append(f"{text} [{source}]")
    return lines


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MARKERS = "os^DvPX*<>hp"


def picture(records: list[Row], path: Path) -> None:
    """Error of the file's model against its bytes, and against multiplications.

    Errors far above the dense network's are drawn at the upper edge.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    groups = fronts(records)
    methods = sorted({row["method"] for group in groups.values() for row in group["points"]})
    methods.sort(key=lambda name: not name.startswith("turbo-vbi"))
    figure, axes = pyplot.subplots(
        len(groups), 2, figsize=(12, 4.4 * len(groups)), squeeze=False, layout="constrained"
    )
    for line, (title, group) in enumerate(groups.items()):
        dense = statistics.mean(row["dense_error"] for row in group["points"])
        worst = min(4 * dense + 1, max(row["coded_error"] for row in group["points"]))
        for column, (name, label, value) in enumerate(
            (
                ("front_bytes", "bytes of the file", lambda r: r["bytes"]),
                ("front_macs", "share of the dense MACs", lambda r: 1 / r["macs_ratio"]),
            )
        ):
            axis = axes[line][column]
            for place, method in enumerate(methods):
                rows = [r for r in group["points"] if r["method"] == method]
                rows.sort(key=value)
                if not rows:
                    continue
                axis.plot(
                    [value(r) for r in rows],
                    [min(r["coded_error"], worst) for r in rows],
                    marker=MARKERS[place % len(MARKERS)],
                    color=COLOURS[place % len(COLOURS)],
                    # A line joins points of one schedule only.
                    linestyle="-" if len({row["epochs"] for row in rows}) == 1 else "none",
                    linewidth=1,
                    markersize=6,
                    label=method,
                )
            by_name = {f"{r['method']} {r['point']}": r for r in group["points"]}
            front = [by_name[n] for n in group[name]]
            axis.step(
                [value(r) for r in front],
                [min(r["coded_error"], worst) for r in front],
                where="post",
                color="#bbbbbb",
                linewidth=4,
                zorder=0,
                label="Pareto front",
            )
            axis.axhline(dense, color="#666666", linestyle=":", linewidth=1)
            axis.annotate(
                "dense", (0.01, dense), xycoords=("axes fraction", "data"), ha="left", va="bottom"
            )
            axis.set(xscale="log", xlabel=label, ylabel="test error, %", title=title)
            axis.xaxis.set_minor_formatter(ticker.NullFormatter())
            axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,g}"))
            axis.grid(True, which="both", color="#eeeeee")
            axis.set_axisbelow(True)
        axes[line][1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
