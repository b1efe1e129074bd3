"""Files are written whole or not at all, and one process at a time works on them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lmsteer.errors import DataError
from lmsteer.util.files import exclusive, replace_file, write_file

HOLDS = """
import sys
from pathlib import Path
from lmsteer.util.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    write_file(tmp_path / "figures.json", "old")
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "figures.json") as aside:
        aside.write_bytes(tmp_path.joinpath("missing").read_bytes())
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert (tmp_path / "figures.json").read_text() == "old"


def test_a_second_process_is_refused_until_the_first_is_done_or_dead(tmp_path):
    work = tmp_path / "deep" / "adapter"
    command = [sys.executable, "-c", HOLDS, str(work)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process is at work on"), exclusive(work):
            pass
        other.kill()
    with exclusive(work):
        assert [file.name for file in work.parent.iterdir()] == ["adapter.lock"]
    assert not [*work.parent.iterdir()]


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"), exclusive(tmp_path / "file" / "adapter"):
        pass
