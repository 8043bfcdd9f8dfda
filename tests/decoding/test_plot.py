import pytest

from probcomp.decoding import decode
from probcomp.decoding.plot import plot_generation, save_plot
from probcomp.errors import InputError


@pytest.fixture(scope="module")
def output():
    return decode(prompt="{k=12;b=x", history=True, preset="wino", max_new_tokens=24)


def test_a_picture_shows_every_forward_and_what_it_committed(output):
    figure = plot_generation(output)
    bars = figure.axes[1].patches
    assert len(bars) == output.nfe[0]
    assert [bar.get_width() for bar in bars] == [int(s.commit[0].sum()) for s in output.history]
    assert f"{output.num_new_tokens[0]} tokens" in figure.axes[0].get_title()


def test_tokens_name_the_positions(output):
    figure = plot_generation(output, tokens=list(output.texts[0]))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == list(output.texts[0])


def test_a_row_of_a_batch_is_drawn_alone():
    both = decode(prompt=["+1+2", "?c"], history=True)
    figure = plot_generation(both, row=1)
    assert len(figure.axes[1].patches) == both.nfe[1]


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_ending_names_the_format(output, tmp_path, kind):
    save_plot(output, tmp_path / f"one.{kind}")
    start = (tmp_path / f"one.{kind}").read_bytes()[:8]
    assert start.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[kind])


def test_bad_input(output, tmp_path):
    with pytest.raises(InputError, match="png"):
        save_plot(output, tmp_path / "one.txt")
    with pytest.raises(InputError, match="history"):
        plot_generation(decode(prompt="+1+2"))
    with pytest.raises(InputError, match="history"):
        plot_generation(output, row=3)
