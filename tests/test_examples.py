"""The README and the docs tell the truth: their commands and their Python run as they stand, page by page, in order.

They run in this process, on one default model that all pages share, each page in an empty folder of its own. One test
starts real processes. Blocks in other languages (``sh``, ``json`` ...) are not run: they need a download, a server or a
long time.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lmsteer
from lmsteer.cli import main
from lmsteer.demo import run as demo_run
from lmsteer.evaluation.compare import run as compare_run
from lmsteer.evaluation.compare import worker
from lmsteer.model import loading
from lmsteer.model.lm import LM

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "quickstart.md", *sorted((ROOT / "docs").glob("how-to/*.md"))]
# Pages that take more than fifteen seconds. The README is one of the others.
LONG = {"quickstart", "analyse", "compare", "evaluate", "fit", "gists", "strengths"}
# Fetching this model is the user's to agree to.
OTHER_MODEL = "gemma3-270m"
pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]  # as a user's own process has them


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and content of the blocks of a page that are run."""
    found = re.findall(
        r"^( *)```(console|python)[^\n]*\n(.*?)^\1```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    for indent, language, content in found:
        yield language, re.sub(rf"^{indent}", "", content, flags=re.MULTILINE)


def commands(block: str) -> list[str]:
    """The lmsteer commands of a block; a line may continue after a backslash, and a prompt may stand before it."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("lmsteer ")]


def may_run(text: str) -> bool:
    return OTHER_MODEL not in text or OTHER_MODEL in os.environ.get("LMSTEER_ACCEPT_TERMS", "")


@pytest.fixture
def one_model(smollm2: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the default model gives the one that is loaded already; methods are compared in this process."""
    real = loading.load

    def load(model: str | Path = "smollm2", **options: object) -> LM:
        return smollm2 if str(model) == "smollm2" and not options else real(model, **options)

    for module in (loading, worker, demo_run):
        monkeypatch.setattr(module, "load", load)
    monkeypatch.setattr(lmsteer, "load", load, raising=False)
    monkeypatch.setattr(compare_run, "run_in_subprocess", compare_run.run_in_process)


@pytest.fixture
def run(one_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Runs a block in the page's folder."""
    monkeypatch.chdir(tmp_path)

    def command(line: str) -> None:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        status: object = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        assert not status, line

    def block(language: str, content: str) -> None:
        if language == "python" and may_run(content):
            exec(compile(content, "page", "exec"), {"__name__": "__main__"})
        for line in commands(content) if language == "console" else ():
            if may_run(line):
                command(line)

    return block


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem in LONG)) for page in PAGES]
)
def test_page_runs_from_top_to_bottom(page, run):
    for language, content in blocks(page):
        run(language, content)


def test_pages_have_commands():
    assert sum(len(commands(content)) for page in PAGES for _, content in blocks(page)) >= 30
    assert any(language == "python" for language, _ in blocks(PAGES[0]))


def test_installed_command_runs_in_a_process_of_its_own(tmp_path):
    (tmp_path / "prompts.txt").write_text("The weather this morning\n")
    line = [sys.executable, "-m", "lmsteer", "generate", "--prompts", "prompts.txt", "--steer", "sentiment=3"]
    done = subprocess.run([*line, "--max-new-tokens", "2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "The weather this morning" in done.stdout
