"""The command that puts methods beside each other: compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli.app import AsJson, LabelMap, Model, app, stderr, stdout
from lmsteer.errors import LMSteerError
from lmsteer.model.sources.resolve import DEFAULT_MODEL

# Of --quick: steps and texts of each, prompts, continuations a prompt; and no looks at fewer texts.
_QUICK = (5, 4, 2, 2)


@app.command()
def compare(
    data: Annotated[str, typer.Argument(help="Labelled texts: JSONL, CSV, Parquet or a Hub dataset.")],
    out: Annotated[Path, typer.Option(help="Folder of everything that is kept, and of report.html.")],
    methods: Annotated[str | None, typer.Option(help="Names with commas between; all if not given.")] = None,
    low: Annotated[str, typer.Option(help="Instruction towards -1, for prompting and gist.")] = "",
    high: Annotated[str, typer.Option(help="Instruction towards +1, for prompting and gist.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="Prompts; twenty neutral ones if not given.")] = None,
    scorer: Annotated[str, typer.Option(help="Judge of the attribute, or hf:MODEL=CLASS.")] = "sentiment",
    judge: Annotated[str | None, typer.Option(help="Model whose perplexity is told; --model if not given.")] = None,
    steps: Annotated[int, typer.Option(help="Of every training, at most.")] = 200,
    budget: Annotated[float | None, typer.Option(help="Seconds of every training, at most.")] = None,
    n: Annotated[int, typer.Option(help="Continuations a prompt.")] = 5,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a continuation.")] = 20,
    sizes: Annotated[str, typer.Option(help="Numbers of texts to fit on as well, like 8,32,128,512,2048.")] = "",
    seeds: Annotated[int, typer.Option(help="Draws of the texts at each of those.")] = 1,
    quick: Annotated[bool, typer.Option(help="Tiny settings: whether everything runs, not how good it is.")] = False,
    limit: Annotated[int | None, typer.Option(help="Draw so many of the texts.")] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    text_column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    label_map: LabelMap = None,
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Fit methods on the same texts and measure what each does, costs and needs; goes on where it was stopped.

    Example: lmsteer compare texts.jsonl --methods steer,lora,activations --out comparison
    """
    from lmsteer.baselines.methods import INSTRUCTION_BASED, METHODS
    from lmsteer.baselines.training import TrainingBudget
    from lmsteer.cli import output as printing
    from lmsteer.data.labelled import LabelledSource, check_labelled, parse_label_map
    from lmsteer.data.prompts import read_prompts
    from lmsteer.data.starter import starter_prompts
    from lmsteer.evaluation.compare.report import about, comparison_report
    from lmsteer.evaluation.compare.run import compare as run
    from lmsteer.evaluation.compare.worker import ComparisonConfig
    from lmsteer.evaluation.protocol import Protocol
    from lmsteer.evaluation.scorers import scorer as named
    from lmsteer.util.files import write_file
    from lmsteer.util.progress import bars

    mapping = parse_label_map(label_map) if label_map else None
    source = LabelledSource(data, text_column, label_column, mapping, limit=limit, seed=seed)
    texts = source.read()
    check_labelled(texts, data)
    prompts = read_prompts(file) if file else starter_prompts()[:20]
    protocol, training = Protocol(n, max_new_tokens, seed=seed), TrainingBudget(steps, budget, seed=seed)
    numbers = _sizes(sizes)
    if max(numbers, default=0) > len(texts):
        raise LMSteerError(f"--sizes go up to {max(numbers)}; there are {len(texts)} texts.")
    if quick:
        steps, batch, count, n = _QUICK
        prompts, numbers = prompts[:count], []
        protocol, training = replace(protocol, num_samples=n), replace(training, steps=steps, batch=batch)
    judging = named(scorer)
    words = (low, high) if low and high else None
    plan = ComparisonConfig(model, source, prompts, scorer, judge, training, protocol, numbers, seeds, words)
    chosen = [name.strip() for name in methods.split(",")] if methods else [*METHODS]
    if words is None:
        worded = [name for name in chosen if name in INSTRUCTION_BASED]
        if worded and methods:
            raise LMSteerError(f"the method {worded[0]} needs --low and --high, an instruction for each end.")
        chosen = [name for name in chosen if name not in INSTRUCTION_BASED]
    found = run(plan, chosen, out, progress=bars())
    told = about(plan, len(texts), judging)
    write_file(out / "report.html", comparison_report(found, told))
    stderr.print(f"Report and figures written to {out}.", markup=False)
    if as_json:
        printing.as_json(printing.comparison_as_json(found, told))
    else:
        printing.comparison(stdout, found)


def _sizes(notation: str) -> list[int]:
    try:
        found = [int(part) for part in notation.split(",") if part.strip()]
    except ValueError as error:
        raise LMSteerError(f"--sizes are numbers of texts, like 8,32,128, not {notation!r}.") from error
    if any(number < 2 for number in found):
        raise LMSteerError("--sizes are two texts or more.")
    return found
