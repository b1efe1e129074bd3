"""The README and the guide tell the truth: their commands and their Python run as they stand, in their order."""

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

from lmsteer.baselines.methods import METHODS
from lmsteer.data.starter import starter_texts

README = Path(__file__).parent.parent / "README.md"
GUIDE = README.parent / "docs" / "guide.md"
GIST = README.parent / "docs" / "gist.md"
PAGE_ON_METHODS = README.parent / "docs" / "methods.md"
OTHER_MODEL = "gemma3-270m"
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


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """Language and content of each block of some languages."""
    found = re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in found if block[0] in languages]


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.startswith("lmsteer ")]


def run(folder: Path, command: list[str]) -> None:
    done = subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_of_the_readme_run(folder):
    lines = [line for _, block in blocks(README, "console") for line in commands(block)]
    assert len(lines) >= 5
    for line in lines:
        run(folder, [sys.executable, "-m", *shlex.split(line)])


def test_the_python_of_the_readme_runs(folder):
    for _, block in blocks(README, "python"):
        run(
            folder,
            [sys.executable, "-c", block.replace('starter_texts("sentiment")', 'starter_texts("sentiment")[:160]')],
        )


def test_the_guide_runs_from_top_to_bottom(tmp_path):
    steps = 0
    for language, block in blocks(GUIDE, "console", "python"):
        if language == "python":
            run(tmp_path, [sys.executable, "-c", block])
        for line in commands(block) if language == "console" else []:
            # Fetching that model is the user's to agree to.
            if OTHER_MODEL not in line or OTHER_MODEL in os.environ.get("LMSTEER_ACCEPT_TERMS", ""):
                run(tmp_path, [sys.executable, "-m", *shlex.split(line)])
                steps += 1
    assert steps >= 12
    assert (tmp_path / "evaluation" / "report.html").is_file()


def test_the_commands_of_the_gist_page_run(tmp_path):
    rows = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in ("yes", "no", "maybe", "never")]
    for name in ("instructions", "held_out"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [line for _, block in blocks(GIST, "console") for line in commands(block)]
    assert [line.split()[2] for line in lines] == [
        *("compress", "generate"),  # by the adapter that ships
        *("fit", "evaluate", "compress", "generate"),
    ]
    for line in lines:
        few = ["--steps", "2", "--batch", "2"] if " fit " in line else []
        run(tmp_path, [sys.executable, "-m", *shlex.split(line), *few])


def test_the_make_commands_exist():
    targets = re.findall(r"^make (\w+)", "\n".join(block for _, block in blocks(README, "console")), re.MULTILINE)
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_page_on_methods_runs(tmp_path):
    texts = starter_texts("sentiment")[:160]
    rows = (json.dumps({"text": text.text, "label": text.label}) for text in texts)
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows))
    for language, block in blocks(PAGE_ON_METHODS, "console", "python"):
        if language == "python":
            run(tmp_path, [sys.executable, "-c", block])
        for line in commands(block) if language == "console" else []:
            run(tmp_path, [sys.executable, "-m", *shlex.split(line)])
    assert (tmp_path / "comparison" / "report.html").is_file()
    # None failed.
    assert {file.parent.name for file in (tmp_path / "comparison").glob("*/result.json")} == {*METHODS}
    assert (tmp_path / "kind-model" / "model.safetensors").is_file()
