"""The command line, run in this process on a tiny model, in a folder of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lmsteer.cli import main
from lmsteer.model.loading import load
from lmsteer.steer.files import save_steer
from tiny import random_steer, styled, tiny_lm


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    lm = tiny_lm("llama")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [{"text": t.text, "label": t.label} for t in styled(240)]
    Path("letters.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def run(tiny_folder, monkeypatch, capsys):
    def call(*arguments: str, model: bool = True) -> tuple[int, str, str]:
        line = ["lmsteer", *arguments, *(["--model", str(tiny_folder)] if model else [])]
        monkeypatch.setattr(sys, "argv", line)
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return (
            status,
            captured.out,
            " ".join(captured.err.replace("│", " ").split()),
        )  # without the frames of usage errors

    return call


@pytest.fixture
def lm(tiny_folder):
    """The tiny model as the command line loads it, with two steers in its folder of steers, and prompts."""
    loaded = load(tiny_folder)
    for seed, name in enumerate(("one", "two")):
        save_steer(random_steer(loaded, seed=seed, name=name), f"steers/{name}")
    Path("prompts.txt").write_text("abc\nxyz\n12\n")
    return loaded


@pytest.fixture
def check_refused(run, lm, monkeypatch):
    """Runs a command on bad input: it must end with a message and status 2, and make nothing."""

    def check(arguments: list[str], message: str) -> None:
        folder = Path(lm.model.config._name_or_path)
        monkeypatch.setattr("lmsteer.model.sources.resolve.fetch_packaged", lambda name: folder)
        save_steer(random_steer(lm, "add", name="shift"), "steers/shift")
        save_steer(random_steer(tiny_lm("qwen3")), "other")
        Path("zeros.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 0}\n')
        status, out, err = run(*arguments)
        assert status == 2
        assert message in err
        assert "Traceback" not in err + out
        assert not Path("x").exists()

    return check
