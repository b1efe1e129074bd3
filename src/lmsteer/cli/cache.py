"""The command ``cache``: what the cache holds."""

from __future__ import annotations

from typing import Annotated

import typer

from lmsteer.cli import options
from lmsteer.cli.app import app, stdout
from lmsteer.cli.output.cache import print_entries
from lmsteer.cli.output.common import print_json
from lmsteer.fitting.cache_kind import STATES
from lmsteer.generation.fisher_cache import FISHER
from lmsteer.serving.vllm.adapter_cache import ADAPTERS
from lmsteer.util.disk_cache import MODELS, cache_dir, clear, entries

# Importing a kind makes it known to the cache.
_KINDS = ", ".join(kind.name for kind in (MODELS, STATES, FISHER, ADAPTERS))


@app.command()
def cache(
    clear_kind: Annotated[
        str | None,
        typer.Option("--clear", metavar="KIND", help=f"Remove the entries of a kind ({_KINDS}), or all."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List what the cache holds, or clear it: models, hidden states, Fisher factors, and LoRAs for vLLM.

    Example: lmsteer cache --clear states
    """
    listed = clear(clear_kind) if clear_kind else entries()
    if as_json:
        print_json([entry.to_json() for entry in listed])
    else:
        print_entries(stdout, listed, f"{'Removed from' if clear_kind else 'In'} {cache_dir()}")
