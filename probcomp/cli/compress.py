"""``probcomp compress``: a network and data become a smaller network and a report."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probcomp.cli.options import Json, Seed, note, print_json, quiet_stdout
from probcomp.errors import InputError

if TYPE_CHECKING:
    from probcomp.recipes.post_config import PostConfig
    from probcomp.recipes.post_weights_config import WeightsConfig
    from probcomp.report import Report


def compress(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="file.py:function, a Hugging Face model directory, or a directory or .pcn file "
            "that probcomp wrote. Without it, a small network is trained on handwritten digits.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, an .npz file (x, y, x_test, y_test; or named inputs and labels), a "
            "directory of MNIST or CIFAR-10 files, a text file (.txt or .jsonl, also .xz or .gz; "
            "nothing is trained then), or file.py:function.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="What may remain: params=0.1, macs=50%, bits=0.01 (of the coded file), "
            "prunable=0.5 (of what removable units own); a share, or a count above 1. 'none' "
            "leaves it to methods with a pruning rule of their own."
        ),
    ] = "params=0.1",
    method: Annotated[
        str, typer.Option(help="How it is done; 'probcomp methods' lists them.")
    ] = "turbo-vbi",
    prior: Annotated[
        str | None,
        typer.Option(
            help="Prior of the supports, such as lattice:field=0,coupling=1.2; by default the "
            "method's own.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for the report, the model and the posterior.")
    ] = Path("probcomp-out"),
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Directory for checkpoints; a stopped run goes on from there.", show_default=False
        ),
    ] = None,
    encode: Annotated[
        bool,
        typer.Option(
            "--encode",
            help="Also write network.pcn, one small file with few values a tensor. A budget in "
            "bits is one of this file, and always writes it.",
        ),
    ] = False,
    samples: Annotated[
        int, typer.Option(min=4, help="Text: calibration samples, and as many held-out ones.")
    ] = 128,
    max_length: Annotated[int, typer.Option(min=8, help="Text: most tokens of a sample.")] = 128,
    text_key: Annotated[
        str, typer.Option(help="Text: the key of a .jsonl row that holds the text.")
    ] = "text",
    memory_limit: Annotated[
        float | None,
        typer.Option(
            help="Most GiB of statistics held at a time by turbo-vbi-post and -post-weights; more "
            "passes if needed.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compress a network to a budget, and write a report, the smaller model and the posterior.

    Writes report.html, report.json, the model and the posterior to --out, and with --encode the
    network in one small file. With --json, the content of report.json goes to standard output.
    """
    with quiet_stdout():
        report, files = _work(
            model, data, budget, method, prior, out, checkpoint, encode, seed,
            samples, max_length, text_key, memory_limit,
        )  # fmt: skip
    if json:
        print_json({**report.to_json(), "out": str(out), "files": files})
        return
    from rich.console import Console

    from probcomp.report import print_report

    console = Console()
    print_report(report, console)
    console.print(
        f"\nWritten to {out}: {', '.join(files)}. Open {out / 'report.html'}.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _work(
    model: str | None,
    data: str | None,
    budget: str,
    method: str,
    prior: str | None,
    out: Path,
    checkpoint: Path | None,
    encode: bool,
    seed: int,
    samples: int,
    max_length: int,
    text_key: str,
    memory_limit: float | None,
) -> "tuple[Report, list[str]]":
    """Refuse what can be refused at once, then load, compress and save."""
    from probcomp.allocation import Budget
    from probcomp.cli.destination import check_destination
    from probcomp.cli.sources import (
        EMBEDDED,
        copy_tokenizer,
        default_model,
        load_data,
        load_model,
    )

    wanted = None if budget.strip().lower() == "none" else Budget.parse(budget)
    check_destination(out)
    if checkpoint is not None:
        check_destination(checkpoint)
    if model is None and data not in (None, EMBEDDED):
        raise InputError(f"--data {data} needs a MODEL; without one, the digits are used")
    if model is not None and data is None:
        raise InputError(f"MODEL {model} needs --data: digits, a file, or file.py:function")
    from probcomp.data import Reading, is_text
    from probcomp.priors import parse_prior
    from probcomp.recipes import METHODS
    from probcomp.recipes import compress as run

    METHODS[method]
    belief = None if prior is None else parse_prior(prior)
    settings: PostConfig | WeightsConfig | None = None
    limits: dict[str, object] = {}
    if memory_limit is not None:
        settings = _limited(method, memory_limit)
        limits = {"memory-limit": memory_limit}
    if model is None:
        note("reading the data")
        sets = load_data(EMBEDDED, seed)
        note("training the dense network on handwritten digits")
        network, name = default_model(sets, seed, progress=True)
    else:
        note("reading the model")
        network, name = load_model(model)
        check_destination(out, 3 * sum(p.numel() * p.element_size() for p in network.parameters()))
        note("reading the data")
        assert data is not None
        reading = Reading(samples=samples, max_length=max_length, key=text_key, seed=seed)
        sets = load_data(data, seed, model=network, directory=model, reading=reading)
        if is_text(data):
            limits |= {"samples": samples, "max-length": max_length}
            limits |= {"text-key": text_key} if ".jsonl" in data else {}
    note(f"compressing {name} with {method}, budget {budget}")
    result = run(
        network,
        sets.train,
        budget=wanted,
        prior=belief,
        method=method,
        seed=seed,
        test=sets.test,
        config=settings,
        checkpoint=checkpoint,
        encode=encode,
        progress=True,
        name=name,
        data_name=sets.name,
        command=_command(
            model,
            data=data,
            budget=wanted or "none",
            method=method,
            prior=prior,
            seed=seed,
            out=out,
            encode=encode or None,
            **limits,
        ),
    )
    result.save(out)
    if model is not None and data is not None and is_text(data):
        copy_tokenizer(model, out / "model")
    return result.report, sorted(entry.name for entry in out.iterdir() if entry.name[0] != ".")


def _limited(method: str, gibibytes: float) -> "PostConfig | WeightsConfig":
    """Settings with a limit on statistics, for the methods that have one.

    With turbo-vbi they choose inference after training, and the report says so.
    """
    from probcomp.recipes.post_config import PostConfig
    from probcomp.recipes.post_weights_config import WeightsConfig

    if method not in ("turbo-vbi", "turbo-vbi-post", "turbo-vbi-post-weights"):
        raise InputError(
            f"--memory-limit belongs to turbo-vbi-post and turbo-vbi-post-weights, not to {method}"
        )
    if not gibibytes > 0:
        raise InputError(f"--memory-limit must be positive, got {gibibytes:g}")
    kind = WeightsConfig if method == "turbo-vbi-post-weights" else PostConfig
    return kind(limit=max(1, round(gibibytes * 2**30)))


def _command(model: str | None, **options: object) -> str:
    """The command that makes this result again, every choice written out."""
    parts = ["probcomp", "compress", *([model] if model else [])]
    for name, value in options.items():
        given = [] if value is True else [str(value)]
        parts += [f"--{name}", *given] if value is not None else []
    return shlex.join(parts)
