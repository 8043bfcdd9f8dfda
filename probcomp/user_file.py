"""Python files of the user's own, run as modules; what goes wrong in them is told with its line."""

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from probcomp.errors import InputError, ProbcompError


def module_of(path: Path, prefix: str, name: str | None = None) -> ModuleType:
    """Run a file as the module ``prefix`` + its own name, with the rights of the user.

    Args:
        path: The file. Its directory can be imported from while it runs.
        prefix: Keeps modules of different uses apart.
        name: What errors inside it call it; its path by default.

    Raises:
        InputError: It is not a Python file, or it raises; the line is named.
    """
    spec = importlib.util.spec_from_file_location(prefix + path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with running(path, name or str(path)):
        spec.loader.exec_module(module)
    return module


@contextmanager
def running(path: Path, name: str) -> Iterator[None]:
    """Code of a file runs inside: imports see its directory, and its errors become `InputError`.

    Args:
        path: The file.
        name: What the error calls it.
    """
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    except ProbcompError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        lines = lines or [getattr(error, "lineno", None)]
        where = f" at line {lines[-1]}" if lines[-1] else ""
        raise InputError(f"{name} raised {type(error).__name__}{where}: {error}") from error
    finally:
        sys.path.remove(folder)
