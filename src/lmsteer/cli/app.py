"""What the commands share: the app, and the options that most of them take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from lmsteer.steer.notation import StrengthSettings
    from lmsteer.steer.steer import Steer

app = typer.Typer(
    help="Turn a language model's style up and down.", no_args_is_help=True, pretty_exceptions_enable=False
)
stdout, stderr = Console(), Console(stderr=True)

Model = Annotated[str, typer.Option(help="Hub id, folder, .gguf file, or a packaged model: smollm2, gemma3-270m.")]
LabelMap = Annotated[str | None, typer.Option(help="Numbers for class labels, like 'negative=-1,positive=1'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


def dialled(notations: Sequence[str]) -> tuple[dict[str, Steer], StrengthSettings]:
    """The steers and strengths that were asked for, with a warning of those beyond what was found safe."""
    from lmsteer.steer.files import find_steer
    from lmsteer.steer.lookup import find_card
    from lmsteer.steer.notation import outside_safe_range, parse_strengths

    cards, settings = parse_strengths(notations, find_card)
    for warning in outside_safe_range(cards, settings):
        stderr.print(warning, style="yellow", markup=False, highlight=False)
    return {name: find_steer(name) for name in cards}, settings
