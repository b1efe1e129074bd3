"""analyse: where texts lie on style dimensions, and which words put them there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lmsteer.data.chats import AnyPrompt, Prompt, as_prompt, prompt_json
from lmsteer.data.prompts import check_not_empty
from lmsteer.errors import DataError
from lmsteer.model.codec import Bounds
from lmsteer.model.lm import LM
from lmsteer.reading.encode import encode_with_offsets
from lmsteer.reading.encoded_text import first_predicted
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.reading.position import Position, position
from lmsteer.reading.prompted import encode_after_with_offsets
from lmsteer.reading.spans import Span, best_spans
from lmsteer.reading.words import Word, words_of
from lmsteer.steer.platt import PlattScaling
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress

# Three times the labels' range. A text whose likelihood peaks beyond gets the last of them as its position.
STRENGTHS = tuple(k / 2 for k in range(-6, 7))
# Those of a steer inside the model: each costs a pass of the model.
INSIDE_STRENGTHS = tuple(map(float, range(-3, 4)))


@dataclass(frozen=True)
class Dimension:
    """A text on one dimension.

    Attributes:
        position: where the text lies.
        evidence: evidence of each token: its log-likelihood at strength +1 minus that at -1, in nats.
        word_evidence: evidence of each word: the sum over its tokens.
        end: evidence of the end-of-text token; 0 if the tokenizer has none.
        spans: the runs of words with the strongest evidence.
    """

    position: Position
    evidence: tuple[float, ...]
    word_evidence: tuple[float, ...]
    end: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Analysis:
    """A text on several dimensions.

    Attributes:
        text: the text.
        prompt: what it was read after; None if nothing stands before it.
        tokens: the characters that each token covers: its first, and one past its last. The last token is the end of
            the text, if the tokenizer has an end-of-text token; that of its turn, if the text answers a chat.
        words: the words of the text, without its end.
        dimensions: the text on each dimension, by the name of its steer.
    """

    text: str
    tokens: tuple[Bounds, ...]
    words: tuple[Word, ...]
    dimensions: Mapping[str, Dimension]
    prompt: Prompt | None = None

    def bounds(self, span: Span) -> Bounds:
        """The characters that a span covers: its first, and one past its last."""
        return self.words[span.start].start, self.words[span.end - 1].end

    def span_text(self, span: Span) -> str:
        """The text of a span, on one line."""
        start, end = self.bounds(span)
        return " ".join(self.text[start:end].split())

    def to_json(self) -> dict[str, Any]:
        """The analysis as a JSON object; words and spans carry the characters that they cover."""
        prompt = {} if self.prompt is None else {"prompt": prompt_json(self.prompt)}
        return {
            **prompt,
            "text": self.text,
            "dimensions": {name: self._dimension(d) for name, d in self.dimensions.items()},
        }

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
    prompts: Sequence[AnyPrompt | None] | None = None,
    strengths: Sequence[float] | None = None,
    spans: int = 3,
    window: int | None = None,
    chunk: int | None = None,
    progress: Progress = no_progress,
) -> list[Analysis]:
    """Read texts to their end, and find where they lie on the dimensions of some steers.

    A text is read after its prompt, or after the model's start token, so that its first word counts, too.

    Args:
        lm: the steers' base.
        texts: whole texts; a text that is longer than the model's context is read in windows.
        steers: the steers by name.
        prompts: what stands before each text and is not part of it: a text, a chat that the text answers, or None.
        strengths: the strengths among which the position of a text is found. A steer of the head reads at all of them
            in one pass of the model, one inside the model in a pass for each. By default they are -3 to 3, in steps of
            0.5 for steers of the head, in steps of 1 for those inside the model.
        spans: the most evidence spans to find in a text.
        window: the most tokens that a token is read after; the model's context if None.
        chunk: the most tokens in one pass of the model, as in ``steered_log_likelihoods``.
        progress: reports how many windows are read.

    Raises:
        DataError: no steer, no strengths, a text without tokens, another number of prompts than of texts, a chat that
            the model's template cannot write, or a window out of range.
        SteerError: a strength that is not a finite number.
        WrongBaseError: a steer of another base.
        ModelError: a tokenizer that cannot tell which characters its tokens cover.
    """
    if not steers:
        raise DataError("no steer to analyse the texts with.")
    if spans < 0:
        raise DataError(f"the number of spans must be 0 or more, not {spans}.")
    check_not_empty(texts)
    if strengths is not None and not len(strengths):
        raise DataError("no strengths to read texts at.")
    asked = None if strengths is None else sorted({-1.0, 1.0, *map(float, strengths)})
    if prompts is not None and len(prompts) != len(texts):
        raise DataError(f"there are {len(prompts)} prompts for {len(texts)} texts: give one for each, or none.")
    given = [
        as_prompt(prompt, f"prompt {number}") if prompt else None for number, prompt in enumerate(prompts or [], 1)
    ]
    encoded = [_encode(lm, text, prompt) for text, prompt in zip(texts, given or [None] * len(texts), strict=True)]
    for number, text in enumerate(encoded, 1):
        if len(text.bounds) <= text.is_ended:
            raise DataError(f"text {number} is empty, or this model's tokenizer finds no token in it.")
    ids = [text.ids for text in encoded]
    found: list[dict[str, Dimension]] = [{} for _ in encoded]
    for some, line in _divided(steers, asked):
        lines = steered_log_likelihoods(lm, ids, [*some.values()], line, window=window, chunk=chunk, progress=progress)
        for text, own, log_p in zip(encoded, found, lines, strict=True):
            own |= text.dimensions(log_p, some, line, spans)
    return [
        Analysis(text.text, tuple(text.bounds), tuple(text.words), {name: own[name] for name in steers}, text.prompt)
        for text, own in zip(encoded, found, strict=True)
    ]


def _divided(
    steers: Mapping[str, Steer], asked: Sequence[float] | None
) -> Iterator[tuple[Mapping[str, Steer], Sequence[float]]]:
    """The steers of the head alone and those inside the model, each with the strengths at which they read."""
    for is_inside, line in ((False, STRENGTHS), (True, INSIDE_STRENGTHS)):
        if some := {name: steer for name, steer in steers.items() if bool(steer.sites) is is_inside}:
            yield some, asked or line


@dataclass(frozen=True)
class _Encoded:
    """A text in tokens.

    Attributes:
        text: the text.
        prompt: what stands before it.
        ids: the ids of both.
        bounds: the characters of the text that each of its own predicted tokens covers.
        is_ended: whether the last of them is the end.
    """

    text: str
    prompt: Prompt | None
    ids: Sequence[int]
    bounds: Sequence[Bounds]
    is_ended: bool

    @cached_property
    def words(self) -> Sequence[Word]:
        """The words of the text, without its end."""
        return words_of(self.text, self.bounds[: len(self.bounds) - self.is_ended])

    def dimensions(
        self, log_p: Tensor, steers: Mapping[str, Steer], line: Sequence[float], spans: int
    ) -> dict[str, Dimension]:
        """The text on the dimensions of steers.

        Args:
            log_p: the log-likelihoods (K, S, T - 1) of all tokens but the first.
            steers: K steers by name.
            line: the strengths (S,) that it was read at, -1 and 1 among them.
            spans: the most evidence spans to find.
        """
        found = {}
        for (name, steer), lines in zip(steers.items(), log_p[..., -len(self.bounds) :].double(), strict=True):
            evidence = (lines[line.index(1.0)] - lines[line.index(-1.0)]).tolist()
            platt = PlattScaling.from_held_out(steer.card.held_out)
            place = position(lines.sum(1), line, sum(evidence), platt)
            found[name] = _dimension(evidence, place, self.words, spans)
        return found


def _encode(lm: LM, text: str, prompt: Prompt | None) -> _Encoded:
    if prompt is None:
        alone = encode_with_offsets(lm, text, start=True, end=True)
        return _Encoded(text, None, alone.ids, alone.bounds[1:], lm.end_id is not None)  # the start token has none
    ids, bounds = encode_after_with_offsets(lm, prompt, text)
    return _Encoded(text, prompt, ids, bounds[first_predicted(ids) :], ids.is_ended)


def _dimension(evidence: Sequence[float], place: Position, words: Sequence[Word], spans: int) -> Dimension:
    """A text on one dimension, from the evidence (T,) of its tokens and its position."""
    word_evidence = [sum(evidence[word.first : word.last]) for word in words]
    spoken = [e if w.start < w.end else 0.0 for w, e in zip(words, word_evidence, strict=True)]
    return Dimension(
        position=place,
        evidence=tuple(evidence),
        word_evidence=tuple(word_evidence),
        end=sum(evidence[words[-1].last :]),
        spans=tuple(best_spans(spoken, spans)),
    )
