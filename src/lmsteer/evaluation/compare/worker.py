"""One method of a comparison: fitted, saved, and measured.

    python -m lmsteer.evaluation.compare.worker CONFIG METHOD FOLDER

runs it in a process of its own. What an earlier run has kept (the fit, and every block of continuations) is not
repeated.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lmsteer.baselines.baseline import Baseline
from lmsteer.baselines.methods import METHODS, fit_baseline, load_baseline, save_baseline
from lmsteer.data.labelled import LabelledText, sample_texts
from lmsteer.errors import DataError, LMSteerError
from lmsteer.evaluation.compare.config import ComparisonConfig
from lmsteer.evaluation.compare.memory import peak_memory, reset_peak_memory
from lmsteer.evaluation.compare.results import LearningCurvePoint, MethodResult, score_range
from lmsteer.evaluation.compare.timing import relative_times
from lmsteer.evaluation.conditions import BaselineCondition, Unsteered
from lmsteer.evaluation.evaluate import evaluate
from lmsteer.evaluation.results import ConditionResult
from lmsteer.evaluation.scorers import Scorer, scorer
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.util.files import write_file
from lmsteer.util.progress import bars
from lmsteer.util.records import from_record, parse_json


def fit_and_measure(config: ComparisonConfig, method: str, folder: Path) -> MethodResult:
    """Fit a method and measure it.

    Args:
        config: the comparison.
        method: the method's name in ``METHODS``.
        folder: where its work is kept.

    Raises:
        LMSteerError: the method, the data or the model do not allow it.
    """
    lm, texts = load(config.model), config.source.read()
    config.check_sizes(len(texts))
    perplexity_model = load(config.perplexity_model) if config.perplexity_model else lm
    work = _Work(config, method, lm, perplexity_model, scorer(config.scorer), folder)
    baseline, fit_seconds, peak_memory_bytes = work.fit(texts)
    strongest = work.condition(baseline, max(METHODS[method].strengths))
    time_to_first_token, time_per_token = relative_times(lm, strongest, config.prompts, config.protocol.max_new_tokens)
    return MethodResult(
        method,
        asdict(baseline.capabilities),
        baseline.parameters,
        baseline.bytes,
        baseline.context,
        fit_seconds,
        peak_memory_bytes,
        time_per_token,
        time_to_first_token,
        work.evaluate(baseline),
        [work.point(texts, size, seed) for size in config.train_sizes for seed in range(config.num_seeds)],
    )


@dataclass(frozen=True)
class _Work:
    """What a method is measured with, and where its work is kept."""

    config: ComparisonConfig
    method: str
    lm: LM
    perplexity_model: LM
    scorer: Scorer
    folder: Path

    def fit(self, texts: Sequence[LabelledText]) -> tuple[Baseline, float, int | None]:
        """The baseline of all texts, the seconds and the peak memory of its fit."""
        saved, record = self.folder / "fitted", self.folder / "fit.json"
        if not record.exists():
            reset_peak_memory(self.lm.device)
            started = time.perf_counter()
            save_baseline(self._fitted(texts), saved)
            cost = _Cost(time.perf_counter() - started, peak_memory(self.lm.device))
            write_file(record, json.dumps(asdict(cost)))
        cost = _read_cost(record)
        return load_baseline(saved), cost.seconds, cost.peak_memory_bytes

    def condition(self, baseline: Baseline, strength: float) -> BaselineCondition:
        """The baseline at a strength."""
        return BaselineCondition(f"{self.method} {strength:+g}", self.method, strength, baseline)

    def evaluate(self, baseline: Baseline) -> list[ConditionResult]:
        """The results of unsteered text and of every strength."""
        return evaluate(
            self.lm,
            self.config.prompts,
            [Unsteered(), *(self.condition(baseline, strength) for strength in METHODS[self.method].strengths)],
            self.scorer,
            self.folder.parent / "continuations",  # of all methods: unsteered text is generated once
            perplexity_model=self.perplexity_model,
            protocol=self.config.protocol,
            progress=bars(),
        )

    def point(self, texts: Sequence[LabelledText], size: int, seed: int) -> LearningCurvePoint:
        """What a fit of a random subset of the texts reaches; nothing if the method cannot be fitted on it."""
        saved = self.folder / f"texts-{size}-{seed}"
        try:
            if not saved.exists():
                save_baseline(self._fitted(sample_texts(texts, size, seed)), saved)
        except LMSteerError as error:
            return LearningCurvePoint(size, seed, 0.0, 0.0, str(error))
        return LearningCurvePoint(size, seed, *score_range(self.evaluate(load_baseline(saved))))

    def _fitted(self, texts: Sequence[LabelledText]) -> Baseline:
        return fit_baseline(
            self.lm,
            self.method,
            texts,
            budget=self.config.budget,
            instructions=self.config.instructions,
            progress=bars(),
        )


@dataclass(frozen=True)
class _Cost:
    """What a fit took."""

    seconds: float
    peak_memory_bytes: int | None


def _read_cost(file: Path) -> _Cost:
    try:
        return from_record(_Cost, parse_json(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}. Remove it, and run the same command again.") from error


def main() -> None:
    """Measure one method in a process of its own; the last line of its output says what went wrong."""
    config_file, method, folder = sys.argv[1:]
    config = ComparisonConfig.from_json(json.loads(Path(config_file).read_text(encoding="utf-8")))
    try:
        fit_and_measure(config, method, Path(folder)).save(Path(folder))
    except LMSteerError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
