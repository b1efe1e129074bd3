"""The command ``evaluate``: what steers do to continuations of prompts, in numbers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, note, stdout
from lmsteer.cli.output.common import print_json
from lmsteer.cli.steering import parse_steering
from lmsteer.data.prompts import read_prompts
from lmsteer.errors import DataError
from lmsteer.evaluation.protocol import MAX_NEW_TOKENS, NUM_SAMPLES, TOP_P, Protocol
from lmsteer.evaluation.run_config import evaluation_run, known_config
from lmsteer.evaluation.scorers.named import check_scorer
from lmsteer.generation.config import Limits
from lmsteer.model.sources.lookup import locate
from lmsteer.util.progress import bars


class Baseline(StrEnum):
    """What can be measured beside steers."""

    PROMPTING = "prompting"
    WORDS = "words"
    BEST_OF_N = "best-of-n"
    CONTRASTIVE_PROMPTING = "contrastive-prompting"
    GUIDANCE = "guidance"
    GREEDIER = "greedier"


# Those that need an instruction for each end.
_INSTRUCTED = {Baseline.PROMPTING, Baseline.CONTRASTIVE_PROMPTING, Baseline.GUIDANCE}


Steer = Annotated[
    list[str],
    typer.Option(
        metavar="STEER=S1,S2,..",
        help="Steer and the strengths to measure it at. Repeatable; baselines belong to the first one.",
    ),
]
Out = Annotated[
    Path, typer.Option(metavar="FOLDER", help="Folder of continuations, results, report.html and curves.svg.")
]
BaselineOption = Annotated[
    list[Baseline] | None,
    typer.Option(help="Baseline to measure as well. Repeatable."),
]


@app.command()
def evaluate(
    prompts: Annotated[
        Path, typer.Argument(metavar="PROMPTS", help="Prompts: one on each line, or a data file, of chats, too.")
    ],
    steer: Steer,
    out: Out,
    chat: options.AsChat = False,
    system: options.System = None,
    scorer: options.Scorer = "sentiment",
    baseline: BaselineOption = None,
    negative_prompt: options.NegativePrompt = "",
    positive_prompt: options.PositivePrompt = "",
    perplexity_model: options.PerplexityModel = None,
    limit: options.FirstN = None,
    num_samples: options.NumSamples = NUM_SAMPLES,
    max_new_tokens: options.MaxNewTokens = MAX_NEW_TOKENS,
    top_p: options.TopP = TOP_P,
    plausible: options.Plausible = options.DEFAULTS.limits.plausible,
    fresh: options.Fresh = options.DEFAULTS.limits.fresh,
    kl: options.KL = options.DEFAULTS.limits.kl,
    seed: options.Seed = options.DEFAULTS.seed,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Measure continuations of prompts under a steer, beside unsteered ones and baselines.

    The same command continues an evaluation that was stopped.

    Example: lmsteer evaluate prompts.jsonl --steer sentiment=-3,-1,1,3 --baseline words --out evaluation
    """
    steering = parse_steering(steer, warned=False)
    instructions = [text for text in (negative_prompt, positive_prompt) if text]
    if len(instructions) != (2 if _INSTRUCTED & {*(baseline or ())} else 0):
        raise DataError(
            "--baseline prompting, contrastive-prompting and guidance need two instructions, --negative-prompt and "
            "--positive-prompt; nothing else takes them."
        )
    read = options.answered(read_prompts(prompts)[:limit], chat=chat, system=system)
    check_scorer(scorer)
    protocol = Protocol(num_samples, max_new_tokens, top_p, seed, Limits(plausible, fresh, kl))
    protocol.generation_config()  # refuses what is out of range
    known = known_config(locate(model).name, locate(perplexity_model or model).name, scorer, read, protocol)
    evaluation_run(out, known).check_folder()
    scored_by = lmsteer.scorer(scorer)

    from lmsteer.cli.output.evaluation import print_results
    from lmsteer.evaluation.metadata import evaluation_metadata
    from lmsteer.evaluation.report import write_report

    steers = steering.steers()
    strengths = {name: [setting[name] for setting in steering.settings] for name in steers}
    lm = lmsteer.load(model)
    conditions = lmsteer.conditions_of(lm, steers, strengths, baseline or (), instructions)
    reader = lmsteer.load(perplexity_model) if perplexity_model else lm
    results = lmsteer.evaluate(
        lm, read, conditions, scored_by, out, perplexity_model=reader, protocol=protocol, progress=bars()
    )
    metadata = evaluation_metadata(
        lm.name, steering.cards, scored_by, reader.name, f"{len(read)} of {prompts}", protocol
    )
    write_report(out, results, metadata)
    note(f"Report, results and continuations written to {out}.")
    if as_json:
        print_json({"metadata": metadata, "conditions": [result.to_json() for result in results]})
    else:
        print_results(stdout, results, metadata)
