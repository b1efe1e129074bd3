"""The command ``demo``: from two descriptions, and from the starter texts, to a report in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli import options
from lmsteer.cli.app import app, stdout


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the steers and of report.html.")] = Path(
        "demo"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Few texts and samples, to see whether everything runs.")] = (
        False
    ),
    model: options.Model = options.DEFAULT_MODEL,
) -> None:
    """Make a steer from two descriptions and one from labelled texts, show what they do, and write a report.

    Example: lmsteer demo
    """
    from lmsteer.demo.run import run

    run(model, out, quick=quick, console=stdout)
