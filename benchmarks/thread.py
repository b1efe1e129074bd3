"""One style prompt, four ways: as itself, as a gist, as a steer, and as a LoRA that is trained to imitate it.

    python -m benchmarks.thread fit      the steers, LoRAs and trained tokens
    python -m benchmarks.thread write    how far each way is from the prompted model, and what it writes
    python -m benchmarks.thread show     print the tables

What is fitted sees texts about some subjects; divergences are measured on texts that the prompted model writes about
others, and continuations answer requests that nothing was fitted or chosen on. What is done already is kept. Results go
to ``results/thread.json``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer

from benchmarks.prompted import Answers
from benchmarks.results import check_known, load_results, save_result
from benchmarks.tables.thread import strengths, thread, together
from benchmarks.written import Writer
from lmsteer.baselines.baseline import BaselineCard, Trainer
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.baselines.methods import load_baseline, save_baseline
from lmsteer.baselines.soft_prompts import SoftPromptTrainer
from lmsteer.data.chats import Chat, Prompt
from lmsteer.data.contrast import Contrast
from lmsteer.data.starter import starter_requests, starter_subjects
from lmsteer.evaluation.conditions import BaselineCondition, Condition, Prefixed, Steered, Unsteered
from lmsteer.fitting.contrast.config import ContrastConfig
from lmsteer.fitting.contrast.fit import fit_contrast
from lmsteer.fitting.site_names import HEAD_ALONE
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.prefill import Prefill
from lmsteer.gist import SHIPPED
from lmsteer.gist.adapter import GistAdapter, find_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.examples import input_text, prompt_ids
from lmsteer.gist.generation import gist_prefill
from lmsteer.gist.gist import Gist
from lmsteer.model.chat import encode_chat
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import load_steer
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths
from lmsteer.util.progress import bars
from lmsteer.util.provenance import provenance_of

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "thread.json", HERE / "results" / "work" / "thread"
PROMPTS = {
    "style": "You are cold and bitter. Answer with complaints about everything.",
    "other": "Speak of the sea, of ships and of sailors in every sentence.",
}
# Whether an answer follows the second one.
SEA = re.compile(r"\b(seas?|oceans?|waves?|ships?|boats?|sail\w*|harbou?rs?|captains?|crew|decks?)\b", re.IGNORECASE)
SUBJECTS = starter_subjects()
SEEN, UNSEEN = SUBJECTS[:45], SUBJECTS[45:]
TEXTS = GenerationConfig(num_samples=2, max_new_tokens=40)
PROTOCOL = GenerationConfig(num_samples=1, max_new_tokens=30, batch_size=80)
STEPS, BATCH = 40, 6
STRENGTHS = (-1.0, 0.5, 1.0, 2.0)
TOKENS = (1, 10)
# Steers of the style that act inside the model: their sites, by name.
INSIDE = {
    "layer-25": ("layers.25",),
    "three-layers": ("layers.15", "layers.20", "layers.25", "head"),
    "seven-layers": (*(f"layers.{layer}" for layer in range(9, 30, 3)), "head"),
    "six-loras": ("lora",),
}
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Compressed(Condition):
    """A gist stands before a request, in the layout that its adapter knows, or before the whole chat.

    Attributes:
        gist: the gist of the prompt.
        adapter: the adapter that made it.
        is_before_chat: whether the request is written by the chat template.
    """

    gist: Gist
    adapter: GistAdapter
    is_before_chat: bool

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the adapter, and the layout; the gist's prompt is in the name."""
        return f"{self.adapter.fingerprint} {self.is_before_chat}"

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start at the requests after the gist."""
        chats = [prompt for prompt in prompts if isinstance(prompt, Chat)]
        if self.is_before_chat:
            ids = [encode_chat(lm.codec, chat) for chat in chats]
        else:
            ids = lm.encode([input_text(chat.messages[-1].content) for chat in chats], special=False)
        return gist_prefill(lm, self.adapter, [self.gist] * len(ids), ids)


@dataclass(frozen=True)
class Beside(Condition):
    """A way, and a steer beside it.

    Attributes:
        way: the way.
        steer: the steer at its strength.
    """

    way: Condition
    steer: Condition

    @property
    def steering(self) -> tuple[Mapping[str, Steer], Strengths]:
        """The steers of both."""
        (steers, strengths), (more, own) = self.way.steering, self.steer.steering
        return {**steers, **more}, {**strengths, **own}

    @property
    def fingerprint(self) -> str:
        """The fingerprints of both."""
        return f"{self.way.fingerprint} {self.steer.fingerprint}"

    def prefill(self, lm: LM, prompts: Sequence[Prompt], new_tokens: int) -> Prefill:
        """Start where the way starts."""
        return self.way.prefill(lm, prompts, new_tokens)


@app.command("fit")
def fit_all(names: Annotated[list[str] | None, typer.Argument(help="Some of them.")] = None) -> None:
    """What is fitted or trained, or some of it."""
    lm = load()
    works: dict[str, Callable[[], None]] = {}
    for name, prompt in PROMPTS.items():
        works[f"steer-{name}"] = partial(_fit_steer, lm, name, prompt)
    for name, sites in INSIDE.items():
        works[f"steer-{name}"] = partial(_fit_steer, lm, name, PROMPTS["style"], sites)
    works["lora-style"] = partial(_train, lm, "lora-style", PROMPTS["style"], lambda: LoRATrainer(lm, "all"))
    for tokens in TOKENS:
        works[f"tokens-{tokens}"] = partial(
            _train, lm, f"tokens-{tokens}", PROMPTS["style"], partial(_soft_prompt, lm, tokens)
        )
    check_known(names, works)
    for name in names or works:
        if not (WORK / name).exists():
            works[name]()


@app.command("write")
def write_all(names: Annotated[list[str] | None, typer.Argument(help="Of some conditions.")] = None) -> None:
    """Divergences and continuations of every way whose parts are fitted, or of some."""
    lm = load()
    save_result(RESULTS, "sizes", {**load_results(RESULTS).get("sizes", {}), **sizes(lm)})
    writer = Writer(lm, [Chat.of_user(request) for request in starter_requests()], PROTOCOL, WORK / "rows")
    answers = _answers(lm, PROMPTS["style"], UNSEEN)
    wanted = answers.states(_prompt("style"))
    for condition in conditions(lm):
        if condition.name in load_results(RESULTS) or (names and condition.name not in names):
            continue
        left, rows = answers.divergence(wanted, answers.states(condition)), writer.rows(condition)
        of_sea = fmean(bool(SEA.search(row.text)) for row in rows)
        save_result(RESULTS, condition.name, {**writer.figures(condition), "divergence": left, "sea": of_sea})


@app.command("show")
def show() -> None:
    """Print the tables."""
    for table in (thread, strengths, together):
        print(table(), end="\n\n")


def conditions(lm: LM) -> Iterator[Condition]:
    """Every way alone, at its strengths, and with another one or a steer beside it."""
    prompt, gist = _prompt("style"), _gist(lm, "gist", PROMPTS["style"], is_before_chat=False)
    yield from (Unsteered(), prompt, gist)
    inside = [name for name in INSIDE if (WORK / f"steer-{name}").exists()]
    yield from (_steer(name, strength) for name in inside for strength in (1.0, 2.0))
    if not ((WORK / "steer-style").exists() and (WORK / "steer-other").exists()):
        return
    yield from (_steer("style", strength) for strength in STRENGTHS)
    second = _steer("other", 1.0)
    yield from (_prompt("other"), second)
    yield Beside("steer & steer", "together", 1.0, _steer("style", 1.0), second)
    yield Prefixed("prompt & prompt", "together", 1.0, f"{PROMPTS['other']} ", prompt)
    yield _gist(lm, "gist of both", " ".join(PROMPTS.values()), is_before_chat=False)
    yield from (Beside(f"{way.name} & steer", "together", 1.0, way, second) for way in (prompt, gist))
    yield _gist(lm, "gist before the chat", PROMPTS["style"], is_before_chat=True)
    if (WORK / "lora-style").exists():
        yield from (_baseline("lora-style", strength) for strength in STRENGTHS)
        lora = _baseline("lora-style", 1.0)
        yield Beside(f"{lora.name} & steer", "together", 1.0, lora, second)
    yield from (_baseline(name, 1.0) for name in map("tokens-{}".format, TOKENS) if (WORK / name).exists())


def sizes(lm: LM) -> dict[str, Any]:
    """Bytes that are kept of each way, and tokens that it takes of the context."""
    (prompt,) = lm.encode([PROMPTS["style"]], special=False)
    (gist,) = compress(lm, find_adapter(SHIPPED), prompt_ids(lm, [PROMPTS["style"]]))
    per_token = gist.bytes // gist.tokens
    found = {
        "prompt": {"bytes": per_token * len(prompt), "context": len(prompt)},
        "gist": {"bytes": gist.bytes, "context": gist.tokens},
        **{f"steer-{name}": {"bytes": _bytes(name)} for name in INSIDE if (WORK / f"steer-{name}").exists()},
    }
    if (WORK / "steer-style").exists():
        found["steer"] = {"bytes": _bytes("style")}
    if (WORK / "lora-style").exists():
        found["lora"] = {"bytes": load_baseline(WORK / "lora-style").bytes}
    return found | {f"tokens-{tokens}": {"bytes": per_token * tokens, "context": tokens} for tokens in TOKENS}


def _bytes(name: str) -> int:
    factors = load_steer(WORK / f"steer-{name}").factors.values()
    return sum(factor.numel() * factor.element_size() for factor in factors)


def _prompt(name: str) -> Condition:
    return Prefixed("prompt" if name == "style" else f"prompt, {name}", "prompt", 1.0, PROMPTS[name], Unsteered())


def _steer(name: str, strength: float) -> Condition:
    steer = load_steer(WORK / f"steer-{name}")
    label = "steer" if name == "style" else f"steer, {name}"
    return Steered(f"{label}={strength:+g}", label, strength, {name: steer}, {name: strength})


def _baseline(name: str, strength: float) -> Condition:
    return BaselineCondition(f"{name}={strength:+g}", name, strength, load_baseline(WORK / name))


def _gist(lm: LM, name: str, prompt: str, *, is_before_chat: bool) -> Condition:
    adapter = find_adapter(SHIPPED)
    (gist,) = compress(lm, adapter, prompt_ids(lm, [prompt]))
    return Compressed(name, "gist", 1.0, gist, adapter, is_before_chat)


def _answers(lm: LM, prompt: str, subjects: Sequence[str]) -> Answers:
    """Texts that the prompted model writes about subjects, and the requests without the prompt."""
    chats = [Contrast.of_prompt(prompt).chat("", subject) for subject in subjects]
    written = [*generate(lm, [chat.instructed(prompt) for chat in chats], config=TEXTS)]
    ids = lm.encode([row.text for row in written], special=False)
    asked = [chat for chat in chats for _ in range(TEXTS.num_samples)]
    kept = [place for place, each in enumerate(ids) if each]
    return Answers(lm, [asked[place] for place in kept], [ids[place] for place in kept])


def _fit_steer(lm: LM, name: str, prompt: str, sites: Sequence[str] = HEAD_ALONE) -> None:
    contrast, config, out = Contrast.of_prompt(prompt), ContrastConfig(sites=sites), WORK / f"steer-{name}"
    fitted = fit_contrast(lm, contrast, name=name, subjects=SEEN, out=out, config=config, progress=bars())
    save_result(RESULTS, f"fit of steer-{name}", fitted.steer.card.fit)


def _train(lm: LM, name: str, prompt: str, make: Callable[[], Trainer]) -> None:
    """Train a method to imitate the prompted model."""
    answers, trainer = _answers(lm, prompt, SEEN), make()
    wanted = answers.states(Prefixed("prompt", "prompt", 1.0, prompt, Unsteered()))
    answers.teach(trainer, wanted, STEPS, BATCH, bars())
    method = "lora" if name.startswith("lora") else "prompt-tuning"
    save_baseline(trainer.baseline(BaselineCard(method=method, **provenance_of(lm))), WORK / name)


def _soft_prompt(lm: LM, tokens: int) -> SoftPromptTrainer:
    """Tokens before the text, which begin as the first of the prompt."""
    trainer = SoftPromptTrainer(lm, "prompt", tokens)
    ids = (lm.encode([PROMPTS["style"]], special=False)[0] * tokens)[:tokens]
    embedding: Any = lm.model.get_input_embeddings()
    with torch.no_grad():
        for end in trainer.trainable():
            end.copy_(embedding(torch.tensor(ids, device=lm.device)))
    return trainer


if __name__ == "__main__":
    app()
