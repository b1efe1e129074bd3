"""Analyses as an HTML page: texts with their words shaded by evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmsteer.reading.analyse import Analysis, Dimension
from lmsteer.reading.spans import Span
from lmsteer.steer.steer import Steer
from lmsteer.util.html import render_template

# The least evidence of a word that gets the darkest shade, so that a text with little evidence stays pale.
_DARKEST = 1.0


@dataclass(frozen=True)
class ShadedWord:
    """A word as it is shown.

    Attributes:
        before: the text between the word before and this one.
        text: the word; empty for a token that is white space.
        evidence: the evidence of the word, in nats.
        shade: the shade, from 0 to 1.
        span: ``above`` or ``below`` in an evidence span, by the sign of its evidence; else empty.
        continues: whether the word before belongs to the same span.
    """

    before: str
    text: str
    evidence: float
    shade: float
    span: str
    continues: bool


def render_analyses(analyses: Sequence[Analysis], steers: Mapping[str, Steer]) -> str:
    """One self-contained HTML page; ``steers`` are those of the analyses."""
    strengths = next((d.position.strengths for a in analyses for d in a.dimensions.values()), (0.0,))
    texts = [[_shown(a, name, steers[name].card.label, d) for name, d in a.dimensions.items()] for a in analyses]
    return render_template("analysis.html", names=list(steers), texts=texts, low=strengths[0], high=strengths[-1])


def shaded_words(analysis: Analysis, dimension: Dimension) -> Iterator[ShadedWord]:
    """The words of a text in order, with the text between them."""
    strongest = max([_DARKEST, *map(abs, dimension.word_evidence)])
    done = 0
    for number, (word, evidence) in enumerate(zip(analysis.words, dimension.word_evidence, strict=True)):
        before, text = analysis.text[done : word.start], analysis.text[word.start : word.end]
        span = next((span for span in dimension.spans if span.start <= number < span.end), None)
        continues = span is not None and span.start < number
        yield ShadedWord(before, text, evidence, abs(evidence) / strongest, _side(span), continues)
        done = max(done, word.end)


def _shown(analysis: Analysis, name: str, label: str, dimension: Dimension) -> dict[str, Any]:
    position = dimension.position
    highest = max(position.shares)
    return {
        "name": name,
        "label": label,
        "position": position,
        "bars": [(s, share / highest) for s, share in zip(position.strengths, position.shares, strict=True)],
        "pieces": list(shaded_words(analysis, dimension)),
        "rest": analysis.text[analysis.words[-1].end :],
        "end": dimension.end,
        "spans": [{"score": span.score, "text": analysis.span_text(span)} for span in dimension.spans],
    }


def _side(span: Span | None) -> str:
    return "" if span is None else "below" if span.score < 0 else "above"
