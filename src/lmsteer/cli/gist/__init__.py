"""The command group ``gist``: prompts become the keys and values of a few tokens."""

from lmsteer.cli.gist import compress, evaluate, fit, generate

__all__ = ["compress", "evaluate", "fit", "generate"]
