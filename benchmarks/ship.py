"""The steers that ship with the package: from those of ``benchmarks.dimensions``, with safe ranges and full cards.

    python -m benchmarks.dimensions fit DATA     fit them
    python -m benchmarks.dimensions read DATA    and read test texts
    python -m benchmarks.ship                    calibrate them, complete their cards, put them into the package

A steer ships if it holds up: simplicity does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import typer

from benchmarks.dimensions import RESULTS, WORK
from benchmarks.results import load_results
from lmsteer.data.starter import starter_prompts
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.safe_range import calibrate
from lmsteer.model.loading import load
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.lookup import SHIPPED_FOLDER
from lmsteer.util.progress import bars

# Perplexity may rise by half.
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
    results = load_results(RESULTS)
    protocol = Protocol(num_samples=2, max_new_tokens=24)
    for name, origin in ORIGINS.items():
        steer = load_steer(WORK / name)
        found = calibrate(lm, steer, starter_prompts(), max_perplexity_ratio=RATIO, protocol=protocol, progress=bars())
        data = {key: value for key, value in steer.card.data.items() if key != "source"}
        data |= {"corpus": origin.source, "licence": origin.licence}
        test = {key: round(results[name][key], 4) for key in ("sign_accuracy", "auc")} | {
            "texts": results[name]["texts"]
        }
        card = found.add_to(replace(steer.card, data=data, held_out={**steer.card.held_out, "test": test}))
        save_steer(replace(steer, card=card), SHIPPED_FOLDER / name)
        print(name, steer.rank, card.safe_range, test, flush=True)


if __name__ == "__main__":
    typer.run(main)
