"""The pages name what there is: files, layers, commands and their options, make targets, links."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def _hooks():
    """What the docs site is built with."""
    file = ROOT / "docs" / ".hooks" / "pages.py"
    spec = importlib.util.spec_from_file_location("pages", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _hooks()


def _commands(page: Path) -> Iterator[list[str]]:
    """Each call of lmsteer in a page's blocks of commands, as words."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:console|sh)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|\s)(?:-m )?lmsteer (?P<rest>[a-z].*)", line):
                yield shlex.split(found["rest"], comments=True)


CALLS = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words[:3])}")
    for page in PAGES
    for words in _commands(page)
]


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of each command."""
    return {name: set(names) for name, names in HOOKS.options()}


@pytest.mark.parametrize("words", CALLS)
def test_commands_and_their_options_exist(words, options):
    name = " ".join(words[:2]) if words[0] == "gist" else words[0]
    assert name in options
    if name == "lm-eval":  # its options are those of lm-evaluation-harness
        return
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= options[name], f"{name} has no {', '.join(sorted(given - options[name]))}"


def test_there_are_commands_to_check():
    assert len(CALLS) > 50


def test_the_reference_describes_every_command(options):
    table = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([a-z-]+(?: [a-z]+)?)`", table.partition("Where a steer's name")[0])) == set(options)
    described = HOOKS.on_page_markdown("<!-- commands -->", None)
    assert [line.removeprefix("## ") for line in described.splitlines() if line.startswith("## ")] == sorted(options)


def test_the_architecture_page_names_files_that_exist():
    named = re.findall(r"`((?:[\w.]+/)*[\w]+(?:\.py|/))`", ARCHITECTURE.read_text(encoding="utf-8"))
    assert len(named) > 40
    places = [ROOT, ROOT / "src", ROOT / "src" / "lmsteer"]
    inside = [ROOT / "src" / "lmsteer" / package for package in ("cli", "serving", "evaluation", "model")]
    missing = [name for name in named if not any((place / name).exists() for place in (*places, *inside))]
    assert not missing


def test_the_architecture_page_has_the_layers_in_their_order():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [name for layer in contracts["contracts"][0]["layers"] for name in layer.split(" | ")]
    table = ARCHITECTURE.read_text(encoding="utf-8").partition("## The packages")[2].partition("##")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert [name.removesuffix(".py") for row in rows for name in re.findall(r"`([\w.]+)`", row)] == layers


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named >= {"demo", "test", "check", "docs"}
    assert not [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_hold(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
