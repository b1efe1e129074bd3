"""What is said of steers, LoRAs and prompts, put to the test on the default model.

    python -m benchmarks.claims measure DATA    every claim, or some by letter; what is there already is kept
    python -m benchmarks.claims show            print the tables, draw docs/figures/claims.svg

A method's **gain** is what texts that it has not seen become likelier by, in nats a token, at their own label times the
best scale of some; its **contrast** is half of what they are likelier by at their own label than at the opposite one,
at that scale: what it has learnt of the corpus, and not of the style, is not in that. All are trained on the same texts
for the same number of steps; where texts or prompt tokens are few, chance has a say, and there are three seeds of each,
which draw the texts of (e), what is begun with, and the order. Results go to ``results/claims.json``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure

from benchmarks.data import labelled_texts
from benchmarks.imitation import Imitation
from benchmarks.results import PICTURES, check_known, load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.claims import RANKS, SIZES, TOKENS, of_seeds
from lmsteer.baselines.baseline import Baseline, BaselineCard, Trainer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.full import FullTrainer
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.baselines.soft_prompts import SoftPromptTrainer
from lmsteer.baselines.steer import SteerBaseline, fit_steer, steer_baseline
from lmsteer.baselines.training import train
from lmsteer.data.labelled import LabelledText, read_labelled, sample_texts
from lmsteer.errors import LMSteerError
from lmsteer.export.peft import export_lora
from lmsteer.fitting.site_names import DEEP, HEAD_ALONE
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import find_steer
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.linalg import factorise
from lmsteer.util.progress import bars
from lmsteer.util.provenance import provenance_of

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "claims.json"
TEXTS, HELD_OUT, STEPS = 512, 200, 100
SCALES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
SEEDS = range(3)
# The linear layers that a trained LoRA of every layer has.
EVERYWHERE = ("layers.*.self_attn.*", "layers.*.mlp.*")
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@dataclass(frozen=True)
class Bench:
    """What every measurement is made with."""

    lm: LM
    texts: Sequence[LabelledText]
    held_out: Sequence[LabelledText]

    def card(self) -> BaselineCard:
        """Of anything that is fitted here."""
        return BaselineCard(method="claim", **provenance_of(self.lm))

    def trained(self, made: Trainer, texts: Sequence[LabelledText] | None = None, seed: int = 0) -> Baseline:
        """What is learnt in the steps that all have."""
        train(self.lm, made, texts or self.texts, TrainingBudget(steps=STEPS, seed=seed), bars())
        return made.baseline(self.card())

    def gain(self, baseline: Baseline) -> dict[str, float]:
        """Of unseen texts, at the best of the scales that the method can have; ``error`` is that of the contrast."""
        ids = self.lm.encode([text.text for text in self.held_out])
        tokens = sum(len(row) - 1 for row in ids)

        def read(scale: float) -> torch.Tensor:
            return baseline.log_likelihoods(self.lm, ids, [scale * text.label for text in self.held_out]).double()

        found: dict[float, torch.Tensor] = {}
        for scale in SCALES:
            if scale <= 1 or baseline.capabilities.continuous:  # prompts have ends
                found[scale] = read(scale)
        best = max(found, key=lambda scale: float(found[scale].sum()))
        halves = (found[best] - read(-best)) / 2
        return {
            "log_likelihood_gain": (float(found[best].sum()) - self.base) / tokens,
            "contrast": float(halves.sum()) / tokens,
            "error": float(halves.std()) * len(ids) ** 0.5 / tokens,
            "scale": best,
            "parameters": baseline.parameters,
        }

    @cached_property
    def everywhere(self) -> Steer:
        """The LoRA of every layer in closed form, at the largest rank."""
        return fit_steer(self.lm, self.texts, bars(), sites=EVERYWHERE, rank=max(RANKS)).steer

    @cached_property
    def shipped(self) -> Mix:
        """The steer that ships, which claims (a) and (b) are of."""
        return Mix({"sentiment": find_steer("sentiment")}, {"sentiment": 3.0})

    @cached_property
    def imitation(self) -> Imitation:
        """Of that steer, on the texts that all learn from."""
        ids, unseen = (self.lm.encode([text.text for text in texts]) for texts in (self.texts, self.held_out))
        return Imitation(self.lm, self.shipped, ids, unseen)

    @cached_property
    def base(self) -> float:
        """Log-likelihood of the unseen texts under the model as it comes."""
        ids = self.lm.encode([text.text for text in self.held_out])
        nothing = LoRATrainer(self.lm, "head", 1).baseline(self.card())
        return float(nothing.log_likelihoods(self.lm, ids, [0.0] * len(ids)).sum())


@app.command("measure")
def measure(data: Data, letters: Annotated[list[str] | None, typer.Argument(help="Of some claims.")] = None) -> None:
    """Every claim, or some."""
    check_known(letters, "abcdef")
    texts = read_labelled(data / "sst5_train.jsonl.gz")
    held_out = labelled_texts(data, "sst5_dev")
    bench = Bench(load(), sample_texts(texts, TEXTS, 0), sample_texts(held_out, HELD_OUT, 0))
    for key, work in _works(bench, texts).items():
        if key not in load_results(RESULTS) and (not letters or key[0] in letters):
            save_result(RESULTS, key, work())


@app.command("show")
def show() -> None:
    """Print the tables and draw the picture."""
    for name in ("claims-a", "claims-b", "claims-c", "claims-d", "claims-e"):
        print(f"{TABLES[name]()}\n")
    _draw(load_results(RESULTS))


def _works(bench: Bench, texts: Sequence[LabelledText]) -> dict[str, Callable[[], Any]]:
    """What is measured, by what it is called."""
    lm, works = bench.lm, dict[str, Callable[[], Any]]()

    def learnt(made: Callable[[], Trainer], some: Sequence[LabelledText] | None = None, seed: int = 0) -> Any:
        return bench.gain(bench.trained(made(), some, seed))

    works["a, steer and LoRA on the head"] = partial(_as_lora, bench)
    for rank in (*RANKS, lm.hidden_size):
        works[f"c, steer of rank {rank}"] = partial(_of_rank, bench, rank)
    for rank in RANKS:
        works[f"c, LoRA on the head of rank {rank}"] = partial(learnt, partial(LoRATrainer, lm, "head", rank))
        works[f"c, LoRA everywhere of rank {rank}"] = partial(learnt, partial(LoRATrainer, lm, "all", rank))
        works[f"c, one-pass LoRA everywhere of rank {rank}"] = partial(_cut, bench, rank)
        works[f"b, LoRA on the last value matrix of rank {rank}"] = partial(_imitated, bench, rank)
    works["f, full fine-tuning"] = partial(learnt, partial(FullTrainer, lm))
    for tokens in TOKENS:
        works[f"d, steer of rank {tokens}"] = partial(_of_rank, bench, tokens)
    for seed in SEEDS:
        prompt = partial(SoftPromptTrainer, lm, "prompt", seed=seed)
        lora = partial(LoRATrainer, lm, "all", seed=seed)
        for tokens in TOKENS:
            made = partial(prompt, tokens=tokens)
            works[f"d, {tokens} prompt tokens, seed {seed}"] = partial(learnt, made, seed=seed)
        for size in SIZES:
            some = sample_texts(texts, size, seed)
            works[f"e, steer from {size} texts, seed {seed}"] = partial(_from_texts, bench, some)
            deep = partial(_from_texts, bench, some, (DEEP,))
            works[f"e, steer after the middle layer from {size} texts, seed {seed}"] = deep
            works[f"e, LoRA everywhere from {size} texts, seed {seed}"] = partial(learnt, lora, some, seed)
            works[f"e, prompt tokens from {size} texts, seed {seed}"] = partial(learnt, prompt, some, seed)
    return works


def _of_rank(bench: Bench, rank: int) -> dict[str, float]:
    return bench.gain(_truncated(bench, rank))


def _from_texts(bench: Bench, texts: Sequence[LabelledText], sites: Sequence[str] = HEAD_ALONE) -> dict[str, Any]:
    try:
        return bench.gain(fit_steer(bench.lm, texts, bars(), sites=sites))
    except LMSteerError as error:  # too few to choose the damping by
        return {"failed": str(error)}


def _cut(bench: Bench, rank: int) -> dict[str, float]:
    """The LoRA in closed form, cut to the first columns of each layer, which come in the order of what they do."""
    steer = bench.everywhere
    return bench.gain(steer_baseline(replace(steer, factors={k: f[:, :rank] for k, f in steer.factors.items()})))


def _truncated(bench: Bench, rank: int) -> Baseline:
    """The closed-form steer's nearest of a rank."""
    steer = fit_steer(bench.lm, bench.texts).steer
    a, b, _ = factorise(steer.matrix(), rank)
    return SteerBaseline(replace(steer, factors={"A": a, "B": b}))


@torch.inference_mode()
def _as_lora(bench: Bench) -> dict[str, float]:
    """How far apart log-probabilities are, of a steer in flight and of its LoRA as plain PEFT loads it."""
    import peft

    lm = bench.lm
    ids = [torch.tensor([row], device=lm.device) for row in lm.encode([text.text for text in bench.held_out[:20]])]
    with lm.steered(bench.shipped):
        steered = [torch.log_softmax(lm.model(row).logits, -1) for row in ids]
    plain = [torch.log_softmax(lm.model(row).logits, -1) for row in ids]
    with tempfile.TemporaryDirectory() as folder:
        model = peft.PeftModel.from_pretrained(lm.model, str(export_lora(lm, bench.shipped, Path(folder) / "lora")))
        found = [torch.log_softmax(model(input_ids=row).logits, -1) for row in ids]
        model.unload()
    gaps = [float((one - other).abs().max()) for one, other in zip(found, steered, strict=True)]
    moved = [float((one - other).abs().max()) for one, other in zip(plain, steered, strict=True)]
    return {"largest difference, nats": max(gaps), "the steer moves by, nats": max(moved)}


def _imitated(bench: Bench, rank: int) -> dict[str, float]:
    return bench.imitation.left(rank)


CURVES: Sequence[tuple[str, Sequence[int], Mapping[str, str]]] = (
    (
        "rank",
        RANKS,
        {
            "steer": "c, steer of rank {}",
            "LoRA on the head": "c, LoRA on the head of rank {}",
            "LoRA everywhere": "c, LoRA everywhere of rank {}",
            "one-pass LoRA everywhere": "c, one-pass LoRA everywhere of rank {}",
        },
    ),
    ("prompt tokens, or rank", TOKENS, {"steer": "d, steer of rank {}", "prompt": "d, {} prompt tokens"}),
    (
        "labelled texts",
        SIZES,
        {
            "steer": "e, steer from {} texts",
            "prompt": "e, prompt tokens from {} texts",
            "LoRA everywhere": "e, LoRA everywhere from {} texts",
        },
    ),
)
COLOURS = {
    "steer": "#1f7a5a",
    "LoRA on the head": "#c98a1b",
    "LoRA everywhere": "#b4462f",
    "one-pass LoRA everywhere": "#7a4fb5",
    "prompt": "#3b6fb6",
}


def _draw(found: Mapping[str, Any]) -> None:
    """Contrast by rank, by prompt tokens, and by texts; a hollow mark where texts become less likely on the whole.

    Bars go from the least to the most of several seeds; of a single one, they are standard errors, where there are any.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    charts = figure.subplots(1, 3, sharey=True)
    for axes, (label, values, lines) in zip(charts, CURVES, strict=True):
        for name, key in lines.items():
            points = {v: some for v in values if (some := of_seeds(found, key.format(v)))}
            if not points:
                continue
            contrasts = [fmean(each["contrast"] for each in some) for some in points.values()]
            spread = [*zip(*map(_bar, points.values()), strict=True)]
            axes.errorbar([*points], contrasts, yerr=spread, color=COLOURS[name], label=name, capsize=2, linewidth=1.4)
            for value, contrast, some in zip(points, contrasts, points.values(), strict=True):
                inside = COLOURS[name] if fmean(each["log_likelihood_gain"] for each in some) > 0 else "white"
                axes.plot(value, contrast, "o", color=COLOURS[name], markersize=4, markerfacecolor=inside)
        if (full := found.get("f, full fine-tuning")) and label == "rank":
            axes.axhline(full["contrast"], color="#667085", linestyle="--", label="full fine-tuning")
        axes.axhline(0, color="#667085", linewidth=0.8)
        axes.set(xscale="log", xlabel=label)
        axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    charts[0].set_ylabel("contrast on unseen texts, nats a token")
    write_file(PICTURES / "claims.svg", render_figure(figure))


def _bar(some: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """How far a bar goes down and up."""
    contrasts = [each["contrast"] for each in some]
    if len(some) == 1:
        return (some[0].get("error", 0.0),) * 2
    return fmean(contrasts) - min(contrasts), max(contrasts) - fmean(contrasts)


if __name__ == "__main__":
    app()
