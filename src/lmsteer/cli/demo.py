"""The command ``demo``: from the starter texts to a report, in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli import options
from lmsteer.cli.app import app, stdout


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the steer and of report.html.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Few texts and samples, to see whether everything runs.")] = (
        False
    ),
    model: options.Model = options.DEFAULT_MODEL,
) -> None:
    """Fit a sentiment steer on the starter texts, generate text at several strengths, and write a report.

    Example: lmsteer demo
    """
    from lmsteer.demo import run

    run(model, out, quick=quick, console=stdout)
