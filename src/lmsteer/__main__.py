"""``python -m lmsteer``, and the command ``lmsteer``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is imported, or at the very end, prints no traceback either."""
    try:
        from lmsteer.cli import main as run

        run()
    except KeyboardInterrupt:
        if sys.stderr:
            print("lmsteer: stopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
    finally:
        from signal import SIG_DFL, SIGINT, signal

        signal(SIGINT, SIG_DFL)


if __name__ == "__main__":
    main()
