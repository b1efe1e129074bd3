"""The command line: each module is one command, which reads its options, calls the package and prints the result.

Commands check what they can before they import torch, so that help and most errors come at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

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
    gather,
    generate,
    gist,
    import_,
    list,
    lm_eval,
    mix,
    push,
    serve,
    transfer,
    verify,
)
from lmsteer.cli.app import app, tell_error
from lmsteer.cli.output.streams import guarded_streams
from lmsteer.errors import InterruptedWorkError, LMSteerError

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
    "gather",
    "generate",
    "gist",
    "import_",
    "list",
    "lm_eval",
    "main",
    "mix",
    "push",
    "serve",
    "transfer",
    "verify",
]


# The status that a shell shows for a process that Ctrl-C has stopped; typer exits with it, too.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit; what goes wrong for reasons outside of the program is told on one line.

    Raises:
        SystemExit: always; docs/reference/cli.md lists the statuses.
    """
    _quiet_libraries()
    with guarded_streams():
        status = _status_of(app)
        unwritten = _status_of(sys.stdout.flush)
        sys.stderr.flush()
    sys.exit(status or unwritten)


def _status_of(action: Callable[[], object]) -> int:
    """The exit status of a part of the program; its failure is told on standard error."""
    try:
        action()
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            tell_error("stopped by Ctrl-C.")
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        tell_error("stopped by Ctrl-C.")
        return _INTERRUPTED
    except LMSteerError as error:
        tell_error(str(error))
        return _INTERRUPTED if isinstance(error, InterruptedWorkError) else 2
    except MemoryError:
        tell_error("out of memory: ask for less at once.")
        return 2
    except OSError as error:  # files that nobody has explained: a folder that is gone, a disk that fails
        tell_error(f"{error}." if _has_working_folder() else "the working folder is gone: change to another one.")
        return 2
    return 0


def _has_working_folder() -> bool:
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def _quiet_libraries() -> None:
    """Keep libraries that are imported later from printing warnings and progress bars of their own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
