"""Progress tells how far work is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from lmsteer.util import progress
from lmsteer.util.progress import bars, no_progress


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with bars()("counting", 3, 1) as step:
        step(2, "result 7")
    err = capsys.readouterr().err
    assert "counting" in err
    assert "3/3" in err
    assert "result 7" in err


def test_a_log_file_gets_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    seconds = iter([0.0, 1.0, 31.0, 31.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    with bars()("counting", 9, 1) as step:
        step(2, "too soon")
        step(3, "result 7")
        step(1, "too soon again")
    assert capsys.readouterr().err == "counting: 6 of 9 result 7\n"


def test_a_stream_has_no_total(capsys, monkeypatch):
    monkeypatch.setattr("lmsteer.util.progress._LINE_EVERY", 0.0)
    with bars()("reading", 0, 0) as step:
        step(3, "loss 1")
    assert capsys.readouterr().err == "reading: 3 loss 1\n"


def test_silence_is_silent(capsys):
    with no_progress("counting", 3) as step:
        step(3, "x")
    assert capsys.readouterr() == ("", "")
