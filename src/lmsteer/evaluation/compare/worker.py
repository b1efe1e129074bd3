"""One method in a comparison: fitted, saved, and everything about it measured, in a process of its own.

    python -m lmsteer.evaluation.compare.worker PLAN METHOD FOLDER

What is done already (the fit, and every block of continuations) is taken as it is.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lmsteer.baselines.baseline import Baseline
from lmsteer.baselines.methods import METHODS, fit_baseline, load_baseline, save_baseline
from lmsteer.baselines.training import TrainingBudget
from lmsteer.data.labelled import LabelledSource, LabelledText, sample_texts
from lmsteer.errors import DataError, LMSteerError
from lmsteer.evaluation.conditions import Condition
from lmsteer.evaluation.evaluate import evaluate
from lmsteer.evaluation.metrics import is_degenerate
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.results import ConditionResult
from lmsteer.evaluation.scorers import Scorer, scorer
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import continue_from
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.util.files import finite, write_file
from lmsteer.util.progress import bars

# Text of more perplexity than this multiple of the unsteered is not sound.
SOUND = 1.5
_REPEATS, _TOKENS = 3, 24


@dataclass(frozen=True)
class ComparisonConfig:
    """What a comparison measures; the same for every method.

    Attributes:
        model: to be turned.
        source: of the labelled texts.
        prompts: to continue.
        scorer: of the attribute, by name.
        judge: model whose perplexity is told; ``model`` if None.
        budget: of every training.
        protocol: how much is written for each prompt.
        sizes: numbers of texts, for what each method needs.
        seeds: draws of the texts at each size.
        instructions: for the -1 end and the +1 end, for ``prompting`` and ``gist``.
    """

    model: str
    source: LabelledSource
    prompts: Sequence[str]
    scorer: str
    judge: str | None = None
    budget: TrainingBudget = field(default_factory=TrainingBudget)
    protocol: Protocol = field(default_factory=Protocol)
    sizes: Sequence[int] = ()
    seeds: int = 1
    instructions: tuple[str, str] | None = None

    def quick(self) -> ComparisonConfig:
        """The same with tiny settings, which show whether everything runs, not how good it is."""
        return replace(
            self,
            prompts=[*self.prompts][:2],
            protocol=replace(self.protocol, num_samples=2),
            budget=replace(self.budget, steps=5, batch=4),
            sizes=(),
        )

    def to_json(self) -> dict[str, Any]:
        """For the file that processes share."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> ComparisonConfig:
        """What ``to_json`` told."""
        made = {"source": LabelledSource, "budget": TrainingBudget, "protocol": Protocol}
        return cls(**{**told, **{key: kind(**told[key]) for key, kind in made.items()}})


@dataclass(frozen=True)
class MethodResult:
    """What was measured of a method.

    Attributes:
        method: by its name.
        traits: of its strength.
        parameters: numbers stored.
        bytes: on disk.
        context: tokens of the context that it takes.
        seconds: of the fit.
        peak_bytes: memory of the whole process by the end of the fit, model and judge included.
        slowdown: seconds a token, as a multiple of the model's as it comes.
        first_token: likewise, seconds to the first token.
        outcomes: unsteered, then by strength.
        growth: by number of texts and draw: how far it gets up and down in sound text, and why nowhere.
    """

    method: str
    traits: Mapping[str, bool]
    parameters: int
    bytes: int
    context: int
    seconds: float
    peak_bytes: int
    slowdown: float
    first_token: float
    outcomes: Sequence[ConditionResult]
    growth: Sequence[Mapping[str, Any]]

    @property
    def up(self) -> float:
        """The most that scores go up while text stays sound."""
        return reach(self.outcomes)[0]

    @property
    def down(self) -> float:
        """The most that they go down."""
        return reach(self.outcomes)[1]

    def figures(self) -> dict[str, Any]:
        """Everything but outcomes and growth, for a table."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("outcomes", "growth")}
        return {**told, "up": self.up, "down": self.down}

    def to_json(self) -> dict[str, Any]:
        """For the comparison's file."""
        return finite({**asdict(self), "outcomes": [each.to_json() for each in self.outcomes]})

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> MethodResult:
        """What ``to_json`` told."""
        return cls(**{**told, "outcomes": [ConditionResult.from_json(each) for each in told["outcomes"]]})


def reach(outcomes: Sequence[ConditionResult]) -> tuple[float, float]:
    """The most that scores go up and down from unsteered text's, among strengths under which text stays sound."""
    base = outcomes[0]
    likely = [each for each in outcomes if each.perplexity.mean <= SOUND * base.perplexity.mean]
    sound = [each for each in likely if not is_degenerate(each.rep_3, base.rep_3)]
    up = [each.score.mean - base.score.mean for each in sound if each.strength >= 0]
    down = [base.score.mean - each.score.mean for each in sound if each.strength <= 0]
    return max(up, default=0.0), max(down, default=0.0)


def measure(plan: ComparisonConfig, method: str, folder: Path) -> MethodResult:
    """Fit a method, and measure it.

    Raises:
        LMSteerError: what the method, the data or the model do not allow.
    """
    lm, texts = load(plan.model), plan.source.read()
    if max(plan.sizes, default=0) > len(texts):
        raise DataError(f"there are {len(texts)} texts, and no {max(plan.sizes)} to draw from them.")
    judge = load(plan.judge) if plan.judge else lm
    started, kept = time.perf_counter(), folder / "fitted"
    told = folder / "fit.json"
    if not told.exists():
        save_baseline(_fitted(plan, lm, method, texts), kept)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        write_file(told, json.dumps({"seconds": seconds, "peak_bytes": peak}))
    rival = load_baseline(kept)
    work = _Work(plan, method, lm, judge, scorer(plan.scorer), folder)
    first, slowdown = _speeds(lm, rival, plan.prompts)
    return MethodResult(
        method,
        asdict(rival.traits),
        rival.parameters,
        rival.bytes,
        rival.context,
        **json.loads(told.read_text(encoding="utf-8")),
        slowdown=slowdown,
        first_token=first,
        outcomes=work.outcomes(rival),
        growth=[work.grown(texts, size, seed) for size in plan.sizes for seed in range(plan.seeds)],
    )


def _fitted(plan: ComparisonConfig, lm: LM, method: str, texts: Sequence[LabelledText]) -> Baseline:
    return fit_baseline(lm, method, texts, budget=plan.budget, instructions=plan.instructions, progress=bars())


@dataclass(frozen=True)
class _Work:
    """What a method is measured with, and where what it writes is kept."""

    plan: ComparisonConfig
    method: str
    lm: LM
    judge: LM
    scorer: Scorer
    folder: Path

    def outcomes(self, rival: Baseline) -> list[ConditionResult]:
        arms = [Condition(f"{self.method} {s:+g}", self.method, s, rival=rival) for s in METHODS[self.method].strengths]
        return evaluate(
            self.lm,
            self.plan.prompts,
            [Condition("unsteered", "unsteered", 0.0), *arms],
            self.scorer,
            self.folder.parent / "written",  # of all methods: what is unsteered is written once
            judge=self.judge,
            protocol=self.plan.protocol,
            progress=bars(),
        )

    def grown(self, texts: Sequence[LabelledText], size: int, seed: int) -> dict[str, Any]:
        """How far a fit of some of the texts gets; nowhere, and why, if the method can make nothing of them."""
        kept, place = self.folder / f"texts-{size}-{seed}", {"texts": size, "seed": seed}
        try:
            if not kept.exists():
                save_baseline(_fitted(self.plan, self.lm, self.method, sample_texts(texts, size, seed)), kept)
        except LMSteerError as error:
            return {**place, "up": 0.0, "down": 0.0, "failed": str(error)}
        up, down = reach(self.outcomes(load_baseline(kept)))
        return {**place, "up": up, "down": down}


def _speeds(lm: LM, rival: Baseline, prompts: Sequence[str]) -> tuple[float, float]:
    """Seconds to the first token and a token after it, as multiples of the model's as it comes; medians, in turn."""
    strength = max(METHODS[rival.card.method].strengths)
    some = [*prompts][:8]

    def written(strength: float | None, new: int) -> tuple[float, int]:
        arm = Condition("speed", "speed", strength or 0.0, rival=None if strength is None else rival)
        started = time.perf_counter()
        rows = list(continue_from(lm, some, arm.starts(lm, some, new), {}, [{}], GenerationConfig(max_new_tokens=new)))
        return time.perf_counter() - started, sum(row.tokens for row in rows)

    def one(strength: float | None) -> tuple[float, float]:
        (first, few), (whole, tokens) = written(strength, 1), written(strength, _TOKENS)
        return first, (whole - first) / max(tokens - few, 1)

    one(None), one(strength)
    pairs = [(one(None), one(strength)) for _ in range(_REPEATS)]

    def median(who: int, what: int) -> float:
        return statistics.median(pair[who][what] for pair in pairs)

    return median(1, 0) / median(0, 0), median(1, 1) / median(0, 1)


def main() -> None:
    """Measure one method, as a process of its own; what went wrong is the last line of what it says."""
    plan_file, method, folder = sys.argv[1:]
    plan = ComparisonConfig.from_json(json.loads(Path(plan_file).read_text(encoding="utf-8")))
    try:
        found = measure(plan, method, Path(folder))
    except LMSteerError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    write_file(Path(folder) / "contender.json", json.dumps(found.to_json(), indent=1) + "\n")


if __name__ == "__main__":
    main()
