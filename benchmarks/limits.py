"""The limits of a token, beside sampling that is greedier: score, perplexity, variety and loops of the shipped steer.

    python -m benchmarks.limits write DATA    continuations under every limit and sampling, scored; or under some
    python -m benchmarks.limits show          print the table

DATA is the folder of the data files. What is done already is kept. Results go to ``results/limits.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.results import check_known, save_result
from benchmarks.tables.limits import limits
from benchmarks.written import Writer
from lmsteer.data.chats import Prompt
from lmsteer.data.prompts import read_texts
from lmsteer.evaluation.conditions import Condition, Steered, Unsteered
from lmsteer.generation.config import GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.generate import Continuation
from lmsteer.generation.prefill import Prefill
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import find_steer

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "limits.json", HERE / "results" / "work" / "limits"
# The last ones: no setting was chosen on them.
PROMPTS = slice(800, 1000)
# Texts long enough to loop.
PROTOCOL = GenerationConfig(num_samples=1, max_new_tokens=40, batch_size=128)
STRENGTHS = (-10.0, -6.0, -4.0, 0.0, 4.0, 6.0, 10.0)
LIMITS = {
    "plain": Limits(),
    "plausible 0.01": Limits(0.01),
    "plausible 0.05": Limits(0.05),
    "plausible 0.1": Limits(0.1),
    "fresh 20": Limits(fresh=20),
    "kl 0.5": Limits(kl=0.5),
    "kl 1": Limits(kl=1.0),
    "kl 2": Limits(kl=2.0),
    "fresh 20, kl 1": Limits(fresh=20, kl=1.0),
    "plausible 0.01, fresh 20, kl 1": Limits(0.01, 20, 1.0),
    "plausible 0.05, fresh 20, kl 1": Limits(0.05, 20, 1.0),
}
TOP_PS = {f"top-p {top_p:g}": top_p for top_p in (0.8, 0.7, 0.5)}
MIN_PS = {f"min-p {min_p:g}": min_p for min_p in (0.02, 0.05, 0.1)}
app = typer.Typer(add_completion=False)


@app.command("write")
def write_all(
    data: Annotated[Path, typer.Argument(help="Folder of the data files.")],
    names: Annotated[list[str] | None, typer.Argument(help="Of some limits and samplings.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Number of prompts (default: all 200).")] = None,
    results: Annotated[Path, typer.Option(help="File of the results.")] = RESULTS,
) -> None:
    """Continuations under every limit and sampling, or under some, at every strength."""
    everything = [*LIMITS, *TOP_PS, *MIN_PS]
    check_known(names, everything)
    lm, texts = load(), read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[PROMPTS][:prompts]
    for name in names or everything:
        sampling = SamplingConfig(TOP_PS.get(name, PROTOCOL.sampling.top_p))
        config = replace(PROTOCOL, sampling=sampling, limits=LIMITS.get(name, LIMITS["plain"]))
        writer = Writer(lm, texts, config, WORK / "rows")
        for condition in conditions(name):
            save_result(results, condition.name, writer.figures(condition))


def conditions(name: str) -> Iterator[Condition]:
    """The steer at all strengths under a limit or sampling; without a steer where that would change something."""
    steer, share = find_steer("sentiment"), MIN_PS.get(name, 0.0)
    acts_on_steers_alone = name in LIMITS and name != "plain" and not LIMITS[name].plausible
    for strength in STRENGTHS:
        label = (f"{name}, {strength:+g}", name, strength)
        if share:
            yield MinP(*label, {"sentiment": steer}, {"sentiment": strength}, share)
        elif strength:
            yield Steered(*label, {"sentiment": steer}, {"sentiment": strength})
        elif not acts_on_steers_alone:
            yield Unsteered(*label)


@dataclass(frozen=True)
class MinP(Steered):
    """Only tokens that the steered model gives at least a share of its highest probability are drawn.

    Attributes:
        share: the share.
    """

    share: float

    def continuations(
        self, lm: LM, prompts: Sequence[Prompt], prefill: Prefill, config: GenerationConfig
    ) -> Iterator[Continuation]:
        """Continue prompts; the head gives minus infinity for the other tokens."""

        def rule_out(_: torch.nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
            least = logits.amax(-1, keepdim=True) + torch.tensor(self.share).log() / lm.head.scale
            return logits.masked_fill(logits < least, -torch.inf)

        with lm.head.module.register_forward_hook(rule_out):
            yield from super().continuations(lm, prompts, prefill, config)


@app.command("show")
def show() -> None:
    """Print the table."""
    print(limits())


if __name__ == "__main__":
    app()
