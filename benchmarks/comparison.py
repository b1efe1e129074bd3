"""Every method beside the others on real data: what ``lmsteer compare`` finds of two dimensions.

    python -m benchmarks.comparison measure DATA    both, or one by name; continues where it was stopped
    python -m benchmarks.comparison add DATA NAME METHOD    one method, beside those of a dimension; with --search, its
                                                            learning rate and steps are searched on held-out texts
    python -m benchmarks.comparison show            print the tables, draw docs/figures/compare-*.svg

DATA is the folder of the data files. Every method learns from the same 2,048 texts, in 100 steps if it is trained, and
continues the same prompts. Perplexity is that of another model than the one that generates, whose terms have to be
accepted. Results go to ``results/comparison.json``, reports to ``results/work/comparison``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.dimensions import DIMENSIONS
from benchmarks.pareto import HERE, PERPLEXITY_MODEL, SENTIMENT, TOXICITY, Data
from benchmarks.results import PICTURES, check_known, load_results, save_result
from benchmarks.tables import TABLES
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.methods import METHODS
from lmsteer.data.labelled import LabelledSource
from lmsteer.data.prompts import read_texts
from lmsteer.evaluation.compare.config import ComparisonConfig
from lmsteer.evaluation.compare.report import attribute_charts, write_report
from lmsteer.evaluation.compare.results import Comparison, MethodResult
from lmsteer.evaluation.compare.run import compare
from lmsteer.evaluation.metadata import comparison_metadata
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.scorers import scorer
from lmsteer.model.sources.resolve import DEFAULT_MODEL
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.progress import bars

RESULTS, WORK = HERE / "results" / "comparison.json", HERE / "results" / "work" / "comparison"
TEXTS, STEPS, PROMPTS, SAMPLES = 2048, 100, 20, 5
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Case:
    """A dimension, by the name of its scorer and its data.

    Attributes:
        prompts: their file, without ``.jsonl.gz``.
        instructions: for the -1 end and the +1 end.
    """

    prompts: str
    instructions: tuple[str, str]


CASES = {"sentiment": Case("prompts_sentiment_neutral", SENTIMENT), "toxicity": Case("prompts_toxic", TOXICITY)}


@app.command("measure")
def measure(data: Data, names: Annotated[list[str] | None, typer.Argument(help="Of dimensions.")] = None) -> None:
    """All methods, on each dimension."""
    check_known(names, CASES)
    for name in names or CASES:
        config = _config(data, name)
        comparison = compare(config, [*METHODS], WORK / name, bars())
        metadata = comparison_metadata(config, TEXTS, scorer(name))
        metadata |= {"texts": f"{TEXTS} labelled texts of {DIMENSIONS[name].train}"}
        write_report(WORK / name, comparison, metadata)
        save_result(RESULTS, name, {"metadata": metadata, **comparison.to_json()})


@app.command("add")
def add(
    data: Data, name: Annotated[str, typer.Argument()], method: Annotated[str, typer.Argument()], search: bool = False
) -> None:
    """A method beside those that were measured, or in place of its own result."""
    check_known([name], CASES)
    check_known([method], METHODS)
    record = load_results(RESULTS)[name]
    folder = WORK / f"{name}-{method}{'-searched' * search}"
    (more,) = compare(_config(data, name, search), [method], folder, bars()).methods
    known = [MethodResult.from_json(each) for each in record["methods"] if each["method"] != method]
    place = next((k for k, each in enumerate(known) if [*METHODS].index(each.method) > [*METHODS].index(method)), None)
    known.insert(len(known) if place is None else place, more)
    save_result(RESULTS, name, {**record, **Comparison(known, record["failures"]).to_json()})


@app.command("show")
def show() -> None:
    """Print the tables and draw the pictures."""
    for name, record in load_results(RESULTS).items():
        print(f"{TABLES[f'comparison-{name}']()}\n")
        methods = [MethodResult.from_json(each) for each in record["methods"]]
        write_file(PICTURES / f"compare-{name}.svg", render_figure(attribute_charts(methods, DIMENSIONS[name].label)))


def _config(data: Path, name: str, search: bool = False) -> ComparisonConfig:
    case = CASES[name]
    source = LabelledSource(str(data / f"{DIMENSIONS[name].train}.jsonl.gz"), limit=TEXTS)
    prompts = read_texts(data / f"{case.prompts}.jsonl.gz")[:PROMPTS]
    return ComparisonConfig(
        DEFAULT_MODEL,
        source,
        prompts,
        name,
        PERPLEXITY_MODEL,
        TrainingBudget(STEPS, search=search),
        Protocol(SAMPLES),
        instructions=case.instructions,
    )


if __name__ == "__main__":
    app()
