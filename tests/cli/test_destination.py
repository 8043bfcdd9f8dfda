from collections import namedtuple
from pathlib import Path

import pytest

from probcomp.cli.destination import LEAST_FREE, check_destination, check_file
from probcomp.errors import InputError


@pytest.mark.parametrize("below", ["", "a", "a/b/c"])
def test_leaves_nothing_behind(tmp_path, below) -> None:
    check_destination(tmp_path / below)
    assert list(tmp_path.iterdir()) == []


def test_refuses_files_and_places_that_take_no_files(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is not a directory"):
            check_destination(out)
    with pytest.raises(InputError, match="cannot write to /proc/self/out"):
        check_destination(Path("/proc/self/out"))


def test_refuses_a_disk_without_room_for_the_model(tmp_path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")(0, 0, LEAST_FREE + 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    check_destination(tmp_path, 1000)
    with pytest.raises(InputError, match="17 MB are free, about 17 MB are needed"):
        check_destination(tmp_path, 1001)


def test_a_read_only_directory_is_refused(tmp_path, monkeypatch) -> None:
    """Permissions do not stop an administrator, so the failure is made here."""

    def fail(**kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", fail)
    with pytest.raises(InputError, match="Read-only file system"):
        check_destination(tmp_path)


def test_a_file_is_tried_before_the_work(tmp_path) -> None:
    check_file(tmp_path / "below" / "page.html")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="it is a directory; name a file in it"):
        check_file(tmp_path)
    (tmp_path / "file").write_text("")
    check_file(tmp_path / "file")  # one that is there is replaced
    with pytest.raises(InputError, match="is not a directory"):
        check_file(tmp_path / "file" / "page.html")
