"""The command that looks after what is kept: cache."""

from __future__ import annotations

from typing import Annotated

import typer

from lmsteer.cli.app import AsJson, app, stdout


@app.command()
def cache(
    clear: Annotated[str | None, typer.Option(help="Remove models, states, curvature, or all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what the cache holds (models, hidden states of texts, curvature of models), or clear it.

    Example: lmsteer cache --clear states
    """
    from lmsteer import printing
    from lmsteer.cache import cache_dir, entries
    from lmsteer.cache import clear as run

    found = run(clear) if clear else entries()
    if as_json:
        printing.as_json(printing.entries_as_json(found))
    else:
        printing.cached(stdout, found, f"{'Removed from' if clear else 'In'} {cache_dir()}")
