"""The command ``compare``: several methods, fitted on the same texts and measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.cli import options
from lmsteer.cli.app import app, note, stdout, warn
from lmsteer.cli.output.common import print_json
from lmsteer.data.labelled import LabelledSource, check_labelled
from lmsteer.data.labels import parse_label_map
from lmsteer.data.prompts import read_prompts
from lmsteer.data.starter import starter_prompts, starter_requests
from lmsteer.errors import DataError
from lmsteer.evaluation.compare.config import ComparisonConfig
from lmsteer.evaluation.compare.methods import select_methods
from lmsteer.evaluation.protocol import COMPARISON_SAMPLES, MAX_NEW_TOKENS, Protocol
from lmsteer.evaluation.scorers.named import check_scorer
from lmsteer.util.progress import bars

Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of all results, and of report.html.")]
Methods = Annotated[str | None, typer.Option(help="Names of methods, separated by commas (default: all that can run).")]
MaxSeconds = Annotated[
    float | None,
    typer.Option(callback=options.more_than(0), help="Maximum seconds of each training (default: no maximum)."),
]
Search = Annotated[
    bool,
    typer.Option(
        "--search",
        help="Train at four learning rates, and choose the rate and the number of steps on held-out texts. Takes four "
        "to six times as long.",
    ),
]
TrainSizes = Annotated[str, typer.Option(help="Numbers of texts to fit on as well, such as 8,32,128 (default: none).")]


@app.command()
def compare(
    data: options.LabelledData,
    out: Out,
    methods: Methods = None,
    negative_prompt: options.NegativePrompt = "",
    positive_prompt: options.PositivePrompt = "",
    prompts: options.PromptsFile = None,
    chat: options.AsChat = False,
    system: options.System = None,
    scorer: options.Scorer = "sentiment",
    perplexity_model: options.PerplexityModel = None,
    steps: Annotated[int, typer.Option(min=1, help="Maximum number of optimizer steps of each training.")] = 200,
    max_seconds: MaxSeconds = None,
    search: Search = False,
    num_samples: options.NumSamples = COMPARISON_SAMPLES,
    max_new_tokens: options.MaxNewTokens = MAX_NEW_TOKENS,
    train_sizes: TrainSizes = "",
    num_seeds: Annotated[int, typer.Option(min=1, help="Number of random subsets for each of --train-sizes.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny settings, to see whether everything runs.")] = False,
    limit: options.Limit = None,
    seed: options.Seed = options.DEFAULTS.seed,
    text_column: options.TextColumn = "text",
    label_column: options.LabelColumn = "label",
    label_map: options.LabelMap = None,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Fit several methods on the same texts, and measure what each of them does and costs.

    The same command continues a comparison that was stopped. The methods prompting and gist need --negative-prompt and
    --positive-prompt; they are left out otherwise.

    Example: lmsteer compare texts.jsonl --methods steer,lora,activations --out comparison
    """
    mapping = parse_label_map(label_map) if label_map else None
    source = LabelledSource(data, text_column, label_column, mapping, limit=limit, seed=seed)
    texts = source.read(warn)
    check_labelled(texts, data)
    sizes = _train_sizes(train_sizes, len(texts))
    instructions = _instructions(negative_prompt, positive_prompt)
    chosen = select_methods(None if methods is None else methods.split(","), with_instructions=instructions is not None)
    neutral = starter_requests if chat else starter_prompts
    given = read_prompts(prompts) if prompts else neutral()[: options.NEUTRAL_PROMPTS]
    read = options.answered(given, chat=chat, system=system)
    check_scorer(scorer)
    budget = TrainingBudget(steps, max_seconds, seed=seed, search=search)
    protocol = Protocol(num_samples, max_new_tokens, seed=seed)
    config = ComparisonConfig(
        model, source, read, scorer, perplexity_model, budget, protocol, sizes, num_seeds, instructions
    )
    config = config.quick() if quick else config
    config.run(out).check_folder()

    from lmsteer.cli.output.comparison import print_comparison
    from lmsteer.evaluation.compare.report import write_report
    from lmsteer.evaluation.compare.run import compare as run
    from lmsteer.evaluation.metadata import comparison_metadata

    metadata = comparison_metadata(config, len(texts), lmsteer.scorer(scorer))
    comparison = run(config, chosen, out, progress=bars())
    write_report(out, comparison, metadata)
    note(f"Report and results written to {out}.")
    print_json({"metadata": metadata, **comparison.to_json()}) if as_json else print_comparison(stdout, comparison)


def _instructions(negative_prompt: str, positive_prompt: str) -> tuple[str, str] | None:
    if bool(negative_prompt) != bool(positive_prompt):
        raise DataError("--negative-prompt and --positive-prompt are the instructions of the two ends: give both.")
    return (negative_prompt, positive_prompt) if negative_prompt else None


def _train_sizes(notation: str, texts: int) -> list[int]:
    try:
        sizes = [int(part) for part in notation.split(",") if part.strip()]
    except ValueError as error:
        raise DataError(f"--train-sizes are numbers of texts, such as 8,32,128, not {notation!r}.") from error
    if any(size < 2 for size in sizes):
        raise DataError("--train-sizes are two texts or more.")
    if max(sizes, default=0) > texts:
        raise DataError(f"--train-sizes go up to {max(sizes)}; there are {texts} texts.")
    return sizes
