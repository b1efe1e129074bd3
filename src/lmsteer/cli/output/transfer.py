"""How a transferred steer is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from lmsteer.steer.steer import Steer


def print_transfer(out: Console, moved: Steer, folder: Path) -> None:
    """Where the new steer is, what it was mapped by, and what labelled texts show."""
    fit, held_out = moved.card.fit, moved.card.held_out
    out.print(
        f"Steer [bold]{escape(moved.card.name)}[/] transferred to {escape(moved.card.base)} and saved to "
        f"{escape(str(folder))}: by {fit['pairs']:,} pairs of hidden states and {fit['shared_words']:,} words that "
        f"both models have. {escape(fit['from']['base'])} expects these words with a probability of "
        f"{fit['shared_frequency']:.0%}.",
        highlight=False,
    )
    if held_out:
        out.print(
            f"On {held_out['texts']} labelled texts: {held_out['log_likelihood_gain']:+.4f} nats per token at their "
            "own label."
        )
