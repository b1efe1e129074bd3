"""evaluate: the published protocol, for every arm: prompts × continuations × tokens, judged.

For each arm, some prompts at a time, continuations are written; a scorer judges them; a model, best another one than
that which writes, reads how likely they are; and all is kept as JSON lines. What is there already is not done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lmsteer.errors import DataError, InterruptedWorkError, ScorerError
from lmsteer.evaluation.conditions import Condition
from lmsteer.evaluation.interference import steer_evidence
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.results import ConditionResult, ScoredContinuation, summarize
from lmsteer.evaluation.run_config import settle
from lmsteer.evaluation.scorers.base import Scorer, checked_scores
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import continue_from
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM
from lmsteer.reading.encode import encode_with_offsets
from lmsteer.reading.likelihood import log_likelihoods
from lmsteer.steer.mix import Mix
from lmsteer.util.files import finite, write_file, write_jsonl
from lmsteer.util.progress import Progress, no_progress

# Prompts whose continuations are written, judged and kept together.
_BLOCK = 20
_SETTINGS, _RESULTS = "settings.json", "results.json"


def evaluate(
    lm: LM,
    prompts: Sequence[str],
    arms: Sequence[Condition],
    scorer: Scorer,
    out: Path,
    *,
    judge: LM | None = None,
    protocol: Protocol | None = None,
    progress: Progress = no_progress,
) -> list[ConditionResult]:
    """Evaluate arms on prompts; what an earlier run of the same settings has kept is taken as it is.

    Args:
        lm: the model.
        prompts: to continue.
        arms: ways of writing.
        scorer: of the attribute.
        out: folder of the continuations and figures.
        judge: the model whose perplexity is told; ``lm`` itself if None.
        protocol: how much is written.
        progress: what to tell of the work.

    Raises:
        DataError: no arms, a folder of another evaluation, or what ``generate`` refuses.
        WrongBaseError: a steer of another base.
        ScorerError: the scorer fails; what it judged before is kept.
        InterruptedWorkError: the user stopped it.
    """
    protocol, judge = protocol or Protocol(), judge or lm
    if not arms or not prompts:
        raise DataError("nothing to evaluate: give prompts, and a steer with strengths.")
    _config(protocol, 0)  # refuses what is out of range
    for arm in arms:
        arm.starts(lm, prompts, protocol.max_new_tokens)  # refuses what cannot be continued
        lm.check_base(Mix(arm.steers, arm.strengths))
    _settle(out, lm, prompts, scorer, judge, protocol)
    found = []
    blocks = [prompts[start : start + _BLOCK] for start in range(0, len(prompts), _BLOCK)]
    done = sum((out / _file(arm, number)).exists() for arm in arms for number in range(len(blocks)))
    with _interruptible(out), progress("evaluating", len(arms) * len(blocks), done) as step:
        for arm in arms:
            rows: list[ScoredContinuation] = []
            for number, block in enumerate(blocks):
                file = out / _file(arm, number)
                if not file.exists():
                    written = _judged(lm, block, number, arm, scorer, judge, protocol)
                    write_jsonl(file, [asdict(row) for row in written])
                    step(1, arm.name)
                rows += _kept(file, len(block) * protocol.num_samples)
            found.append(summarize(arm, rows))
    write_file(out / _RESULTS, json.dumps(finite([each.to_json() for each in found]), indent=1) + "\n")
    return found


def _config(protocol: Protocol, block: int, best_of: int = 1) -> GenerationConfig:
    """How the prompts of a block are continued; no two blocks, whatever the seeds, share random streams."""
    seed = hash((protocol.seed, block))
    sampling = SamplingConfig(protocol.top_p)
    return GenerationConfig(protocol.num_samples * best_of, protocol.max_new_tokens, sampling, seed, batch_size=128)


def _kept(file: Path, count: int) -> list[ScoredContinuation]:
    try:
        # Line by line, not splitlines: a model may write other signs that end lines.
        rows = [ScoredContinuation(**json.loads(line)) for line in file.read_text(encoding="utf-8").split("\n") if line]
        if len(rows) != count:
            raise ValueError(f"{len(rows)} rows in place of {count}")
        return rows
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is damaged: {error}. Remove it, and the same command writes it anew.") from error


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """Turn Ctrl-C into a message that names the way on: every part is written whole or not at all."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedWorkError(
            f"interrupted; what was written is kept in {out}. The same command goes on from there."
        ) from None


def _judged(
    lm: LM, prompts: Sequence[str], block: int, arm: Condition, scorer: Scorer, judge: LM, protocol: Protocol
) -> list[ScoredContinuation]:
    """Continuations of a block of prompts under one arm."""
    starts = arm.starts(lm, prompts, protocol.max_new_tokens)
    draws = _config(protocol, block, arm.best_of)
    rows = list(continue_from(lm, prompts, starts, arm.steers, [dict(arm.strengths)], draws))
    texts = _best([row.text for row in rows], arm, lm)
    of_prompts = [prompt for prompt in prompts for _ in range(protocol.num_samples)]
    scores = _scores(scorer, texts, arm)
    read = continuation_likelihoods(judge, of_prompts, texts)
    return [
        ScoredContinuation(block * _BLOCK + k // protocol.num_samples, prompt, text, score, log_p, tokens)
        for k, (prompt, text, score, (log_p, tokens)) in enumerate(zip(of_prompts, texts, scores, read, strict=True))
    ]


def _scores(scorer: Scorer, texts: Sequence[str], arm: Condition) -> list[float]:
    try:
        return checked_scores(scorer, texts)
    except ScorerError as error:
        raise ScorerError(
            f"{error} It was to judge {arm.name}; what was judged before is kept, and the same command goes on."
        ) from error


def _best(texts: list[str], arm: Condition, lm: LM) -> list[str]:
    """Of each ``best_of`` texts in turn, that of most evidence on the arm's side."""
    if arm.best_of == 1 or arm.reader is None:
        return texts
    (evidence,) = steer_evidence(lm, {"reader": arm.reader}, texts).tolist()
    groups = [range(start, start + arm.best_of) for start in range(0, len(texts), arm.best_of)]
    return [texts[max(group, key=lambda k: arm.strength * evidence[k])] for group in groups]


def continuation_likelihoods(lm: LM, prompts: Sequence[str], texts: Sequence[str]) -> list[tuple[float, int]]:
    """Log-likelihood of each continuation after its prompt, and its number of tokens, as a model reads them.

    A token that stands on both sides of the end of the prompt is the continuation's; the end of the text is nobody's.
    """
    read = [
        encode_with_offsets(lm, prompt + text, start=True, end=True)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    lines = log_likelihoods(lm, [ids for ids, _ in read])
    found = []
    for prompt, (_, bounds), line in zip(prompts, read, lines, strict=True):
        own = torch.tensor([start < end > len(prompt) for start, end in bounds[1:]], dtype=torch.bool)
        found.append((float(line[own].sum()), int(own.sum())))
    return found


def _settle(out: Path, lm: LM, prompts: Sequence[str], scorer: Scorer, judge: LM, protocol: Protocol) -> None:
    """Keep the settings of the run, or see that they are those of the run before."""
    settings: dict[str, Any] = {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "judge": judge.name,
        "judge_fingerprint": judge.fingerprint,
        "scorer": scorer.name,
        "scorer_fingerprint": scorer.fingerprint,
        "prompts": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()[:32],
        **asdict(protocol),
    }
    settle(out, _SETTINGS, settings, "an evaluation")


def _file(arm: Condition, number: int) -> str:
    """Where the rows of a block lie; those of another steer of the same name lie elsewhere."""
    steers = [*arm.steers.values(), *([arm.reader] if arm.reader else [])]
    factors = [tensors_fingerprint(steer.factors) for steer in steers]
    factors += [arm.rival.fingerprint] if arm.rival else []
    about = json.dumps([arm.name, arm.prefix, arm.best_of, dict(arm.strengths), factors])
    return f"rows/{hashlib.sha256(about.encode()).hexdigest()[:16]}-{number:04d}.jsonl"
