"""Write the tables of README and docs from the committed results.

    python -m benchmarks.render            rewrite the pages
    python -m benchmarks.render --check    list the pages that are stale, and exit with 1 if there are any

A page marks the place of a table with two lines, between which the table of that name stands::

    <!-- rendered: NAME -->
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.tables import TABLES
from benchmarks.tables.markdown import ROOT

MARKED = re.compile(r"(<!-- rendered: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> Iterator[Path]:
    """README and every page of docs."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def rendered(text: str) -> str:
    """The text of a page with its tables written anew.

    Raises:
        KeyError: a marker names a table that does not exist.
    """
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}\n{found[3]}", text)


def stale() -> dict[Path, str]:
    """The pages whose tables are not those of the results, and what they should hold."""
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    return {page: new for page, text in texts.items() if (new := rendered(text)) != text}


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a page is stale.")] = False,
) -> None:
    """Write the tables of README and docs from the committed results."""
    found = stale()
    for page, text in found.items():
        print(page.relative_to(ROOT))
        if not check:
            page.write_text(text, encoding="utf-8")
    if check and found:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
