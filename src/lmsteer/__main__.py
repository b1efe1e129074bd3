"""``python -m lmsteer``."""

from lmsteer.cli import main

main()
