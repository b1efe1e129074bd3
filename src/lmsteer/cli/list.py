"""The command ``list``: the steers that can be named."""

from __future__ import annotations

from lmsteer.cli import options
from lmsteer.cli.app import app, stdout
from lmsteer.cli.output.common import print_json
from lmsteer.cli.output.known_steers import print_known_steers
from lmsteer.steer.lookup import known_steers


@app.command(name="list")
def list_steers(as_json: options.AsJson = False) -> None:
    """List the steers that can be named: those in steers/ of this folder, and those that ship.

    Example: lmsteer list
    """
    steers = known_steers()
    if as_json:
        print_json([steer.to_json() for steer in steers])
    else:
        print_known_steers(stdout, steers)
