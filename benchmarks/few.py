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
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure

from benchmarks.results import PICTURES, check_known, load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.few import BEFORE, BEFORE_AS_LONG, NOW, SEEDS, SIZES, UNSTEERED, WAYS, of_draw, shares_of
from lmsteer.data.labelled import LabelledText, read_labelled, sample_texts
from lmsteer.data.prompts import read_texts
from lmsteer.errors import DataError
from lmsteer.evaluation.scorers.vader import Vader
from lmsteer.evaluation.strength_curve import strength_curve
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
from lmsteer.reading.rows import LabelledRows
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
def measure(
    data: Data,
    size: Annotated[list[int] | None, typer.Option(help="Number of texts; all by default.")] = None,
    way: Annotated[list[str] | None, typer.Option(help="Way of the fit; all by default.")] = None,
) -> None:
    """Fit, read and write with each number of texts."""
    check_known(size, SIZES)
    check_known(way, WAYS)
    lm = load()
    dev = sample_texts(read_labelled(data / "sst2_dev.jsonl.gz"), READ, seed=0)
    unseen = LabelledRows.join(list(gather_rows(lm, *encode_readable(lm, dev))))
    prompts = read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[:PROMPTS]
    bench = Bench(lm, fisher_factors(lm), unseen, prompts)
    if UNSTEERED not in load_results(RESULTS):
        save_result(RESULTS, UNSTEERED, bench.written({})[0])
    texts = read_labelled(data / "sst5_train.jsonl.gz")
    for seed, count, one in product(SEEDS, size or SIZES, way or WAYS):
        if (key := of_draw(one, count, seed)) not in load_results(RESULTS):
            drawn = list(islice(_in_turn(texts, seed), count))
            rows = LabelledRows.join(list(gather_rows(lm, *encode_readable(lm, drawn))))
            save_result(RESULTS, key, bench.measured(one, rows))


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

    def measured(self, way: str, rows: LabelledRows) -> dict[str, Any]:
        """What the steer of these rows reads and writes; nothing if the way refuses them."""
        try:
            steer = self._steer(self._solved(way, rows))
        except DataError as error:
            return {"refused": str(error)}
        auc = held_out_metrics(self.lm.head, self.unseen, steer).auc
        return {"auc": auc, "written": self.written({way: steer})}

    def _solved(self, way: str, rows: LabelledRows) -> Solution:
        if way == NOW:
            texts = FewTexts(rows)
            return solve_few(texts, texts.gradients(self.lm, no_progress), self.fisher)
        statistics = Statistics.empty(self.lm)
        statistics.add(rows)
        solution = solve(statistics, self.fisher, self.lm.head)
        return self._as_long(solution) if way == BEFORE_AS_LONG else solution

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
            shares = {size: shares_of(found, name, size, end) for size in SIZES}
            shares = {size: each for size, each in shares.items() if each}
            means = [fmean(each) for each in shares.values()]
            bars = [[mean - min(each) for mean, each in zip(means, shares.values(), strict=True)]]
            bars.append([max(each) - mean for mean, each in zip(means, shares.values(), strict=True)])
            axes.errorbar([*shares], means, yerr=bars, fmt=style, color=colour, capsize=2, label=name if end else None)
    axes.axhline(100 * found[UNSTEERED]["positive_share"], color="#667085", linewidth=0.8, label="unsteered")
    axes.set(xscale="log", xlabel="labelled texts", ylabel="texts that VADER calls positive (%)", ylim=(0, 103))
    axes.set_title("strength +6 (solid lines) and -6 (dashed)", fontsize=9)
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    write_file(PICTURE, render_figure(figure))


if __name__ == "__main__":
    app()
