"""Sentiment from two sentences, beside its rivals: positive share against perplexity, loops and variety.

    python -m benchmarks.contrast fit           the steer, and the direction of its texts
    python -m benchmarks.contrast write DATA    continuations of every method at its strengths, scored; or of some
    python -m benchmarks.contrast show          print the table, draw contrast.svg

DATA is the folder of the data files. What is done already is kept. Results go to ``results/contrast.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.results import PICTURES, check_known, load_results, save_result
from benchmarks.tables.contrast import NAMES, contrast
from benchmarks.written import Writer, draw_shares
from lmsteer.baselines.methods import fit_baseline, load_baseline, save_baseline
from lmsteer.data.chats import Prompt
from lmsteer.data.contrast import Contrast
from lmsteer.data.labelled import LabelledText, read_labelled
from lmsteer.data.prompts import read_texts
from lmsteer.data.starter import starter_subjects
from lmsteer.evaluation.conditions import BaselineCondition, Condition, Steered, Unsteered
from lmsteer.evaluation.ensembles import Context, Ensemble, Greedier
from lmsteer.fitting.contrast.config import ContrastConfig
from lmsteer.fitting.contrast.fit import fit_contrast
from lmsteer.fitting.contrast.prompts import contrast_prompts
from lmsteer.fitting.contrast.writing import write_texts
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.prefill import Prefill
from lmsteer.model.chat import encode_chat
from lmsteer.model.kv_cache import Start, prefill, slice_kv
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import find_steer, load_steer
from lmsteer.steer.steer import Steer
from lmsteer.util.files import write_jsonl
from lmsteer.util.progress import bars

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "contrast.json", HERE / "results" / "work" / "contrast"
CONTRAST = Contrast.of_descriptions("warm, delighted, full of praise", "cold, bitter, full of complaint")
# The last ones: docs/log.md says which trials saw some of them.
PROMPTS = slice(800, 1000)
PROTOCOL = GenerationConfig(num_samples=3, max_new_tokens=20, batch_size=128)
# Where the steer acts that acts inside the model, too.
SITES = ("deep",)
# Of these, the steers of each; each has the strength.
STEERS = {
    "steer": ("steer",),
    "inside": ("inside",),
    "shipped": ("shipped",),
    "both": ("steer", "shipped"),
    "inside and shipped": ("inside", "shipped"),
}
OURS = ("steer", "inside", "both", "inside and shipped")
# Rivals continue each prompt once.
RIVALS = GenerationConfig(num_samples=1, max_new_tokens=20, batch_size=128)
STRENGTHS = {
    "steer": (2.0, 3.0, 4.0),
    "inside": (3.0, 4.0),
    "shipped": (4.0, 6.0),
    "both": (2.0,),
    "inside and shipped": (2.0,),
    "activations": (4.0,),
    "prompt": (1.0,),
    "token": (1.0,),
    "guidance": (2.0,),
    "greedier": (0.0,),
}
# What the picture leaves out: guidance lies far to the right of all else, and greedier text moves nothing.
_NOT_DRAWN = ("fit", "guidance", "greedier")
# Of the greedier text.
TOP_P = 0.5
app = typer.Typer(add_completion=False)


@app.command("fit")
def fit_all() -> None:
    """The steer, and the direction of the texts that it was fitted on."""
    lm, config = load(), ContrastConfig()
    if not (out := WORK / "steer").exists():
        fitted = fit_contrast(lm, CONTRAST, name="warmth", out=out, config=config, progress=bars())
        save_result(RESULTS, "fit", fitted.steer.card.fit)
    if not (out := WORK / "inside").exists():
        inside = replace(config, sites=SITES)
        fitted = fit_contrast(lm, CONTRAST, name="warmth", out=out, config=inside, progress=bars())
        save_result(RESULTS, "fit inside", fitted.steer.card.fit)
    prompts = contrast_prompts(lm, CONTRAST, starter_subjects(), config.new_tokens)
    if not (file := WORK / "texts.jsonl").exists():
        written = write_texts(lm, prompts, config, bars())
        write_jsonl(file, [{"text": lm.codec.decode(each.ids), "label": each.end} for each in written])
    texts = read_labelled(file)
    if not (out := WORK / "activations").exists():
        save_baseline(fit_baseline(lm, "activations", _not_empty(texts)), out)


@app.command("write")
def write_all(
    data: Annotated[Path, typer.Argument(help="Folder of the data files.")],
    names: Annotated[list[str] | None, typer.Argument(help="Of some methods.")] = None,
) -> None:
    """Continuations of every method at its strengths, or of some."""
    check_known(names, NAMES)
    lm = load()
    prompts = read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[PROMPTS]
    ours, rivals = (Writer(lm, prompts, config, WORK / "rows") for config in (PROTOCOL, RIVALS))
    save_result(RESULTS, "unsteered", ours.figures(Unsteered()))
    for name in names or NAMES:
        for condition in conditions(lm, name):
            save_result(RESULTS, condition.name, (ours if name in OURS else rivals).figures(condition))


@app.command("show")
def show() -> None:
    """Print the table and draw the picture."""
    print(contrast())
    found = [each for name, each in load_results(RESULTS).items() if not name.startswith(_NOT_DRAWN)]
    draw_shares(found, PICTURES / "contrast.svg")


def conditions(lm: LM, name: str) -> Iterator[Condition]:
    """A method at all of its strengths, in both directions."""
    instructed = [asked(lm, words) for words in (CONTRAST.positive, CONTRAST.negative)]
    for strength in sorted({sign * size for size in STRENGTHS[name] for sign in (-1, 1)}):
        label = (f"{name}={strength:+g}", NAMES[name], strength)
        if name in STEERS:
            steers = {each: _steer(each) for each in STEERS[name]}
            yield Steered(*label, steers, dict.fromkeys(steers, strength))
        elif name == "activations":
            yield BaselineCondition(*label, load_baseline(WORK / name))
        elif name == "greedier":
            yield Greedier(name, NAMES[name], 0.0, TOP_P)
        else:
            yield (
                Asked(*label, instructed)
                if name == "prompt"
                else Ensemble(*label, contexts(name, strength, instructed))
            )


def _steer(name: str) -> Steer:
    return find_steer("sentiment") if name == "shipped" else load_steer(WORK / name)


def asked(lm: LM, instruction: str) -> list[int]:
    """The ids of a conversation that asks for a text with an instruction, whose answer begins with the prompt."""
    return encode_chat(lm.codec, CONTRAST.chat(instruction, "everyday life"))


@dataclass(frozen=True)
class Asked(Condition):
    """The instruction of one end stands before the prompt.

    Attributes:
        instructed: ids before the prompt, for the +1 end and for the -1 end.
    """

    instructed: Sequence[Sequence[int]]

    @cached_property
    def fingerprint(self) -> str:
        """The ids that stand before the prompt."""
        return json.dumps([type(self).__name__, self.instructed])

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start at the prompts after the instruction of the end that ``strength`` lies at."""
        return Prefill(_after(lm, self.instructed[self.strength < 0], prompts))


@dataclass(frozen=True)
class AfterIds(Context):
    """Ids stand before plain prompts, and are read once.

    Attributes:
        ids: the ids; none if empty.
    """

    ids: Sequence[int] = ()

    @property
    def fingerprint(self) -> str:
        """The ids."""
        return json.dumps([*self.ids])

    def starts(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> list[Start]:
        """The prompts after the ids."""
        if not self.ids:
            return [Start(own) for own in lm.encode([*map(str, prompts)], special=False)]
        return _after(lm, self.ids, prompts)


def contexts(name: str, strength: float, instructed: Sequence[Sequence[int]]) -> Sequence[Context]:
    """The contexts of a rival at decoding time.

    Args:
        name: ``token`` (contrastive prompting) or ``guidance``.
        strength: its strength.
        instructed: ids before the prompt, for the +1 end and for the -1 end.
    """
    positive, negative = instructed
    if name == "guidance":
        size = abs(strength)
        return (AfterIds(1.0 - size), AfterIds(size, positive if strength > 0 else negative))
    return (AfterIds(1.0), AfterIds(strength, positive), AfterIds(-strength, negative))


def _after(lm: LM, before: Sequence[int], prompts: Sequence[Prompt]) -> list[Start]:
    """Prompts, plain texts, after some ids, which are read once."""
    ids = torch.tensor([[*before]], device=lm.device)
    cache = prefill(lm, ids, torch.ones_like(ids), torch.arange(len(before), device=lm.device)[None])
    kept = slice_kv(cache, 0, len(before))
    return [Start(own, kept, len(before)) for own in lm.encode([*map(str, prompts)], special=False)]


def _not_empty(texts: Sequence[LabelledText]) -> list[LabelledText]:
    return [text for text in texts if text.text.strip()]


if __name__ == "__main__":
    app()
