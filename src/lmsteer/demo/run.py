"""The flow of the demo: a steer from two descriptions, one from labelled texts, the text of both, and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lmsteer.data.chats import Chat, Prompt
from lmsteer.data.contrast import Contrast
from lmsteer.data.labelled import LabelledSource
from lmsteer.data.starter import DIMENSIONS, starter_file, starter_texts
from lmsteer.demo.dial import Dial
from lmsteer.demo.report import render_report
from lmsteer.demo.terminal import print_dial
from lmsteer.evaluation.scorers import Vader
from lmsteer.evaluation.strength_curve import strength_curve
from lmsteer.fitting.contrast.config import HELD_OUT_EVERY, ContrastConfig
from lmsteer.fitting.contrast.fit import fit_contrast
from lmsteer.fitting.fit import fit
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import Continuation, generate
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.steer import Steer
from lmsteer.util.files import write_file
from lmsteer.util.progress import bars

WORDS, LABELS = "mood", "sentiment"
POSITIVE, NEGATIVE = "delighted, enthusiastic, full of praise", "disappointed, annoyed, full of complaint"
STRENGTHS = (-3.0, -1.5, 0.0, 1.5, 3.0)
REQUESTS = (
    "Tell me about the film that you saw last night.",
    "Describe the first week at a new job in two sentences.",
    "Write a message to a colleague who came late.",
    "Describe a dinner with friends in two sentences.",
)
PROMPTS = (
    "The weather this morning was",
    "I went to the new restaurant and",
    "My first week at the office was",
    "We watched the film last night and it was",
    "Our trip to the coast turned out",
    "The hotel room was",
)
# Likelier words than the published protocol draws (0.9): a small model wanders off less.
_SAMPLING = SamplingConfig(top_p=0.7)
_SAMPLES, _MAX_NEW_TOKENS = 4, 32


@dataclass(frozen=True)
class Demo:
    """The results of the demo.

    Attributes:
        words: the steer from two descriptions.
        labels: the steer from labelled texts.
        report: file of the report.
    """

    words: Dial
    labels: Dial
    report: Path


@dataclass(frozen=True)
class _Size:
    """How much the demo does: with ``--quick``, little of all."""

    texts: int | None
    prompts: int
    samples: int
    written: int


_FULL, _QUICK = _Size(None, len(PROMPTS), _SAMPLES, ContrastConfig.texts), _Size(200, 2, 1, HELD_OUT_EVERY)


def run(model: str, out: Path, *, quick: bool = False, console: Console | None = None) -> Demo:
    """Make two steers, one from two descriptions and one from labelled texts, show what they do, and write a report.

    Args:
        model: name of the model.
        out: folder of the steers and of ``report.html``.
        quick: use fewer texts and samples, to see whether everything runs.
        console: console to print on; standard output by default.
    """
    console = console or Console()
    lm, size = load(model), _QUICK if quick else _FULL
    words = _from_words(lm, out / WORDS, size)
    print_dial(console, words)
    labels = _from_labels(lm, out / LABELS, size)
    print_dial(console, labels)
    report = out / "report.html"
    write_file(report, render_report(lm, words, labels))
    console.print(f"\nThe report: [bold]{report}[/]")
    return Demo(words, labels, report)


def _from_words(lm: LM, folder: Path, size: _Size) -> Dial:
    """The steer from two descriptions, which answers requests where the model has a chat template."""
    started = time.monotonic()
    contrast = Contrast.of_descriptions(POSITIVE, NEGATIVE)
    config = ContrastConfig(texts=size.written)
    fitted = fit_contrast(lm, contrast, name=WORDS, out=folder, config=config, progress=bars())
    seconds = time.monotonic() - started
    answered = [Chat.of_user(request) for request in REQUESTS[: size.prompts]] if lm.tokenizer.chat_template else []
    return _dial(lm, fitted.steer, folder, seconds, answered, size)


def _from_labels(lm: LM, folder: Path, size: _Size) -> Dial:
    """The steer from the labelled starter texts."""
    started = time.monotonic()
    fitted = fit(
        lm,
        starter_texts(LABELS)[: size.texts],
        name=LABELS,
        label=DIMENSIONS[LABELS],
        source=LabelledSource(str(starter_file(LABELS))),
        out=folder,
        progress=bars(),
    )
    return _dial(lm, fitted.steer, folder, time.monotonic() - started, [], size)


def _dial(lm: LM, steer: Steer, folder: Path, seconds: float, answered: Sequence[Prompt], size: _Size) -> Dial:
    """What a steer does: prompts are continued to measure it, and shown if there are no requests to answer."""
    name = steer.card.name
    settings = [{name: strength} for strength in STRENGTHS]

    def written(prompts: Sequence[Prompt], samples: int) -> list[Continuation]:
        config = GenerationConfig(samples, _MAX_NEW_TOKENS, _SAMPLING, score=True)
        return list(generate(lm, prompts, {name: steer}, settings, config, progress=bars()))

    continued = written(PROMPTS[: size.prompts], size.samples)
    shown = written(answered, 1) if answered else [each for each in continued if each.sample == 0]
    return Dial(steer, folder, seconds, shown, strength_curve(continued, name, Vader()))
