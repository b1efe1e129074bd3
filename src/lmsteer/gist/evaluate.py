"""evaluate: the quality of outputs under gists, under whole prompts, and under none.

Each prompt is compressed once. Its inputs are continued greedily and compared with the known outputs: ROUGE-L (Lin,
2004), exact matches, and the loss of those outputs. Controls are evaluated in the same way, with adapters that were
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
from lmsteer.gist.config import EVALUATION_MAX_NEW_TOKENS, GistCondition
from lmsteer.gist.examples import encode_examples, input_text, prompt_ids
from lmsteer.gist.forward import output_loss
from lmsteer.gist.generation import generate_from_gists
from lmsteer.model.lm import LM
from lmsteer.util.progress import Progress, no_progress

# All punctuation but the minus of a number.
_PUNCTUATION = re.compile(r"(?!-\d)[^\w\s]|_")


@dataclass(frozen=True)
class GistMetrics:
    """The quality of outputs.

    Attributes:
        examples: number of examples, those that fit into the context.
        rouge_l: mean F-measure of the longest common subsequence of words, which are stemmed.
        exact: share of outputs that equal the known one, apart from case, punctuation and white space.
        loss: loss of the known outputs, in nats per token.
        prompt_tokens: mean length of the prompts.
        cache_bytes: mean size of the keys and values that are kept of a prompt.
    """

    examples: int
    rouge_l: float
    exact: float
    loss: float
    prompt_tokens: float
    cache_bytes: float

    def to_json(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def evaluate(
    lm: LM,
    adapter: GistAdapter,
    instructions: Sequence[Instruction],
    *,
    condition: GistCondition = GistCondition.GIST,
    max_new_tokens: int = EVALUATION_MAX_NEW_TOKENS,
    batch_size: int = GenerationConfig.batch_size,
    progress: Progress = no_progress,
) -> GistMetrics:
    """Measure the quality of outputs under an adapter.

    Args:
        lm: the adapter's base.
        adapter: the adapter; best one that was fitted under the same condition.
        instructions: instructions with known outputs.
        condition: condition of the attention mask.
        max_new_tokens: maximum length of an output, in tokens.
        batch_size: number of outputs that are generated at once.
        progress: where progress is reported.

    Raises:
        DataError: rouge-score is not installed, or none of the instructions fits into the context.
        WrongBaseError: another base.
        ModelError: a model that does not honour gist masks.
    """
    _rouge()  # refuses early
    examples = encode_examples(lm, instructions, adapter.card.tokens + max_new_tokens)
    if not examples:
        raise DataError("no instruction fits into the context of the model.")
    rows = [example.instruction for example in examples]
    unique = list(dict.fromkeys(each.instruction for each in rows))
    prompts = prompt_ids(lm, unique)
    by_prompt = dict(zip(unique, compress(lm, adapter, prompts, condition=condition, progress=progress), strict=True))
    gists = [by_prompt[each.instruction] for each in rows]
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens, sampling=SamplingConfig(temperature=0), batch_size=batch_size
    )
    with adapter.installed(lm):
        inputs = [input_text(each.input) for each in rows]
        outputs = list(generate_from_gists(lm, adapter, gists, inputs, config=greedy, progress=progress))
        loss = output_loss(lm, adapter.ids(lm), examples, condition)
    rouge_l, exact = text_similarity([(each.output, row.text) for each, row in zip(rows, outputs, strict=True)])
    return GistMetrics(
        len(rows),
        rouge_l=rouge_l,
        exact=exact,
        loss=loss,
        prompt_tokens=fmean(gist.provenance.prompt_tokens for gist in gists),
        cache_bytes=fmean(gist.bytes for gist in gists),
    )


def text_similarity(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Mean ROUGE-L of pairs of a known and a generated output, and the share of exact matches.

    Raises:
        DataError: rouge-score is not installed.
    """
    scorer = _rouge()
    exact = fmean(_normalized(known) == _normalized(generated) for known, generated in pairs)
    return fmean(scorer.score(known, generated)["rougeL"].fmeasure for known, generated in pairs), exact


def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise DataError("ROUGE-L needs rouge-score: pip install 'lmsteer[gist]'.") from error
    return RougeScorer(["rougeL"], use_stemmer=True)


def _normalized(text: str) -> str:
    return " ".join(_PUNCTUATION.sub(" ", text.casefold()).split())
