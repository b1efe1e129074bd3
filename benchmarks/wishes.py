"""Wishes: a steer of each, and what it moves: all measures of style, in plain text and in chats.

    python -m benchmarks.wishes measure DATA          every wish that has no results yet, or some by name
    python -m benchmarks.wishes show                  print the tables, draw docs/figures/wishes.svg

DATA is a folder of ``prompts_sentiment_neutral.jsonl.gz``. Each wish is fitted from its words (``fit_contrast``; kept
in results/work/wishes, so that a stopped run continues), calibrated to at most 1.2 times the perplexity of unsteered
text on prompts of its own, and measured at both ends of that range on others. Beside it stands what the model writes
when it is asked for the style in words. All measures are in standard deviations of single unsteered texts. Results go
to ``results/wishes.json``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from benchmarks.results import check_known, load_results, save_result
from benchmarks.tables.wishes import LOOPS, PERPLEXITY, chat, plain, unsteered_key, wish_key
from benchmarks.wishes_picture import PICTURE, draw
from lmsteer.data.chats import AnyPrompt, Chat
from lmsteer.data.prompts import read_texts
from lmsteer.data.starter import starter_prompts, starter_requests, starter_subjects
from lmsteer.data.wishes import Wish, find_wish, wishes
from lmsteer.evaluation.measures import MEASURES
from lmsteer.evaluation.metrics import rep_3
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.safe_range import calibrate
from lmsteer.fitting.contrast.fit import fit_contrast
from lmsteer.generation.generate import generate, perplexity
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import load_steer
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import bars

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "wishes.json", HERE / "results" / "work" / "wishes"
# Texts that are kept to be looked at.
SAMPLES = 5
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the prompts.")]
Names = Annotated[list[str] | None, typer.Argument(help="Of some wishes.")]
Model = Annotated[str, typer.Option(help="Model that follows instructions.")]


@dataclass(frozen=True)
class Kind:
    """A kind of text.

    Attributes:
        name: of ``KINDS``.
        calibrated: the prompts that the range of strengths is chosen on.
        measured: the prompts that are measured on.
        new_tokens: the length of a text in tokens, at most.
    """

    name: str
    calibrated: Sequence[AnyPrompt]
    measured: Sequence[str]
    new_tokens: int

    def prompt(self, text: str, style: str) -> str | Chat:
        """What is continued or answered; with a style in words, if there is one, as an instruction."""
        if self.name == "plain":
            return f"{style}\n\n{text}" if style else text
        return Chat.of_user(f"{text}\nStyle: {style}." if style else text)


def kinds(data: Path, lm: LM) -> list[Kind]:
    """The kinds of text that a model writes: plain text, and chats if it has a chat template."""
    prompts = read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[:60]
    plain_text = Kind("plain", starter_prompts()[::2], prompts, 40)
    if not lm.tokenizer.chat_template:
        return [plain_text]
    chats = [Chat.of_user(f"Tell me about {subject}.") for subject in starter_subjects()[::2]]
    return [plain_text, Kind("chat", chats, starter_requests(), 60)]


@dataclass(frozen=True)
class Bench:
    """The model, and what is measured of a kind of its texts."""

    lm: LM
    kind: Kind

    def written(self, style: str = "", steer: Steer | None = None, strength: float = 0.0) -> dict[str, Any]:
        """What is measured of texts that the model writes, asked for a style in words, or under a steer.

        The log-likelihood is a mean over tokens, under the unsteered model, after the same prompts.
        """
        config = replace(Protocol(1, self.kind.new_tokens).generation_config(), score=True)
        prompts = [self.kind.prompt(text, style) for text in self.kind.measured]
        steers, strengths = ({"s": steer}, {"s": strength}) if steer else ({}, {})
        rows = list(generate(self.lm, prompts, steers, [strengths], config, progress=bars()))
        texts = [row.text for row in rows]
        values = {name: [measure.of(text) for text in texts] for name, measure in MEASURES.items()}
        return {
            "means": {name: round(fmean(own), 4) for name, own in values.items()},
            "deviations": {name: round(stdev(own), 4) for name, own in values.items()},
            "log_likelihood": round(-math.log(perplexity(rows)), 4),
            "looping": round(fmean(rep_3(text) > LOOPS for text in texts), 4),
            "samples": texts[:SAMPLES],
        }

    def measured(self, wish: Wish, steer: Steer) -> dict[str, Any]:
        """What the steer of a wish does at both ends, and what its words do."""
        found = calibrate(self.lm, steer, self.kind.calibrated, max_perplexity_ratio=PERPLEXITY, progress=bars())
        ends = {"negative": (found.low, wish.negative), "positive": (found.high, wish.positive)}
        return {
            end: {
                "strength": strength,
                "steered": self.written(steer=steer, strength=strength),
                "asked": self.written(style),
            }
            for end, (strength, style) in ends.items()
        }


@app.command("measure")
def measure(data: Data, names: Names = None, model: Model = "smollm2") -> None:
    """Fit and measure every wish, or some."""
    known = [wish.name for wish in wishes()]
    check_known(names, known)
    lm, found = load(model), load_results(RESULTS)
    benches = [Bench(lm, kind) for kind in kinds(data, lm)]
    for bench in benches:
        if (key := unsteered_key(model, bench.kind.name)) not in found:
            save_result(RESULTS, key, bench.written())
    for name in names or known:
        if not all(wish_key(model, bench.kind.name, name) in found for bench in benches):
            wish = find_wish(name)
            steer = _steer(lm, wish, model)
            for bench in benches:
                if (key := wish_key(model, bench.kind.name, name)) not in found:
                    save_result(RESULTS, key, bench.measured(wish, steer))


def _steer(lm: LM, wish: Wish, model: str) -> Steer:
    """The steer of a wish, fitted unless it was before."""
    folder = WORK / model / wish.name
    if not folder.exists():
        started = time.perf_counter()
        fitted = fit_contrast(lm, wish.contrast, name=wish.name, label=wish.label, out=folder, progress=bars())
        figures = {
            "seconds": round(time.perf_counter() - started, 1),
            "divergence": round(fitted.imitation.between, 4),
            "share": round(fitted.imitation.share, 4),
        }
        save_result(RESULTS, f"{model}, fit, {wish.name}", figures)
    return load_steer(folder)


@app.command("show")
def show() -> None:
    """Print the tables, draw the picture."""
    for table in (plain, chat):
        print(table(), end="\n\n")
    draw(load_results(RESULTS))
    print(PICTURE)


if __name__ == "__main__":
    app()
