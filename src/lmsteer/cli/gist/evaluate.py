"""The command ``gist evaluate``: how good the outputs under gists are."""

from __future__ import annotations

from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import stdout
from lmsteer.cli.gist.app import Adapter, Condition, InstructionData, gist_app
from lmsteer.cli.output.common import print_json
from lmsteer.data.instructions import read_instructions
from lmsteer.gist import SHIPPED
from lmsteer.gist.config import EVALUATION_MAX_NEW_TOKENS, GistCondition
from lmsteer.gist.lookup import find_card
from lmsteer.util.progress import bars


@gist_app.command()
def evaluate(
    data: InstructionData,
    adapter: Adapter = SHIPPED,
    condition: Annotated[
        Condition | None, typer.Option(help="What outputs see: gist, positive or negative (default: as fitted).")
    ] = None,
    limit: options.FirstN = None,
    max_new_tokens: options.MaxNewTokens = EVALUATION_MAX_NEW_TOKENS,
    batch_size: options.BatchSize = options.DEFAULTS.batch_size,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Measure outputs under gists: ROUGE-L, exact matches, and the loss of the known outputs.

    Example: lmsteer gist evaluate held_out.jsonl --adapter gists
    """
    instructions = read_instructions(data)[:limit]
    card = find_card(adapter)
    seen = GistCondition(condition) if condition else card.condition

    from lmsteer.cli.output.gist import print_quality
    from lmsteer.gist.adapter import find_adapter
    from lmsteer.gist.evaluate import evaluate as run

    quality = run(
        lmsteer.load(model),
        find_adapter(adapter),
        instructions,
        condition=seen,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=bars(),
    )
    if as_json:
        print_json({"condition": seen.value, **quality.to_json()})
    else:
        print_quality(stdout, quality, seen)
