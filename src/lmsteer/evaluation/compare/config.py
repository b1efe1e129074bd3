"""The configuration of a comparison, which is the same for every method. This module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lmsteer.baselines.budget import TrainingBudget
from lmsteer.data.chats import Prompt, as_prompt, prompt_json
from lmsteer.data.labelled import LabelledSource
from lmsteer.errors import DataError
from lmsteer.evaluation.protocol import COMPARISON_SAMPLES, Protocol
from lmsteer.generation.config import Limits, record_of
from lmsteer.util.run import Run

# ``quick``: number of prompts and of their continuations, training steps and texts per step.
_QUICK_PROMPTS, _QUICK_SAMPLES, _QUICK_TOKENS, _QUICK_STEPS, _QUICK_BATCH = 2, 2, 8, 5, 4


@dataclass(frozen=True)
class ComparisonConfig:
    """What a comparison measures.

    Attributes:
        model: name of the model.
        source: the labelled texts.
        prompts: prompts to continue, and chats to answer.
        scorer: name of the scorer of the attribute.
        perplexity_model: name of the model that perplexity is computed with; ``model`` if None.
        budget: budget of every training.
        protocol: how continuations are generated.
        train_sizes: numbers of texts for the learning curve of each method.
        num_seeds: number of random subsets of each of these sizes.
        instructions: an instruction for the -1 end and one for the +1 end, for ``prompting`` and ``gist``.

    Raises:
        DataError: a size or the number of seeds is out of range.
    """

    model: str
    source: LabelledSource
    prompts: Sequence[Prompt]
    scorer: str
    perplexity_model: str | None = None
    budget: TrainingBudget = field(default_factory=TrainingBudget)
    protocol: Protocol = field(default_factory=lambda: Protocol(num_samples=COMPARISON_SAMPLES))
    train_sizes: Sequence[int] = ()
    num_seeds: int = 1
    instructions: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if any(size < 2 for size in self.train_sizes):
            raise DataError("the sizes of a learning curve are two texts or more.")
        if self.num_seeds < 1:
            raise DataError(f"the number of seeds must be 1 or more, not {self.num_seeds}.")

    def quick(self) -> ComparisonConfig:
        """The same with tiny settings, which show whether everything runs."""
        return replace(
            self,
            prompts=self.prompts[:_QUICK_PROMPTS],
            train_sizes=(),
            protocol=replace(
                self.protocol,
                num_samples=_QUICK_SAMPLES,
                max_new_tokens=min(_QUICK_TOKENS, self.protocol.max_new_tokens),
            ),
            budget=replace(self.budget, steps=_QUICK_STEPS, batch_size=_QUICK_BATCH),
        )

    def check_sizes(self, texts: int) -> None:
        """Refuse sizes of the learning curve that are larger than the number of texts.

        Raises:
            DataError: there is one.
        """
        if (largest := max(self.train_sizes, default=0)) > texts:
            raise DataError(f"a learning curve of {largest} texts needs as many; there are {texts} texts.")

    def run(self, folder: Path) -> Run:
        """The resumable run of the comparison in a folder."""
        return Run(folder, self.to_json(), "a comparison")

    def to_json(self) -> dict[str, Any]:
        """The configuration as a JSON object; what older comparisons do not have is left out where it is off."""
        budget = asdict(self.budget)
        if not self.budget.search:
            del budget["search"]
        return {
            **asdict(self),
            "budget": budget,
            "prompts": [*map(prompt_json, self.prompts)],
            "protocol": record_of(self.protocol),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ComparisonConfig:
        """The configuration from its JSON object."""
        nested = {"source": LabelledSource, "budget": TrainingBudget}
        prompts = [as_prompt(prompt) for prompt in record["prompts"]]
        protocol = record["protocol"]
        protocol = Protocol(**{**protocol, "limits": Limits(**protocol.get("limits", {}))})
        known = {"prompts": prompts, "protocol": protocol}
        return cls(**{**record, **known, **{key: kind(**record[key]) for key, kind in nested.items()}})
