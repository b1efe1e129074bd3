"""Progress bars tell how far work is."""

from __future__ import annotations

from lmsteer.progress import bars, no_progress


def test_bars_tell_what_came_of_the_work(capsys):
    with bars()("counting", 3, 1) as step:
        step(2, "result 7")
    err = capsys.readouterr().err
    assert "counting" in err
    assert "3/3" in err
    assert "result 7" in err


def test_silence_is_silent(capsys):
    with no_progress("counting", 3) as step:
        step(3, "x")
    assert capsys.readouterr() == ("", "")
