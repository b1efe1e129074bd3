"""evaluate: what outputs are like under gists, under whole prompts, and under none.

Each prompt is squeezed once; its inputs are continued greedily and compared with the outputs that are known: ROUGE-L
(Lin, 2004), exact matches, and the loss of those outputs. The controls go the same way (``compress``), by adapters
fitted under their own conditions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from lmsteer.data.instructions import Instruction
from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.compress import compress
from lmsteer.gist.examples import encode_examples, input_text, prompt_ids
from lmsteer.gist.forward import output_loss
from lmsteer.gist.generation import generate_from_gists
from lmsteer.gist.masks import GistCondition
from lmsteer.model.lm import LM
from lmsteer.util.progress import Progress, no_progress

# The minus of a number says something.
_NO_SIGNS = re.compile(r"(?!-\d)[^\w\s]|_")


@dataclass(frozen=True)
class Quality:
    """What outputs are like.

    Attributes:
        examples: how many, those that fit into the context.
        rouge_l: mean F-measure of the longest common subsequence, words stemmed.
        exact: share of outputs that are the known one, but for case, punctuation and white space.
        loss: of the known outputs, nats a token.
        prompt_tokens: mean length of the prompts.
        cache_bytes: mean size of what is kept of a prompt.
    """

    examples: int
    rouge_l: float
    exact: float
    loss: float
    prompt_tokens: float
    cache_bytes: float

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return asdict(self)


def evaluate(
    lm: LM,
    adapter: GistAdapter,
    instructions: Sequence[Instruction],
    *,
    condition: GistCondition = GistCondition.GIST,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    progress: Progress = no_progress,
) -> Quality:
    """Measure outputs under an adapter.

    Args:
        lm: the adapter's base.
        adapter: best fitted under the same condition.
        instructions: with known outputs.
        condition: what the outputs see.
        max_new_tokens: of an output.
        batch_size: outputs that are written at once.
        progress: what to tell of the work.

    Raises:
        DataError: rouge-score is not installed, or none of the instructions fits into the context.
        WrongBaseError: another base.
        ModelError: a model that cannot honour gist masks.
    """
    _rouge()  # refuses early
    examples = encode_examples(lm, instructions, adapter.card.tokens + max_new_tokens)
    kept = [example.of for example in examples]
    if not kept:
        raise DataError("no instruction fits into the context of the model.")
    unique = list(dict.fromkeys(each.instruction for each in kept))
    prompts = prompt_ids(lm, unique)
    gists = dict(zip(unique, compress(lm, adapter, prompts, condition=condition, progress=progress), strict=True))
    inputs = [input_text(each.input) for each in kept]
    own = [gists[each.instruction] for each in kept]
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens, sampling=SamplingConfig(temperature=0), batch_size=batch_size
    )
    rows = list(generate_from_gists(lm, adapter, own, inputs, draws=greedy, progress=progress))
    pairs = [(each.output, row.text) for each, row in zip(kept, rows, strict=True)]
    with adapter.installed(lm):
        loss = output_loss(lm, adapter.ids(lm), examples, condition)
    rouge_l, exact = likeness(pairs)
    return Quality(
        len(kept),
        rouge_l=rouge_l,
        exact=exact,
        loss=loss,
        prompt_tokens=fmean(gist.origin.prompt_tokens for gist in own),
        cache_bytes=fmean(gist.bytes for gist in own),
    )


def likeness(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Mean ROUGE-L of pairs of a known output and a written one, and the share that is the same.

    Raises:
        DataError: rouge-score is not installed.
    """
    scorer = _rouge()
    same = fmean(_bare(known) == _bare(written) for known, written in pairs)
    return fmean(scorer.score(known, written)["rougeL"].fmeasure for known, written in pairs), same


def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise DataError("ROUGE-L needs rouge-score: pip install 'lmsteer[gist]'.") from error
    return RougeScorer(["rougeL"], use_stemmer=True)


def _bare(text: str) -> str:
    return " ".join(_NO_SIGNS.sub(" ", text.casefold()).split())
