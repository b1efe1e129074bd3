"""Options that several commands share: one name, one help text and one default each.

The defaults of generation are those of ``lmsteer.generation.config``. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from lmsteer.data.chats import Prompt, as_chat
from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig
from lmsteer.model.sources.lookup import locate
from lmsteer.model.sources.pypi import DEFAULT_MODEL

__all__ = ["DEFAULTS", "DEFAULT_MODEL", "NEUTRAL_PROMPTS"]

DEFAULTS = GenerationConfig()
# The number of neutral prompts that compare takes where no prompts are given.
NEUTRAL_PROMPTS = 20


def more_than(bound: float) -> Callable[[float | None], float | None]:
    """A check that an option's value, if given, is more than a bound."""

    def check(value: float | None) -> float | None:
        if value is not None and not value > bound:
            raise typer.BadParameter(f"must be more than {bound:g}, not {value:g}.")
        return value

    return check


def seed_of_64_bits(value: int) -> int:
    """A check that torch's random numbers take a seed."""
    if not -(1 << 63) <= value < 1 << 64:
        raise typer.BadParameter(f"must be a number of 64 bits, not {value}.")
    return value


def existing_model(model: str | None) -> str | None:
    """Refuse the name of a model that stands for nothing, before torch is imported.

    Raises:
        ModelError: it is a path that does not exist, or no name that a model can have.
    """
    if model is not None:
        locate(model)
    return model


def answered(prompts: Sequence[Prompt], *, chat: bool, system: str | None) -> list[Prompt]:
    """The prompts as ``--chat`` and ``--system`` ask for them.

    Raises:
        DataError: there is a system message, but no chat.
    """
    if system is not None and not chat:
        raise DataError("--system is the system message of chats: add --chat.")
    return [as_chat(prompt, system) if chat else prompt for prompt in prompts]


# The model, and how results are printed.
Model = Annotated[
    str,
    typer.Option(
        callback=existing_model,
        help="Model: a Hub id, a folder, a .gguf file, or a packaged model (smollm2, gemma3-270m).",
    ),
]
Readings = Annotated[
    bool,
    typer.Option(
        "--readings",
        help="Print what is known of each token: its log-likelihood with and without the steers, the divergence of its "
        "distribution, and its evidence for each steer.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of text.")]

# Steers.
SteerName = Annotated[str, typer.Argument(metavar="STEER", help="Name or folder of a steer.")]
STEER_STRENGTHS = typer.Argument(
    metavar="STEER=STRENGTH...",
    help="Steers with one strength each: a number, a share of the safe range (50%), or auto.",
)
SteerStrengths = Annotated[list[str], STEER_STRENGTHS]
Steer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STEER=STRENGTH",
        help="Steer and its strength, or several strengths (STEER=S1,S2,..): numbers, shares of the safe range "
        "(50%), or auto; each may act at some tokens only (3@10.., 3@..10, 3@rise..40, 3@answer). Repeatable.",
    ),
]

Hold = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STEER=LEVEL",
        help="Steer and the probability, by its own reading of the text, to hold the text at: each token gets the "
        "strength that is missing, within the safe range, or up to a maximum (STEER=LEVEL@max4). Repeatable.",
    ),
]

# How text is generated.
NumSamples = Annotated[int, typer.Option(min=1, help="Number of continuations for each prompt and strength.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum length of a continuation, in tokens.")]
TopP = Annotated[
    float,
    typer.Option(help="Nucleus sampling: draw from the likeliest tokens that have this probability together."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="A continuation ends in front of this text. Repeatable."),
]
TopK = Annotated[int, typer.Option(min=0, help="Draw from this many likeliest tokens; 0 means all.")]
Temperature = Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 always takes the likeliest token.")]
Plausible = Annotated[
    float,
    typer.Option(
        help="Draw only tokens that the unsteered model gives at least this share of its highest probability, from 0 "
        "(all tokens) to below 1."
    ),
]
Fresh = Annotated[
    int,
    typer.Option(
        min=0,
        help="Steers do not change the logits of tokens that occur among this many last tokens of the continuation, "
        "against repetition; 0 means that they do.",
    ),
]
KL = Annotated[
    float,
    typer.Option(
        metavar="NATS",
        help="Largest divergence of a token's distribution from the unsteered model's, above 0; strengths are scaled "
        "down for a token where it would be larger. inf means no limit.",
    ),
]
Seed = Annotated[int, typer.Option(callback=seed_of_64_bits, help="Seed of all random numbers.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Number of sequences that are generated at once.")]

# Prompts and labelled texts.
PromptsFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Prompts: one on each line, or a data file, of chats, too (default: neutral prompts that ship).",
    ),
]
AsChat = Annotated[
    bool,
    typer.Option("--chat", help="Take each prompt as a turn of the user, and answer it in the model's chat template."),
]
System = Annotated[
    str | None, typer.Option(help="System message of each chat that has none, with --chat (default: the template's).")
]
LabelledData = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Labelled texts, chats or pairs: a JSONL, JSON, CSV, TSV or Parquet file, or a Hub dataset.",
    ),
]
TextColumn = Annotated[str, typer.Option(help="Column that holds the texts, where they have no prompts.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the labels.")]
LabelMap = Annotated[
    str | None, typer.Option(help="Numbers of class labels, such as 'negative=-1,positive=1' (default: none).")
]
Split = Annotated[str, typer.Option(help="Split of a Hub dataset.")]
Limit = Annotated[
    int | None, typer.Option(help="Number of texts to use, drawn at random with --seed (default: all texts).")
]
FirstN = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Number of rows to use, counted from the first (default: all rows)."),
]

# Measurements of generated text.
Scorer = Annotated[
    str,
    typer.Option(
        help="What scores the attribute: sentiment, sentiment-vader, toxicity, a measure of style (words, "
        "words-a-sentence, reading-grade, formality, certainty, affect, first-person, questions, line-breaks, cliches, "
        "english), or hf:MODEL=CLASS for a classifier of the Hub."
    ),
]
PerplexityModel = Annotated[
    str | None,
    typer.Option(
        callback=existing_model, help="Model that perplexity is computed with (default: the model of --model)."
    ),
]
NegativePrompt = Annotated[
    str,
    typer.Option(
        help="Instruction for the -1 end, put before each prompt, or in a chat's system message (default: none)."
    ),
]
PositivePrompt = Annotated[
    str,
    typer.Option(
        help="Instruction for the +1 end, put before each prompt, or in a chat's system message (default: none)."
    ),
]
