import os
import signal
import subprocess
import sys
import time

import pytest

import probcomp
from probcomp.cli import app
from probcomp.errors import DivergenceError, InputError

HELP_SECONDS = 0.5
HEAVY = (
    "torch",
    "jax",
    "transformers",
    "triton",
    "matplotlib",
    "arviz",
    "pyro",
    "numpyro",
    "scipy",
)


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
        timeout=120,
    )


def test_help_answers_at_once_and_names_the_commands() -> None:
    """Processor time, since wall time depends on what else the machine does."""
    code = (
        "import sys, time\n"
        "from probcomp.cli.app import run\n"
        "status = run(['--help'])\n"
        "print('TIME', time.process_time())\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])\n"
        "sys.exit(status)"
    )
    best = float("inf")
    for _ in range(3):
        ran = python(code)
        assert ran.returncode == 0
        best = min(best, float(ran.stdout.partition("TIME ")[2].split()[0]))
    assert best < HELP_SECONDS
    assert "HEAVY []" in ran.stdout
    for command in ("compress", "methods", "doctor", "bench"):
        assert command in ran.stdout


def test_version(cli) -> None:
    assert cli("--version").out.strip() == probcomp.__version__


@pytest.mark.parametrize(
    "arguments",
    [
        ("comprss",),
        ("compress", "--bugdet", "params=0.1"),
        ("compress", "--seed", "one"),
        ("compress", "--seed", "-1"),
        ("compress", "a", "b"),
        ("bench", "training", "--seed", "one"),
    ],
)
def test_usage_errors_are_one_line(refused, arguments) -> None:
    assert "--help" in refused(*arguments)


def test_no_arguments_show_the_help(cli) -> None:
    assert "compress" in (ran := cli()).out + ran.err


def failing(monkeypatch, error: BaseException) -> None:
    def fail(**kwargs):
        raise error

    monkeypatch.setattr(app, "app", fail)


def ran(capsys) -> tuple[int, str]:
    return app.run([]), capsys.readouterr().err


def test_our_errors_are_status_two(monkeypatch, capsys) -> None:
    failing(monkeypatch, DivergenceError("loss is nan\n  in layer fc1"))
    assert ran(capsys) == (2, "probcomp: error: loss is nan in layer fc1\n")


def test_a_full_disk_is_named(monkeypatch, capsys) -> None:
    failing(monkeypatch, OSError(28, "No space left on device", "out/model.safetensors"))
    assert ran(capsys) == (2, "probcomp: error: out/model.safetensors: No space left on device\n")


def test_a_defect_is_status_one_with_the_way_to_its_traceback(monkeypatch, capsys) -> None:
    monkeypatch.delenv("PROBCOMP_DEBUG", raising=False)
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    status, err = ran(capsys)
    assert status == 1
    assert err.startswith("probcomp: internal error: ZeroDivisionError: division by zero (test_app")
    assert err.count("\n") == 1
    assert "PROBCOMP_DEBUG=1" in err


def test_debugging_shows_the_traceback(monkeypatch, capsys) -> None:
    monkeypatch.setenv("PROBCOMP_DEBUG", "1")
    failing(monkeypatch, InputError("no"))
    status, err = ran(capsys)
    assert status == 2
    assert "Traceback" in err
    assert err.endswith("probcomp: error: no\n")


def test_interrupt_is_130(monkeypatch, capsys) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert ran(capsys)[0] == 130


def test_exit_status_of_the_process() -> None:
    code = "import sys; sys.argv[1:] = ['compress', '--budget', 'params=2x']\n"
    ran = python(code + "from probcomp.cli import main; main()")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(("debug", "lines"), [("0", 0), ("1", 2)])
def test_notes_of_libraries_are_shown_to_debuggers_alone(debug, lines) -> None:
    code = """
import logging, warnings
import probcomp.cli.app as app
def work(**kwargs):
    warnings.warn("noise in a warning")
    logging.getLogger("torch").warning("noise in a log")
app.app = work
app.main()
"""
    ran = python(code, PROBCOMP_DEBUG=debug)
    assert ran.returncode == 0
    assert ran.stderr.count("noise in") == lines


def test_a_reader_that_leaves_is_no_traceback() -> None:
    code = "import sys; sys.argv[1:] = ['--help']; from probcomp.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(60)


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_stopping_removes_what_was_begun(tmp_path, signal_name) -> None:
    code = f"""
import signal, sys, time, pathlib
import probcomp.cli.app as app
# Where the tests run in the background the interrupt is ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from probcomp.storage import replacing
def work(**kwargs):
    with replacing(pathlib.Path({str(tmp_path)!r}) / 'report.json'):
        print('ready', flush=True)
        time.sleep(60)
app.app = work
app.main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(getattr(signal, signal_name))
    status = process.wait(60)
    process.stdout.close()
    assert status == (130 if signal_name == "SIGINT" else 143)
    assert list(tmp_path.iterdir()) == []
