"""What the commands share: the app, and the options that most of them take."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Turn a language model's style up and down.", no_args_is_help=True, pretty_exceptions_enable=False
)
stdout, stderr = Console(), Console(stderr=True)

Model = Annotated[str, typer.Option(help="Hub id, folder, .gguf file, or a packaged model: smollm2, gemma3-270m.")]
LabelMap = Annotated[str | None, typer.Option(help="Numbers for class labels, like 'negative=-1,positive=1'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
