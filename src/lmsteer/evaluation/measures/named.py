"""Measures of style by name: what they count, and in what unit.

They are rough, but nobody has fitted them on anything, and a reader can check each by hand. A text without words has 0
of everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from lmsteer.evaluation.measures.counts import occurrences, sentences, syllables, words

# Nouns and other words of a formal register, by their endings.
_FORMAL_ENDING = re.compile(r"\w{3}(?:tions?|sions?|ments?|ity|ities|ances?|ences?|ism)$")
_CONTRACTION = re.compile(r"(?:n't|'(?:m|re|ve|ll|d))$|^(?:it|that|there|he|she|what|who|let|here)'s$")


@dataclass(frozen=True)
class Measure:
    """A number for each text.

    Attributes:
        name: the name by which ``scorer`` finds it.
        unit: what is counted, in words.
        of: gives a text its number.
    """

    name: str
    unit: str
    of: Callable[[str], float]


def _per_100(count: Callable[[str], int], text: str) -> float:
    return 100 * count(text) / max(len(words(text)), 1)


def words_a_sentence(text: str) -> float:
    """Mean number of words of a sentence."""
    return len(words(text)) / max(len(sentences(text)), 1)


def reading_grade(text: str) -> float:
    """The US school grade of Flesch and Kincaid (1975), with syllables counted by their vowels."""
    own = words(text)
    if not own:
        return 0.0
    return 0.39 * words_a_sentence(text) + 11.8 * sum(map(syllables, own)) / len(own) - 15.59


def questions(text: str) -> float:
    """Share of the sentences that end with a question mark, in percent."""
    own = sentences(text)
    return 100 * sum(sentence.rstrip("\"')]”").endswith("?") for sentence in own) / max(len(own), 1)


def _formality(text: str) -> int:
    """Formal words and endings, less contractions, pronouns of a dialogue, informal words and exclamation marks."""
    own = words(text)
    formal = occurrences(text, "formal") + sum(bool(_FORMAL_ENDING.search(word)) for word in own)
    contractions = sum(bool(_CONTRACTION.search(word)) for word in own)
    return formal - contractions - occurrences(text, "informal", "first-person", "second-person") - text.count("!")


def _certainty(text: str) -> int:
    return occurrences(text, "certainty") - occurrences(text, "hedges")


def _line_breaks(text: str) -> int:
    return max(sum(bool(line.strip()) for line in text.split("\n")) - 1, 0)


def affect(text: str) -> float:
    """Share of a text that VADER (Hutto and Gilbert, 2014) rates positive, less the negative share, in percent."""
    rated = _vader().polarity_scores(text)
    return 100 * (rated["pos"] - rated["neg"])


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def _listed(*lists: str) -> Callable[[str], float]:
    return partial(_per_100, lambda text: occurrences(text, *lists))


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("words", "words", lambda text: len(words(text))),
        Measure("words-a-sentence", "words a sentence", words_a_sentence),
        Measure("reading-grade", "US school grade (Flesch-Kincaid)", reading_grade),
        Measure("formality", "formal less informal marks, per 100 words", partial(_per_100, _formality)),
        Measure("certainty", "words of certainty less hedges, per 100 words", partial(_per_100, _certainty)),
        Measure("affect", "positive less negative words (VADER), %", affect),
        Measure("first-person", "words for I and we, per 100 words", _listed("first-person")),
        Measure("questions", "% of the sentences that are questions", questions),
        Measure("line-breaks", "line breaks, per 100 words", partial(_per_100, _line_breaks)),
        Measure("cliches", "stock phrases, per 100 words", _listed("cliches")),
        Measure("english", "English function words, per 100 words", _listed("function-words")),
    )
}
