"""analyse: where texts lie on dimensions, and the words that put them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.model.lm import LM
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.reading.platt import PlattScaling
from lmsteer.reading.position import Position, position
from lmsteer.reading.spans import Span, best_spans
from lmsteer.reading.words import Bounds, Word, encode_to_read, words_of
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress

# As far as label and habit go; where the likelihood peaks beyond, the end of the line tells enough.
STRENGTHS = tuple(k / 2 for k in range(-6, 7))


@dataclass(frozen=True)
class Dimension:
    """A text on one dimension.

    Attributes:
        position: where it lies.
        evidence: of each token, log-likelihood at +1 less that at -1, nats.
        word_evidence: of each word, its tokens' summed.
        end: evidence of the end of the text, where the model has read all of it; 0 where the tokenizer has no end.
        spans: the runs of words that speak loudest.
    """

    position: Position
    evidence: tuple[float, ...]
    word_evidence: tuple[float, ...]
    end: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Analysis:
    """A text, read.

    Attributes:
        text: the text.
        tokens: where each stands: first character, and one past the last. The end of the text is one, too.
        words: what the tokens make, the end left out.
        dimensions: by steer.
    """

    text: str
    tokens: tuple[Bounds, ...]
    words: tuple[Word, ...]
    dimensions: Mapping[str, Dimension]

    def bounds(self, span: Span) -> Bounds:
        """The characters of a span: its first, and one past its last."""
        return self.words[span.start].start, self.words[span.end - 1].end

    def span_text(self, span: Span) -> str:
        """The text of a span, on one line."""
        start, end = self.bounds(span)
        return " ".join(self.text[start:end].split())

    def to_json(self) -> dict[str, Any]:
        """The analysis as a JSON object: words and spans have the characters that they stand for."""
        return {"text": self.text, "dimensions": {name: self._dimension(d) for name, d in self.dimensions.items()}}

    def _dimension(self, dimension: Dimension) -> dict[str, Any]:
        words = [
            {"text": self.text[word.start : word.end], "start": word.start, "end": word.end, "evidence": evidence}
            for word, evidence in zip(self.words, dimension.word_evidence, strict=True)
        ]
        spans = [
            {
                "text": self.span_text(span),
                **dict(zip(("start", "end"), self.bounds(span), strict=True)),
                "evidence": span.score,
            }
            for span in dimension.spans
        ]
        return {**asdict(dimension.position), "end": dimension.end, "words": words, "spans": spans}


def analyse(
    lm: LM,
    texts: Sequence[str],
    steers: Mapping[str, Steer],
    *,
    strengths: Sequence[float] = STRENGTHS,
    spans: int = 3,
    window: int | None = None,
    progress: Progress = no_progress,
) -> list[Analysis]:
    """Read texts to their end on the dimensions of some steers.

    A text is read after the token that the model starts from, so that its first word counts.

    Args:
        lm: the steers' base.
        texts: whole texts; what exceeds the model's context is read in windows.
        steers: by name.
        strengths: to find positions among.
        spans: evidence spans a text, at most.
        window: tokens that are read at once, at most; the model's context if None.
        progress: what to tell of the work.

    Raises:
        DataError: no steer, no strengths, a text with nothing to read, or a window out of range.
        SteerError: a strength that is not a finite number.
        WrongBaseError: a steer of another base.
        ModelError: a tokenizer that cannot tell where its tokens stand.
    """
    if not steers:
        raise DataError("no steer to read the texts by.")
    if spans < 0:
        raise DataError(f"cannot find {spans} spans.")
    line = sorted({-1.0, 1.0, *map(float, strengths)}) if strengths else []
    encoded = [encode_to_read(lm, text) for text in texts]
    for number, (ids, _) in enumerate(encoded, 1):
        if not ids:
            raise DataError(f"text {number} is empty, or empty to this model's tokenizer: there is nothing to read.")
    found = steered_log_likelihoods(
        lm, [ids for ids, _ in encoded], [*steers.values()], line, window=window, progress=progress
    )
    analyses = []
    for text, (_, bounds), log_p in zip(texts, encoded, found, strict=True):
        words = words_of(text, bounds if lm.end_id is None else bounds[:-1])
        dimensions = {
            name: _dimension(lines, line, words, PlattScaling.of_figures(steer.card.held_out), spans)
            for (name, steer), lines in zip(steers.items(), log_p, strict=True)
        }
        analyses.append(Analysis(text, tuple(bounds), tuple(words), dimensions))
    return analyses


def _dimension(
    lines: Tensor, strengths: Sequence[float], words: Sequence[Word], calibration: PlattScaling | None, spans: int
) -> Dimension:
    """From log-likelihoods (S, T) of a text's tokens."""
    evidence = (lines[strengths.index(1.0)] - lines[strengths.index(-1.0)]).tolist()
    of_words = [sum(evidence[word.first : word.last]) for word in words]
    return Dimension(
        position=position(lines.double().sum(1), strengths, sum(evidence), calibration),
        evidence=tuple(evidence),
        word_evidence=tuple(of_words),
        end=sum(evidence[words[-1].last :]),
        spans=tuple(best_spans([e if w.start < w.end else 0.0 for w, e in zip(words, of_words, strict=True)], spans)),
    )
