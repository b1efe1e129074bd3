"""What the gist commands share: their application and their options."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from lmsteer.cli.app import app

gist_app = typer.Typer(
    help="Compress prompts into the keys and values of a few tokens (gist tokens).", no_args_is_help=True
)
app.add_typer(gist_app, name="gist")

Adapter = Annotated[
    str, typer.Option(help="Gist adapter: a folder that `lmsteer gist fit` made, or the name of one that ships.")
]
Condition = Literal["gist", "positive", "negative"]
InstructionData = Annotated[
    str, typer.Argument(metavar="DATA", help="Instructions: a JSONL, JSON, CSV, TSV or Parquet file, or a Hub dataset.")
]
