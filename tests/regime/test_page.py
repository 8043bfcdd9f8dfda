"""The page and the picture files."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from probcomp.errors import InputError
from probcomp.regime import advise
from probcomp.regime.page import save_pictures, write_page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.text, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        self.scripts += tag == "script"

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def said(spin_glass):
    return advise(spin_glass[0], density=2.0, at={"temperature": 2.2})


@pytest.mark.slow
def test_the_page_holds_words_and_all_pictures_and_needs_no_other_file(said, tmp_path):
    write_page(replace(said, notes=("a < b & c",)), tmp_path / "page.html")
    tags = Tags()
    tags.feed((tmp_path / "page.html").read_text())
    assert len(tags.images) == 5
    assert all(image["src"].startswith("data:image/png;base64,") for image in tags.images)
    assert all(image["alt"] for image in tags.images)
    assert tags.scripts == 0
    text = " ".join(tags.text)
    assert "lower the temperature" in text
    assert "a < b & c" in text
    files = save_pictures(said, tmp_path / "pictures")
    assert len(files) == 5
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_a_page_that_cannot_be_written_is_one_error(said, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_page(said, tmp_path / "file" / "page.html")
