"""The command line: parses, calls, prints. Every command is a Python call of the same name and arguments."""

from __future__ import annotations

import os
import sys

from lmsteer.cli import comparing, evaluating, exchanging, fitting, generating, gist, keeping, reading, serving, steers
from lmsteer.cli.app import app, stderr
from lmsteer.errors import LMSteerError

__all__ = [
    "app",
    "comparing",
    "evaluating",
    "exchanging",
    "fitting",
    "generating",
    "gist",
    "keeping",
    "main",
    "reading",
    "serving",
    "steers",
]


def main() -> None:
    """Run the command line; a user's mistake ends in a message and exit status 2."""
    _quiet_libraries()
    try:
        app()
    except LMSteerError as error:
        stderr.print(f"lmsteer: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
