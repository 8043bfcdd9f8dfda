"""Whether the output directory can be written, found out before the long work starts."""

import os
import shutil
import tempfile
from pathlib import Path

from probcomp.errors import InputError

LEAST_FREE = 16 * 2**20
"""Bytes that must be free besides the model: page, pictures, posterior of small networks."""


def check_destination(out: Path, need: int = 0) -> None:
    """Try to write where ``out`` will be, without leaving anything behind.

    Args:
        out: the output directory, existing or not.
        need: bytes that the result will take, as far as is known.

    Raises:
        InputError: not a directory, not writable, or too little space.
    """
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"cannot write to {out}: {place} is not a directory")
    try:
        with tempfile.NamedTemporaryFile(prefix=".probcomp-", dir=place) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    if free < LEAST_FREE + need:
        raise InputError(
            f"cannot write to {out}: {free / 1e6:.0f} MB are free, about "
            f"{(LEAST_FREE + need) / 1e6:.0f} MB are needed"
        )


def check_file(out: Path) -> None:
    """Try to write beside where the file ``out`` will be; see `check_destination`.

    Raises:
        InputError: a directory, or in one that cannot be written.
    """
    if out.is_dir():
        raise InputError(f"cannot write to {out}: it is a directory; name a file in it")
    check_destination(out.parent)
