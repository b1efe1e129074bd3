"""The README tells the truth: its commands and its Python run as they stand."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lmsteer.starter import starter_texts

README = Path(__file__).parent.parent / "README.md"
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the reader's files lie."""
    folder = tmp_path_factory.mktemp("reader")
    texts = starter_texts("sentiment")[:240]
    with (folder / "reviews.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "length"])
        writer.writerows((t.text, "good" if t.label > 0 else "bad", (len(t.text) > 88) * 2 - 1) for t in texts)
    (folder / "reviews.txt").write_text("\n".join(t.text for t in texts[:8]))
    for name, part in (("monday", texts[:160]), ("tuesday", texts[160:])):
        lines = (json.dumps({"text": t.text, "label": t.label}) for t in part)
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run(folder: Path, command: list[str]) -> None:
    done = subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_run_in_their_order(folder):
    lines = [line for block in blocks("console") for line in block.splitlines() if line.startswith("lmsteer ")]
    assert len(lines) >= 5
    for line in lines:
        run(folder, [sys.executable, "-m", *shlex.split(line)])


def test_the_python_runs(folder):
    for block in blocks("python"):
        run(
            folder,
            [sys.executable, "-c", block.replace('starter_texts("sentiment")', 'starter_texts("sentiment")[:160]')],
        )


def test_the_make_commands_exist():
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("console")), re.MULTILINE)
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
