"""``probcomp decode``: flexible-length generation with a masked diffusion model."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from probcomp.cli.options import Json, OutFile, Seed, print_json, quiet_stdout, save_json
from probcomp.errors import InputError

EXAMPLES = ("+385+267", "{k=12;b=x", "?c")
KNOWN = re.compile(r"\+\d{1,3}\+\d{1,3}|\{[a-z]=\w{1,2}(;[a-z]=\w{1,2}){0,2}|\?[a-z]")
"""Prompts of the three tasks that the embedded model was trained on."""


def decode(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Folder written by python -m probcomp.decoding.small.train. "
            "Without it, the embedded model."
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="A prompt; may be given again. _ is a gap to fill in."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="A published decoder, or bayes.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="One value of the configuration, such as error_step=0.1."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="0 is greedy; above 0 draws tokens.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Longest answer (tokens).")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the first answer's generation to this file.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            help="Fit the decoder to the model on these answers (JSON lines with prompt and "
            "answer), and write decoding_calibration.json beside MODEL (or to --out).",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Use this calibration, not the one beside the model."),
    ] = None,
    no_calibration: Annotated[bool, typer.Option("--no-calibration", help="Use none.")] = False,
    seed: Seed = 0,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Write answers as long as they should be, in few forwards, and say how each came about."""
    if calibrate is not None:
        _calibrate(
            model, calibrate, seed, out, json, clash=bool(prompt or preset or option or plot)
        )
        return
    if calibration is not None and no_calibration:
        raise InputError("give --calibration or --no-calibration, not both")
    with quiet_stdout():
        from probcomp.decoding import decode as run
        from probcomp.decoding.plot import save_plot
        from probcomp.decoding.small.load import load_small
        from probcomp.decoding.small.tokenizer import CharacterTokenizer

        options = parse_options(option or [])
        if temperature is not None:
            options["temperature"] = temperature
        if max_new_tokens is not None:
            options["max_new_tokens"] = max_new_tokens
            options.setdefault("initial_length", min(16, max(max_new_tokens, 1)))
        prompts = prompt or list(EXAMPLES)
        output = run(
            None if model is None else load_small(model),
            CharacterTokenizer(),
            prompt=prompts,
            preset=preset,
            seed=seed,
            history=plot is not None,
            calibration=False if no_calibration else calibration,
            **options,
        )
        if plot is not None:
            text = (output.texts or [""])[0]
            save_plot(output, plot, tokens=list(text) if "_" not in prompts[0] else None)
    for text in prompts if model is None else ():
        if "_" not in text and not KNOWN.fullmatch(text):
            typer.echo(
                f"note: the embedded model knows prompts like {', '.join(EXAMPLES)} only; "
                f"{text!r} is none of them",
                err=True,
            )
    result = {"prompts": prompts, "seed": seed, **output.to_dict()}
    save_json(result, out)
    if json:
        print_json(result)
    else:
        _print(result)


def _calibrate(
    model: Path | None, examples: Path, seed: int, out: Path | None, json: bool, *, clash: bool
) -> None:
    """``--calibrate``: fit, check on held-out answers, write, and say what came out."""
    if clash:
        raise InputError("--calibrate goes without --prompt, --preset, --set and --plot")
    if model is None and out is None:
        raise InputError(
            "the embedded model has its calibration; give MODEL, or --out for where to write"
        )
    with quiet_stdout():
        from probcomp.decoding import calibrate as fit
        from probcomp.decoding.small.load import embedded_model, load_small
        from probcomp.decoding.small.tokenizer import CharacterTokenizer

        network = embedded_model() if model is None else load_small(model)
        found = fit(
            network,
            CharacterTokenizer(),
            examples=examples,
            seed=seed,
            out=model if out is None else out,
        )
    if json:
        print_json({"checksum": found.checksum, "options": found.options, "report": found.report})
        return
    report = found.report
    print(
        f"fitted on {report['answers']} answers; on {report['held_out']} held out the end scores "
        f"{report['end_log_score']:.3f} nats (length prior {report['prior_log_score']:.3f}), "
        f"error of confidence {report['error_calibration']:.4f} "
        f"(uncalibrated {report['error_calibration_before']:.4f})"
    )


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` pairs, values read as JSON where they are JSON and as text otherwise."""
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise InputError(f"--set takes name=value, got {pair!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
        if isinstance(found[name], list):
            found[name] = tuple(found[name])
    return found


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("prompt", "answer", "tokens", "forwards", "per forward", "expected errors"):
        table.add_column(name, no_wrap=name == "answer")
    drawn = result["config"]["temperature"] > 0
    for i, prompt in enumerate(result["prompts"]):
        table.add_row(
            prompt,
            result["texts"][i],
            str(result["num_new_tokens"][i]),
            str(result["nfe"][i]),
            f"{result['tokens_per_forward'][i]:.1f}",
            # What is drawn is not wrong for being unlikely.
            "drawn" if drawn else f"{result['expected_errors'][i]:.3f}",
        )
    Console().print(table, markup=False, highlight=False)
