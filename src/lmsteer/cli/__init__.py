"""The command line: each module is one command, which reads its options, calls the package and prints the result.

Commands check what they can before they import torch, so that help and most errors come at once.
"""

from __future__ import annotations

import os
import sys

from lmsteer.cli import (
    analyse,
    cache,
    calibrate,
    compare,
    components,
    demo,
    evaluate,
    export,
    fit,
    generate,
    gist,
    import_,
    list,
    mix,
    serve,
    transfer,
    verify,
)
from lmsteer.cli.app import app, stderr
from lmsteer.errors import LMSteerError

__all__ = [
    "analyse",
    "app",
    "cache",
    "calibrate",
    "compare",
    "components",
    "demo",
    "evaluate",
    "export",
    "fit",
    "generate",
    "gist",
    "import_",
    "list",
    "main",
    "mix",
    "serve",
    "transfer",
    "verify",
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
    """Keep libraries that are imported later from printing warnings and progress bars of their own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
