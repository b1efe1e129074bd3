"""How well evidence points at the words that matter, for the sentiment steer of ``benchmarks.dimensions``.

    python -m benchmarks.evidence DATA

Planted: sentences of nothing in particular, with one word that says something. Rationales: words of SST-2 test
sentences that are themselves labelled phrases of ``sst2_phrases_train``. Results go to ``results/evidence.json``.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import torch
import typer

from benchmarks.dimensions import WORK
from benchmarks.results import replace_results
from lmsteer.data.labelled import read_labelled
from lmsteer.model.loading import load
from lmsteer.reading.analyse import Analysis, analyse
from lmsteer.reading.platt import auc
from lmsteer.steer.files import load_steer
from lmsteer.util.progress import bars

RESULTS = Path(__file__).parent / "results" / "evidence.json"
CARRIERS = (
    "We spent a {} afternoon at the station.",
    "The letter about the meeting was {} and two pages long.",
    "On Tuesday the committee met for a {} talk on parking.",
    "My cousin moved into a {} flat near the river.",
    "They served a {} soup before the lecture began.",
    "The second chapter is {} and covers the years after the war.",
    "He drove a {} car to the office every morning.",
    "It was a {} film about a family in the north.",
    "The clerk gave a {} answer to the question about the form.",
    "She read a {} report on the water supply.",
)
PLEASANT = (
    "wonderful",
    "delightful",
    "brilliant",
    "charming",
    "excellent",
    "lovely",
    "superb",
    "delicious",
    "beautiful",
)
UNPLEASANT = ("awful", "dreadful", "boring", "horrible", "terrible", "dull", "disgusting", "miserable", "tedious")
WORDS = {1: PLEASANT, -1: UNPLEASANT}


def main(data: Path) -> None:
    """Measure and print."""
    lm, steers = load(), {"sentiment": load_steer(WORK / "sentiment")}
    planted = [(carrier, word, sign) for sign, words in WORDS.items() for carrier, word in product(CARRIERS, words)]
    found = analyse(lm, [carrier.format(word) for carrier, word, _ in planted], steers, progress=bars())
    hits = [_hits(analysis, word, sign) for analysis, (_, word, sign) in zip(found, planted, strict=True)]
    lexicon = {
        text.text.strip().lower(): text.label
        for text in read_labelled(data / "sst2_phrases_train.jsonl.gz")
        if len(text.text.split()) == 1
    }
    test = [text.text for text in read_labelled(data / "sst2_test.jsonl.gz")]
    words = [each for analysis in analyse(lm, test, steers, progress=bars()) for each in _words(analysis)]
    pairs = torch.tensor([(evidence, lexicon[word]) for word, evidence in words if word in lexicon])
    results = {
        "planted": len(planted),
        "in the first span": sum(first for first, _ in hits) / len(hits),
        "in one of three": sum(any_ for _, any_ in hits) / len(hits),
        "rationales": len(pairs),
        "auc": auc(pairs[:, 0], pairs[:, 1] > 0),
        "sign_accuracy": float((pairs[:, 0].sign() == pairs[:, 1].sign()).float().mean()),
    }
    replace_results(RESULTS, results)
    print(json.dumps(results, indent=1))


def _hits(analysis: Analysis, word: str, sign: int) -> tuple[bool, bool]:
    """Whether the loudest span, and whether any, has the planted word in it and speaks for its side."""
    spans = sorted(analysis.dimensions["sentiment"].spans, key=lambda span: -abs(span.score))
    right = [
        span.score * sign > 0
        and word in [analysis.text[w.start : w.end] for w in analysis.words[span.start : span.end]]
        for span in spans
    ]
    return bool(right) and right[0], any(right)


def _words(analysis: Analysis) -> list[tuple[str, float]]:
    """Words of a text in small letters, with their evidence."""
    evidence = analysis.dimensions["sentiment"].word_evidence
    return [(analysis.text[w.start : w.end].lower(), e) for w, e in zip(analysis.words, evidence, strict=True)]


if __name__ == "__main__":
    typer.run(main)
