"""The steers that ship with the package: those of labels and those of wishes, with safe ranges and full cards.

    python -m benchmarks.dimensions fit DATA     fit them
    python -m benchmarks.dimensions read DATA    and read test texts
    python -m benchmarks.wishes measure DATA     the same of wishes
    python -m benchmarks.ship                    calibrate them, complete their cards, put them into the package

A steer ships if it holds up: that of simplicity from labels does not. A wish's steer does if, in plain text and in
chats, it moves the wish's own measure by a standard deviation or more at one end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import typer

from benchmarks import wishes
from benchmarks.dimensions import RESULTS, WORK
from benchmarks.results import load_results
from benchmarks.tables.wishes import MODEL, PERPLEXITY, own_shifts, shipped_wishes
from lmsteer.data.wishes import Wish
from lmsteer.evaluation.safe_range import calibrate
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.lookup import SHIPPED_FOLDER
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import bars

# Perplexity may rise by half under a steer of labels.
RATIO = 1.5


@dataclass(frozen=True)
class Origin:
    """What a shipped steer's card tells of its data.

    Attributes:
        source: the corpus.
        licence: its licence, as far as it states one.
    """

    source: str
    licence: str


ORIGINS = {
    "sentiment": Origin(
        "Stanford Sentiment Treebank, five classes (Socher et al., 2013)", "released for research, no licence stated"
    ),
    "toxicity": Origin("ParaDetox (Logacheva et al., 2022)", "CC0-1.0"),
    "politeness": Origin(
        "Stanford Politeness Corpus, Wikipedia requests (Danescu-Niculescu-Mizil et al., 2013)",
        "annotations: none stated; text: CC BY-SA",
    ),
    "emotion": Origin("GoEmotions, nine of its emotions (Demszky et al., 2020)", "Apache-2.0"),
    "clickbait": Origin("Clickbait headlines (Chakraborty et al., 2016)", "MIT"),
}


def main() -> None:
    """Put the steers into the package."""
    lm = load()
    for name, origin in ORIGINS.items():
        _ship(_calibrated(lm, _of_labels(name, origin), RATIO))
    found = load_results(wishes.RESULTS)
    for wish in shipped_wishes(found):
        _ship(_calibrated(lm, _of_wish(found, wish), PERPLEXITY))


def _of_labels(name: str, origin: Origin) -> Steer:
    """The steer of a dimension of labelled texts, its test results on its card."""
    steer, results = load_steer(WORK / name), load_results(RESULTS)[name]
    test = {key: round(results[key], 4) for key in ("sign_accuracy", "auc")} | {"texts": results["texts"]}
    return _with(steer, origin, {**steer.card.held_out, "test": test})


def _of_wish(found: Mapping[str, Any], wish: Wish) -> Steer:
    """The steer of a wish, how far it moves its measure on its card."""
    steer = load_steer(wishes.WORK / MODEL / wish.name)
    origin = Origin("texts that the model wrote under both descriptions", "that of the model")
    return _with(steer, origin, {"measure": wish.scorer, **own_shifts(found, wish)})


def _with(steer: Steer, origin: Origin, held_out: Mapping[str, Any]) -> Steer:
    """The steer with the origin of its texts, and with its results, on its card."""
    data = {key: value for key, value in steer.card.data.items() if key != "source"}
    data |= {"corpus": origin.source, "licence": origin.licence}
    return replace(steer, card=replace(steer.card, data=data, held_out=held_out))


def _calibrated(lm: LM, steer: Steer, ratio: float) -> Steer:
    found = calibrate(lm, steer, max_perplexity_ratio=ratio, progress=bars())
    return replace(steer, card=found.add_to(steer.card))


def _ship(steer: Steer) -> None:
    save_steer(steer, SHIPPED_FOLDER / steer.card.name)
    print(steer.card.name, steer.rank, steer.card.safe_range, steer.card.held_out, flush=True)


if __name__ == "__main__":
    typer.run(main)
