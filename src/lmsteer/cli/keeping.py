"""Commands that tell what there is: steers, and what the cache keeps."""

from __future__ import annotations

from typing import Annotated

import typer

from lmsteer.cli.app import AsJson, app, stdout


@app.command()
def cache(
    clear: Annotated[str | None, typer.Option(help="Remove models, states, fisher, adapters, or all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what the cache holds (models, hidden states, Fisher factors, LoRAs for vLLM), or clear it.

    Example: lmsteer cache --clear states
    """
    import lmsteer.fitting.activation_cache
    import lmsteer.generation.unconditional
    import lmsteer.serving.vllm.adapter_cache  # noqa: F401  these register what they keep in the cache
    from lmsteer.cli import output as printing
    from lmsteer.util.disk_cache import cache_dir, entries
    from lmsteer.util.disk_cache import clear as run

    found = run(clear) if clear else entries()
    if as_json:
        printing.as_json(printing.entries_as_json(found))
    else:
        printing.cached(stdout, found, f"{'Removed from' if clear else 'In'} {cache_dir()}")


@app.command()
def steers(
    as_json: AsJson = False,
) -> None:
    """List the steers that are known by name: those in steers/ here, and those that ship.

    Example: lmsteer steers
    """
    from lmsteer.cli import output as printing
    from lmsteer.steer.lookup import known_steers

    found = known_steers()
    if as_json:
        printing.as_json([steer.to_json() for steer in found])
    else:
        printing.known_steers(stdout, found)
