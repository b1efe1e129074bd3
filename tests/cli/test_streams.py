"""Output that cannot be written, and texts that a stream or a terminal cannot take as they are."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lmsteer.cli import main
from lmsteer.cli.app import stdout
from lmsteer.cli.output.generation import print_continuations, print_stream
from lmsteer.steer.files import save_steer
from tiny import random_steer, tiny_lm


class Broken(io.StringIO):
    """A stream that fails when it is written to, or only when it is flushed."""

    def __init__(self, number: int, when: str) -> None:
        super().__init__()
        self._error, self._when = OSError(number, os.strerror(number)), when

    def write(self, text: str) -> int:
        if self._when == "write":
            raise self._error
        return super().write(text)

    def flush(self) -> None:
        if self._when == "flush":
            raise self._error


@pytest.fixture
def status(monkeypatch):
    def call(*arguments: str, **streams: io.StringIO | None) -> int:
        monkeypatch.setattr(sys, "argv", ["lmsteer", *arguments])
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as stop:
                main()
        return stop.value.code

    return call


COMMANDS = [["list"], ["list", "--json"], ["cache"], ["--help"], ["fit", "--help"]]


@pytest.mark.parametrize("when", ["write", "flush"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk_and_a_closed_pipe_end_a_command(command, when, status, capsys):
    assert status(*command, stdout=Broken(errno.ENOSPC, when)) == 2
    assert capsys.readouterr().err == "lmsteer: cannot write to standard output: No space left on device.\n"
    assert status(*command, stdout=Broken(errno.EPIPE, when)) == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", [None, Broken(errno.EPIPE, "write"), Broken(errno.ENOSPC, "flush")])
def test_without_standard_error_a_command_does_the_same(stream, status, capsys):
    assert status("list", "--json", stderr=stream) == 0
    assert json.loads(capsys.readouterr().out)
    assert status("verify", "nobody", stderr=stream) == 2
    assert status("list", "--nope", stderr=stream) == 2


def test_a_closed_standard_output_and_input(status, capsys):
    assert status("list", stdout=None) == 2
    assert "cannot write to standard output: Bad file descriptor." in capsys.readouterr().err
    assert status("generate", "--prompts", "-", stdin=None) == 2
    assert "standard input is closed" in capsys.readouterr().err


LINES = {
    "list --json > /dev/full": 2,
    "list >&-": 2,
    "verify nobody 2>&-": 2,
    "list --json | true": 141,
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("line", LINES)
def test_in_a_shell(line):
    """The streams of the process itself, to its very end."""
    command = f"set -o pipefail; {sys.executable} -m lmsteer {line}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == LINES[line]
    assert done.stderr.count("\n") == (LINES[line] == 2 and "2>&-" not in line)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_whole_in_every_encoding(encoding, status):
    label = "naïve 😀 \ud83d \x1b[31m \x9b"
    steer = random_steer(tiny_lm("llama"))
    save_steer(replace(steer, card=replace(steer.card, label=label)), "steers/odd")
    written = io.BytesIO()
    assert status("list", "--json", stdout=io.TextIOWrapper(written, encoding=encoding)) == 0
    content = written.getvalue()
    assert json.loads(content.decode(encoding))[0]["card"]["label"] == label
    assert not {0x1B, 0x9B} & {ord(character) for character in content.decode(encoding)}
    assert status("list", stdout=io.TextIOWrapper(io.BytesIO(), encoding=encoding)) == 0


def test_no_text_changes_the_terminal(capsys):
    text = "a\x1b]0;title\x07b\x9b2Jc"
    line = {"prompt": {"text": text}, "generations": [{"text": text, "strengths": {}}]}
    print_continuations(stdout, [line])
    print_stream(text, [text])
    out = capsys.readouterr().out
    assert out.count(r"a\x1b]0;title") == 4
    assert not {"\x1b", "\x07", "\x9b"} & set(out)


def test_an_error_is_one_line(status, capsys):
    assert status("verify", f"{'long ' * 40}\n\x1b[31mname") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_ctrl_c_is_told_on_one_line(status, capsys, monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lmsteer.cli.list.known_steers", interrupted)
    assert status("list") == 130
    assert capsys.readouterr().err == "lmsteer: stopped by Ctrl-C.\n"


def test_a_file_that_nobody_explains_is_told_on_one_line(status, capsys, monkeypatch):
    def fail() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "secret")

    monkeypatch.setattr("lmsteer.cli.list.known_steers", fail)
    assert status("list") == 2
    assert capsys.readouterr().err == "lmsteer: [Errno 13] Permission denied: 'secret'.\n"


def test_a_working_folder_that_is_gone_is_said(status, capsys, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert status("generate", "x", "--model", "./nowhere") == 2
    assert capsys.readouterr().err == "lmsteer: the working folder is gone: change to another one.\n"
