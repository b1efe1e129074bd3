"""Texts on the page, their tokens tinted by what a steer reads in them."""

from __future__ import annotations

from dataclasses import dataclass

from lmsteer.generation.readings import TokenReading
from lmsteer.serving.http.submission import Choice
from lmsteer.serving.http.web.assets import render

# Evidence in nats that has the darkest tint.
_DARKEST = 2.0
# The square root keeps weak evidence visible.
_POWER = 0.5


@dataclass(frozen=True)
class _Piece:
    """What one token adds to the text, as it is shown.

    Attributes:
        space: the white space that it begins with, which has no tint.
        text: the rest.
        side: ``above`` or ``below``, by the sign of the evidence.
        shade: how dark the tint is, from 0 to 1.
        tip: what is shown where somebody points at it.
    """

    space: str
    text: str
    side: str
    shade: float
    tip: str


def tinted_text(title: str, prompt: str, choice: Choice, steer: str | None) -> str:
    """HTML of a prompt and its continuation so far.

    Args:
        title: the heading.
        prompt: the prompt.
        choice: the continuation.
        steer: the steer whose evidence tints it, which the request has asked for; None for no tint.
    """
    if steer is None:
        pieces = [_Piece("", choice.text, "", 0, "")]
        return render("tinted.html", title=title, prompt=prompt, pieces=pieces, figures="")
    pieces = [_piece(reading, steer) for reading in choice.readings if reading.text]
    return render("tinted.html", title=title, prompt=prompt, pieces=pieces, figures=_figures(choice, steer))


def legend(steer: str, label: str) -> str:
    """HTML of what the colours mean.

    Args:
        steer: the steer whose evidence they are.
        label: what its positive end stands for.
    """
    return render("legend.html", name=steer, what=label or steer, most=f"{_DARKEST:g}")


def _piece(reading: TokenReading, steer: str) -> _Piece:
    evidence = reading.evidence[steer]
    lines = [
        f"{steer} {evidence:+.2f} nats (so far {reading.total_evidence[steer]:+.2f})",
        f"log p {reading.log_p:.2f}, unsteered {reading.unsteered_log_p:.2f}",
        f"divergence {reading.kl:.2f} nats",
    ]
    if reading.scale < 1:
        lines.append(f"strengths scaled to {reading.scale:.0%}")
    shade = min(abs(evidence) / _DARKEST, 1.0) ** _POWER
    text = reading.text.lstrip()
    space = reading.text[: len(reading.text) - len(text)]
    return _Piece(space, text, "below" if evidence < 0 else "above", shade, "\n".join(lines) if text else "")


def _figures(choice: Choice, steer: str) -> str:
    """The evidence of the whole text, and its divergence from the unsteered model."""
    if not choice.readings:
        return ""
    total = choice.readings[-1].total_evidence[steer]
    divergence = sum(reading.kl for reading in choice.readings) / len(choice.readings)
    return f"{steer} {total:+.1f} nats; mean divergence {divergence:.2f} nats a token"
