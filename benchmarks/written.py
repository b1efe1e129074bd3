"""What conditions write: their continuations, kept on disk, and the figures of these by two scorers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lmsteer.data.chats import Prompt
from lmsteer.evaluation.conditions import Condition, Steered, Unsteered
from lmsteer.evaluation.evaluate import continuation_likelihoods
from lmsteer.evaluation.intervals import Estimate, estimate, mean_estimate
from lmsteer.evaluation.metrics import distinct, rep_3
from lmsteer.evaluation.report import draw_curves
from lmsteer.evaluation.results import ConditionResult, ScoredContinuation, summarize
from lmsteer.evaluation.scorers import Scorer, scorer
from lmsteer.evaluation.scorers.base import UNDECIDED
from lmsteer.generation.config import GenerationConfig, record_of
from lmsteer.model.lm import LM
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file, write_jsonl
from lmsteer.util.records import from_record

# The first one scores what pictures show.
SCORERS = ("sentiment-vader", "sentiment")
# So many equal words in a row are a loop.
_LOOP = 3


@dataclass(frozen=True)
class Written:
    """One continuation.

    Attributes:
        prompt_index: the place of its prompt.
        text: the continuation.
        log_likelihood: its log-likelihood after the plain prompt under the unsteered model, in nats.
        tokens: its number of tokens.
        scores: its score by each of ``SCORERS``.
    """

    prompt_index: int
    text: str
    log_likelihood: float
    tokens: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Writer:
    """Lets conditions continue the same prompts, each once.

    Attributes:
        lm: the model.
        prompts: the prompts.
        config: how they are continued.
        folder: where continuations are kept.
    """

    lm: LM
    prompts: Sequence[Prompt]
    config: GenerationConfig
    folder: Path

    def rows(self, condition: Condition) -> list[Written]:
        """The continuations of a condition, from the disk if they are there."""
        parts = [self.lm.fingerprint, [*map(str, self.prompts)], record_of(self.config), condition.name]
        key = hashlib.sha256(json.dumps([*parts, condition.fingerprint]).encode()).hexdigest()[:16]
        file = self.folder / f"{key}.jsonl"
        if not file.exists():
            write_jsonl(file, [asdict(row) for row in self._written(condition)])
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line]
        return [from_record(Written, json.loads(line)) for line in lines]

    def figures(self, condition: Condition) -> dict[str, Any]:
        """The figures of a condition, for a file of results; its texts stand in ``NAME.txt``."""
        rows = self.rows(condition)
        write_file(self.folder / f"{condition.name}.txt", "".join(f"{json.dumps(row.text)}\n" for row in rows))
        scored = [
            ScoredContinuation(r.prompt_index, "", r.text, r.scores[SCORERS[0]], r.log_likelihood, r.tokens)
            for r in rows
        ]
        return {
            **summarize(condition, scored, is_probability=True).to_json(),
            "positive": {name: asdict(self._positive_share(rows, name)) for name in SCORERS},
            "mean_score": {name: float(np.mean([row.scores[name] for row in rows])) for name in SCORERS},
            "looping": asdict(mean_estimate([float(np.mean(each)) for each in self._by_prompt(rows, _loops)])),
            # Of one continuation of each prompt, all together.
            "distinct_2": distinct([row.text for row in rows[:: self.config.num_samples]], 2),
            "mean_tokens": float(np.mean([row.tokens for row in rows])),
        }

    @cached_property
    def _scorers(self) -> dict[str, Scorer]:
        return {name: scorer(name) for name in SCORERS}

    def _written(self, condition: Condition) -> list[Written]:
        places = [place for place in range(len(self.prompts)) for _ in range(self.config.num_samples)]
        prefill = condition.prefill(self.lm, self.prompts, self.config.max_new_tokens)
        if isinstance(condition, (Unsteered, Steered)):  # the states before a steer are those of the unsteered model
            config = replace(self.config, score=True)
            rows = [*condition.continuations(self.lm, self.prompts, prefill, config)]
            texts, likelihoods = [row.text for row in rows], [(row.log_p, row.tokens) for row in rows]
        else:
            texts = condition.generate(self.lm, self.prompts, prefill, self.config)
            likelihoods = continuation_likelihoods(self.lm, [self.prompts[place] for place in places], texts)
        columns = {name: each.scores(texts) for name, each in self._scorers.items()}
        return [
            Written(place, text, *likelihood, {name: column[k] for name, column in columns.items()})
            for k, (place, text, likelihood) in enumerate(zip(places, texts, likelihoods, strict=True))
        ]

    def _by_prompt(self, rows: Sequence[Written], value: Any) -> list[list[float]]:
        groups: list[list[float]] = [[] for _ in self.prompts]
        for row in rows:
            groups[row.prompt_index].append(value(row))
        return groups

    def _positive_share(self, rows: Sequence[Written], name: str) -> Estimate:
        """The share of positive continuations among those that a scorer is not undecided on."""
        above = self._by_prompt(rows, lambda row: row.scores[name] > UNDECIDED)
        below = self._by_prompt(rows, lambda row: row.scores[name] < UNDECIDED)
        return estimate(_share, np.array([*map(sum, above)], float), np.array([*map(sum, below)], float))


def result_of(figures: dict[str, Any]) -> ConditionResult:
    """The part of the figures that pictures are drawn from."""
    return ConditionResult.from_json({name: figures[name] for name in ConditionResult.__dataclass_fields__})


def draw_shares(found: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the positive share by the first scorer against perplexity, a curve for each method."""
    shares = {each["name"]: Estimate(**each["positive"][SCORERS[0]]) for each in found}

    def share(result: ConditionResult) -> Estimate:
        return shares[result.name]

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.subplots()
    draw_curves(axes, [*map(result_of, found)], share)
    axes.set_ylabel("positive share, by VADER")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    write_file(file, render_figure(figure))


def is_looping(text: str) -> bool:
    """Whether a text repeats a run of three words, or has the same word three times in a row."""
    words = text.casefold().split()
    in_a_row = zip(*(words[k:] for k in range(_LOOP)), strict=False)
    return rep_3(text) > 0 or any(len(set(run)) == 1 for run in in_a_row)


def _loops(row: Written) -> float:
    return float(is_looping(row.text))


def _share(above: np.ndarray, below: np.ndarray, axis: int) -> Any:
    return above.sum(axis) / (above + below).sum(axis).clip(min=1)
