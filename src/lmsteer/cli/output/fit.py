"""How a fit is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from lmsteer.data.labelled import FEW_TEXTS

if TYPE_CHECKING:
    from lmsteer.fitting.fit import Fit


def print_fit(out: Console, fitted: Fit, notation: str, options: str) -> None:
    """Where the steer is, what held-out texts show, and what to try next.

    Args:
        out: console.
        fitted: the fit.
        notation: the steer as it is named on the command line.
        options: ``--chat`` if the texts answer chats, and ``--model NAME`` if the model is not the default one, with a
            space before each.
    """
    held_out, card = fitted.held_out, fitted.steer.card
    out.print(f"Steer [bold]{escape(card.name)}[/] of {fitted.steer.size} saved to {escape(str(fitted.folder))}.")
    folds = card.fit.get("folds")
    read = f"In cross-validation ({folds} folds) on" if folds else "On"
    out.print(
        f"{read} {held_out.texts} {'' if folds else 'held-out '}texts: log-likelihood at their own label "
        f"{held_out.log_likelihood_gain:+.4f} nats per token, sign accuracy {held_out.sign_accuracy:.1%}."
    )
    texts = card.data["texts"]
    if texts < FEW_TEXTS:
        out.print(
            f"The steer was fitted on {texts} texts, which is few: expect about half of what thousands of texts give, "
            "and loops at large strengths. `lmsteer calibrate` measures how far it may go."
        )
    outer = 4 if texts < FEW_TEXTS else 6
    line = f"lmsteer generate 'The weather today' --steer {notation}=-{outer},0,{outer}{options}"
    out.print(f"Try: {escape(line)}", highlight=False)
