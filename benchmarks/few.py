"""Steers of few labelled texts: what they move, against the number of texts, before and now.

    python -m benchmarks.few measure DATA    every number of texts, drawn several times; what is there already is kept
    python -m benchmarks.few show            print the table, draw docs/figures/few-texts.svg

DATA is the folder of the data files. "Before" is the fit of many texts, which holds an eighth of them out; "now" is the
one of few. Both write at the same strengths, and, since the unit of strength is another one, "before" writes at the
length of the other's W in the Fisher metric, too. 100 neutral prompts x 2 samples, 20 tokens, VADER's verdicts. Results
go to ``results/few.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure

from benchmarks.results import PICTURES, load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.few import BEFORE, BEFORE_AS_LONG, NOW, SEEDS, SIZES, UNSTEERED, of_seeds, of_size
from lmsteer.data.labelled import LabelledText, read_labelled, sample_texts
from lmsteer.data.prompts import read_texts
from lmsteer.errors import DataError
from lmsteer.evaluation.scorers.vader import Vader
from lmsteer.evaluation.strength_curve import strength_curve
from lmsteer.fitting.activation_cache import HiddenStates, open_activation_cache
from lmsteer.fitting.closed_form import Solution, solve
from lmsteer.fitting.few import LENGTH, FewTexts, solve_few
from lmsteer.fitting.statistics import Statistics
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.reading.encode_labelled import encode_readable
from lmsteer.reading.held_out import held_out_metrics
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows, to_int64_pair
from lmsteer.steer.steer import Steer
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.progress import no_progress

RESULTS = Path(__file__).parent / "results" / "few.json"
PICTURE = PICTURES / "few-texts.svg"
STRENGTHS = (-6.0, 6.0)
PROMPTS, SAMPLES, NEW_TOKENS = 100, 2, 20
READ = 250
COLOURS = {BEFORE: "#b4462f", BEFORE_AS_LONG: "#c98a1b", NOW: "#1f7a5a"}
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@app.command("measure")
def measure(data: Data, seeds: Annotated[int, typer.Option(help="Number of draws of the texts.")] = len(SEEDS)) -> None:
    """Fit, read and write with each number of texts."""
    lm = load()
    dev = sample_texts(read_labelled(data / "sst2_dev.jsonl.gz"), READ, seed=0)
    bench = Bench(
        lm,
        fisher_factors(lm),
        LabelledRows.join(list(gather_rows(lm, *encode_readable(lm, dev)))),
        read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[:PROMPTS],
    )
    if UNSTEERED not in load_results(RESULTS):
        save_result(RESULTS, UNSTEERED, bench.written({})[0])
    texts = read_labelled(data / "sst5_train.jsonl.gz")
    for seed in range(seeds):
        missing = [size for size in SIZES if of_size(size, seed) not in load_results(RESULTS)]
        if missing:
            drawn, ids = encode_readable(lm, list(_in_turn(texts, seed))[: max(SIZES)])
            states = HiddenStates(lm, ids, open_activation_cache(lm, ids))
            rows = LabelledRows.join([states.rows(number, drawn) for number in range(len(states.batches))])
        for size in missing:
            first = torch.tensor([to_int64_pair(text.digest)[1] for text in drawn[:size]])
            save_result(RESULTS, of_size(size, seed), bench.measured(rows[torch.isin(rows.digest[:, 1], first)]))


@app.command("show")
def show() -> None:
    """Print the table and draw the picture."""
    print(TABLES["few-texts"]())
    _draw(load_results(RESULTS))


@dataclass(frozen=True)
class Bench:
    """What every measurement is made with.

    Attributes:
        lm: the default model.
        fisher: its Fisher factors.
        unseen: rows of labelled texts that no fit sees.
        prompts: neutral prompts.
    """

    lm: LM
    fisher: FisherFactors
    unseen: LabelledRows
    prompts: list[str]

    def measured(self, rows: LabelledRows) -> dict[str, Any]:
        """What the steers of these rows read and write, before and now."""
        texts = FewTexts(rows)
        solutions = {NOW: solve_few(texts, texts.gradients(self.lm, no_progress), self.fisher)}
        statistics = Statistics.empty(self.lm)
        statistics.add(rows)
        with suppress(DataError):  # too few to hold some out
            solutions[BEFORE] = solve(statistics, self.fisher, self.lm.head)
            solutions[BEFORE_AS_LONG] = self._as_long(solutions[BEFORE])
        steers = {name: self._steer(solution) for name, solution in solutions.items()}
        found = {name: {"auc": held_out_metrics(self.lm.head, self.unseen, s).auc} for name, s in steers.items()}
        for name, steer in steers.items():
            found[name]["written"] = self.written({name: steer})
        return found

    def written(self, steers: Mapping[str, Steer]) -> list[dict[str, Any]]:
        """What a steer writes at both ends; what the model writes, without one."""
        strengths = [dict.fromkeys(steers, strength) for strength in (STRENGTHS if steers else (0.0,))]
        config = GenerationConfig(SAMPLES, max_new_tokens=NEW_TOKENS, score=True, batch_size=100)
        rows = list(generate(self.lm, self.prompts, steers, strengths, config))
        name = next(iter(steers), "")
        rows = rows if steers else [replace(row, strengths={name: 0.0}) for row in rows]
        return [asdict(point) for point in strength_curve(rows, name, Vader())]

    def _as_long(self, solution: Solution) -> Solution:
        """The same W at the length in the Fisher metric that W of few texts has."""
        a, b = (solution.factors[name].double() for name in "AB")
        root = (LENGTH**2 / self.fisher.inner((a, b), (a, b))) ** 0.25
        return replace(solution, factors=solution.factors | {"A": (a * root).float(), "B": (b * root).float()})

    def _steer(self, solution: Solution) -> Steer:
        vocabulary, d = self.lm.head.weight.shape
        return Steer("multiply", solution.factors, d, vocabulary, self.lm.card("few"))


def _in_turn(texts: Sequence[LabelledText], seed: int) -> Iterator[LabelledText]:
    """Positive and negative texts in turn, in an order that the seed chooses."""
    shuffled = sample_texts(texts, len(texts), seed)
    for pair in zip(*([text for text in shuffled if text.label * sign > 0] for sign in (1, -1)), strict=False):
        yield from pair


def _draw(found: Mapping[str, Any]) -> None:
    """Positive share at both ends against the number of texts: means, with bars from the least to the most."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        for end, style in ((1, "o-"), (0, "o--")):
            shares = {
                size: each
                for size in SIZES
                if (
                    each := [
                        one[name]["written"][end]["positive_share"] for one in of_seeds(found, size) if name in one
                    ]
                )
            }
            means = [100 * fmean(each) for each in shares.values()]
            bars = [[100 * (fmean(each) - min(each)) for each in shares.values()]]
            bars.append([100 * (max(each) - fmean(each)) for each in shares.values()])
            axes.errorbar([*shares], means, yerr=bars, fmt=style, color=colour, capsize=2, label=name if end else None)
    axes.axhline(100 * found[UNSTEERED]["positive_share"], color="#667085", linewidth=0.8, label="unsteered")
    axes.set(xscale="log", xlabel="labelled texts", ylabel="texts that VADER calls positive (%)", ylim=(0, 103))
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    write_file(PICTURE, render_figure(figure))


if __name__ == "__main__":
    app()
