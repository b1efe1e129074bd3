"""evaluate: the published protocol for every condition: continuations of prompts, their scores and their perplexity.

For each condition and each block of prompts, continuations are generated; a scorer scores the attribute; a perplexity
model, best another model than the one that generates, reads how likely they are. A block is then kept as JSON lines. A
later run of the same configuration does not repeat it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsteer.data.chats import AnyPrompt, Prompt, as_prompt
from lmsteer.errors import DataError, ScorerError
from lmsteer.evaluation.conditions import Condition
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.results import ConditionResult, ScoredContinuation, summarize
from lmsteer.evaluation.run_config import evaluation_run, known_config
from lmsteer.evaluation.scorers.base import Scorer, checked_scores
from lmsteer.generation.prefill import Prefill
from lmsteer.model.lm import LM
from lmsteer.reading.encode import encode_with_offsets
from lmsteer.reading.likelihood import log_likelihoods
from lmsteer.reading.prompted import encode_after
from lmsteer.util.files import finite, write_file, write_jsonl
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.records import FormatError, from_record, parse_json
from lmsteer.util.run import resumable
from lmsteer.util.seeds import derived_seed

# Number of prompts whose continuations are generated, scored and kept together.
_BLOCK = 20
_BATCH_SIZE = 128
_RESULTS = "results.json"


def evaluate(
    lm: LM,
    prompts: Sequence[AnyPrompt],
    conditions: Sequence[Condition],
    scorer: Scorer,
    out: Path,
    *,
    perplexity_model: LM | None = None,
    protocol: Protocol | None = None,
    progress: Progress = no_progress,
) -> list[ConditionResult]:
    """Evaluate conditions on prompts. Blocks that an earlier run of the same configuration has kept are not repeated.

    Args:
        lm: the model that generates.
        prompts: prompts to continue, and chats to answer.
        conditions: ways of generating.
        scorer: scores the attribute.
        out: folder of the continuations and results.
        perplexity_model: the model that perplexity is computed with; ``lm`` by default.
        protocol: how continuations are generated.
        progress: reports the blocks.

    Raises:
        DataError: there are no conditions or prompts, the folder holds another evaluation, or ``generate`` refuses the
            prompts.
        WrongBaseError: a steer was fitted on another base.
        ScorerError: the scorer fails; earlier blocks are kept.
        InterruptedWorkError: the user pressed Ctrl-C.
        ModelError: the weights of the model are split over processes.
    """
    lm.check_in_one_process("an evaluation")
    protocol = protocol or Protocol()
    if not conditions or not prompts:
        raise DataError("nothing to evaluate: give prompts, and a steer with strengths.")
    protocol.generation_config()  # refuses values that are out of range
    given = [as_prompt(prompt, f"prompt {number}") for number, prompt in enumerate(prompts, 1)]
    prefills = [condition.prefill(lm, given, protocol.max_new_tokens) for condition in conditions]
    reader = perplexity_model or lm
    continuation_likelihoods(reader, given[:1], ["."])  # a model may lack a chat template
    work = _Work(lm, reader, scorer, protocol, given, out)
    evaluation_run(out, work.config()).open()
    done = sum(work.file(condition, block).exists() for condition in conditions for block in work.blocks())
    results = []
    with (
        resumable(f"Finished blocks are kept in {out}. Run the same command again to resume."),
        progress("evaluating", len(conditions) * len(work.blocks()), done) as step,
    ):
        for condition, prefill in zip(conditions, prefills, strict=True):
            rows: list[ScoredContinuation] = []
            for block in work.blocks():
                file = work.file(condition, block)
                if not file.exists():
                    write_jsonl(file, [asdict(row) for row in work.measure(condition, prefill, block)])
                    step(1, condition.name)
                rows += _read(file, len(block) * protocol.num_samples)
            results.append(summarize(condition, rows, is_probability=scorer.is_probability))
    write_file(out / _RESULTS, json.dumps(finite([result.to_json() for result in results]), indent=1) + "\n")
    return results


@dataclass(frozen=True)
class _Work:
    """What conditions are measured with, and where the blocks are kept."""

    lm: LM
    perplexity_model: LM
    scorer: Scorer
    protocol: Protocol
    prompts: Sequence[Prompt]
    out: Path

    def config(self) -> dict[str, Any]:
        """What must be the same for kept blocks to be used."""
        return {
            **known_config(self.lm.name, self.perplexity_model.name, self.scorer.name, self.prompts, self.protocol),
            "fingerprint": self.lm.fingerprint,
            "perplexity_model_fingerprint": self.perplexity_model.fingerprint,
            "scorer_fingerprint": self.scorer.fingerprint,
        }

    def blocks(self) -> list[range]:
        """The places of the prompts of each block."""
        count = len(self.prompts)
        return [range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]

    def file(self, condition: Condition, block: range) -> Path:
        """The file of a block; another steer of the same name has another one."""
        key = hashlib.sha256(json.dumps([condition.name, condition.fingerprint]).encode()).hexdigest()[:16]
        return self.out / "rows" / f"{key}-{block.start // _BLOCK:04d}.jsonl"

    def measure(self, condition: Condition, prefill: Prefill, block: range) -> list[ScoredContinuation]:
        """Continuations of a block's prompts under a condition, with their scores and likelihoods."""
        own = self.prompts[block.start : block.stop]
        # Each block has random streams of its own, and the conditions share them.
        seed = derived_seed(self.protocol.seed, block.start // _BLOCK)
        config = replace(self.protocol.generation_config(), seed=seed, batch_size=_BATCH_SIZE)
        of_block = replace(prefill, starts=prefill.starts[block.start : block.stop])
        texts = condition.generate(self.lm, own, of_block, config)
        places = [place for place in block for _ in range(self.protocol.num_samples)]
        prompts = [self.prompts[place] for place in places]
        scores = self._scores(texts, condition)
        likelihoods = continuation_likelihoods(self.perplexity_model, prompts, texts)
        return [
            ScoredContinuation(place, str(prompt), text, score, log_likelihood, tokens)
            for place, prompt, text, score, (log_likelihood, tokens) in zip(
                places, prompts, texts, scores, likelihoods, strict=True
            )
        ]

    def _scores(self, texts: Sequence[str], condition: Condition) -> list[float]:
        try:
            return checked_scores(self.scorer, texts)
        except ScorerError as error:
            raise ScorerError(
                f"{error} It was to score {condition.name}. Finished blocks are kept; run the same command to resume."
            ) from error


def continuation_likelihoods(lm: LM, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[tuple[float, int]]:
    """Log-likelihood of each continuation after its prompt, and its number of tokens, as a model reads them.

    A token on both sides of the end of the prompt counts as the continuation's; the end-of-text token does not count,
    nor does that of the turn. Chats are written by the model's own template.
    """
    encoded = [_own_tokens(lm, prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    lines = log_likelihoods(lm, [ids for ids, _ in encoded])
    return [(float(line[own].sum()), int(own.sum())) for (_, own), line in zip(encoded, lines, strict=True)]


def _own_tokens(lm: LM, prompt: Prompt, text: str) -> tuple[Sequence[int], Tensor]:
    """The ids of a prompt and its continuation, and which of them, after the first, are the continuation's."""
    if isinstance(prompt, str):
        ids, bounds = encode_with_offsets(lm, prompt + text, start=True, end=True)
        return ids, torch.tensor([start < end > len(prompt) for start, end in bounds[1:]], dtype=torch.bool)
    (answer,) = encode_after(lm, [prompt], [text])
    places = torch.arange(1, len(answer))
    return answer, (places >= answer.begin) & (places < len(answer) - answer.is_ended)


def _read(file: Path, count: int) -> list[ScoredContinuation]:
    try:
        # Line by line, not splitlines: a model may generate other line separators.
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line]
        rows = [from_record(ScoredContinuation, parse_json(line)) for line in lines]
        if len(rows) != count:
            raise FormatError(f"{len(rows)} rows in place of {count}")
        return rows
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}. Remove it, and run the same command again.") from error
