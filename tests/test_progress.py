from probcomp.progress import progress


def test_silent_where_nobody_looks(capsys):
    with progress("work", 2) as advance:
        advance("one")
        advance("two")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes standard error for a terminal
    with progress("work", 2) as advance:
        advance("one")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "work" in captured.err
