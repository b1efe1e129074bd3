"""The command ``gist fit``: instruction data becomes a gist adapter."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import stdout
from lmsteer.cli.gist.app import Condition, InstructionData, gist_app
from lmsteer.cli.output.common import print_json
from lmsteer.data.instructions import read_instructions
from lmsteer.gist.config import GistCondition, GistConfig
from lmsteer.gist.lookup import check_fit_folders
from lmsteer.util.progress import bars

HeldOut = Annotated[
    str | None, typer.Option(metavar="DATA", help="Held-out instructions; their loss is reported during training.")
]
ShareEmbedding = Annotated[bool, typer.Option("--share-embedding", help="Give all gist tokens one embedding.")]
Full = Annotated[bool, typer.Option("--full", help="Train every weight except the embeddings, in place of a LoRA.")]
ConditionOption = Annotated[
    Condition,
    typer.Option(help="What outputs see: gist (the gist tokens), or the controls positive and negative."),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        callback=options.more_than(0), help="Highest learning rate of AdamW (default: 1e-3; 1e-5 with --full)."
    ),
]
EvalSteps = Annotated[
    int, typer.Option(min=1, help="Number of steps between two evaluations of --held-out, and two checkpoints.")
]
TokensPerMicrobatch = Annotated[
    int, typer.Option(min=1, help="Maximum number of tokens in a micro-batch; raise it on a GPU.")
]


@gist_app.command()
def fit(
    data: InstructionData,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the adapter.")],
    held_out: HeldOut = None,
    tokens: Annotated[int, typer.Option(min=1, help="Number of gist tokens after a prompt.")] = 1,
    share_embedding: ShareEmbedding = False,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")] = 8,
    full: Full = False,
    condition: ConditionOption = "gist",
    steps: Annotated[int, typer.Option(min=1, help="Number of optimizer steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of examples for each step.")] = 8,
    learning_rate: LearningRate = None,
    eval_steps: EvalSteps = 100,
    tokens_per_microbatch: TokensPerMicrobatch = 6144,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = options.DEFAULTS.seed,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted fit.")] = False,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Fit a gist adapter on instruction data with the columns instruction, input and output.

    Example: lmsteer gist fit instructions.jsonl --tokens 2 --out gists
    """
    rate = learning_rate if learning_rate is not None else 1e-5 if full else 1e-3
    config = GistConfig(
        tokens,
        share_embedding,
        rank,
        full,
        GistCondition(condition),
        steps,
        batch_size,
        rate,
        seed,
        tokens_per_microbatch,
        eval_steps,
    )
    check_fit_folders(out, config, resume)
    instructions, unseen = read_instructions(data), read_instructions(held_out) if held_out else ()

    from lmsteer.cli.output.gist import print_gist_fit
    from lmsteer.gist.fit import fit_gist

    # Small changes of the weights would be rounded away in half precision.
    lm = lmsteer.load(model, dtype="float32") if full else lmsteer.load(model)
    adapter = fit_gist(lm, instructions, out, config=config, held_out=unseen, resume=resume, progress=bars())
    if as_json:
        print_json({"folder": str(out), "card": asdict(adapter.card)})
    else:
        print_gist_fit(stdout, adapter, out)
