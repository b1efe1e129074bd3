"""The table of methods: how each is fitted, read back, and where on its curve it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lmsteer.baselines.activations import Activations, difference_of_means
from lmsteer.baselines.baseline import Baseline, BaselineCard, Trainer
from lmsteer.baselines.embeddings import Embeddings, EmbeddingsTrainer
from lmsteer.baselines.full import Full, FullTrainer
from lmsteer.baselines.gists import Gists, compressed_instructions
from lmsteer.baselines.lora import LoRA, LoRATrainer
from lmsteer.baselines.names import INSTRUCTION_BASED
from lmsteer.baselines.prompting import Prompting, few_shot, instructed
from lmsteer.baselines.rows import check_rows
from lmsteer.baselines.soft_prompts import PrefixTuning, PromptTuning, SoftPromptTrainer
from lmsteer.baselines.steer import SteerBaseline, closed_form
from lmsteer.baselines.training import TrainingBudget, train
from lmsteer.data.labelled import LabelledText, texts_fingerprint
from lmsteer.errors import DataError
from lmsteer.model.lm import LM
from lmsteer.util.artifacts import ArtifactKind
from lmsteer.util.progress import Progress, no_progress

_KIND = ArtifactKind("rival of a steer", "rival.json", "rival.safetensors", 1, DataError)
_ENDS = (-1.0, -0.5, 0.5, 1.0)
_FINE = (-6.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 6.0)
_SCALED = (-16.0, -8.0, -4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# A LoRA of every layer leaves sound text before 1.
_SMALL = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
Begun = Callable[[LM, int], Trainer]
Found = Callable[[LM, Sequence[LabelledText], BaselineCard], Baseline]


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        kind: of what it makes.
        strengths: where its curve is looked at.
        begin: what is trained, by model and seed.
        find: what is found without training, by model and texts; one of both is given.
    """

    kind: type[Baseline]
    strengths: Sequence[float]
    begin: Begun | None = None
    find: Found | None = None


METHODS: Mapping[str, Method] = {
    "steer": Method(SteerBaseline, _FINE, find=closed_form),
    "lora": Method(LoRA, _SMALL, begin=lambda lm, seed: LoRATrainer(lm, "all", seed=seed)),
    "lora-value": Method(LoRA, _SCALED, begin=lambda lm, seed: LoRATrainer(lm, "value", seed=seed)),
    "lora-head": Method(LoRA, _SCALED, begin=lambda lm, seed: LoRATrainer(lm, "head", seed=seed)),
    "prompt-tuning": Method(PromptTuning, _ENDS, begin=lambda lm, seed: SoftPromptTrainer(lm, "prompt", seed=seed)),
    "prefix-tuning": Method(PrefixTuning, _ENDS, begin=lambda lm, seed: SoftPromptTrainer(lm, "prefix", seed=seed)),
    "full": Method(Full, _SCALED, begin=lambda lm, seed: FullTrainer(lm)),
    "embeddings": Method(Embeddings, _SCALED, begin=lambda lm, seed: EmbeddingsTrainer(lm)),
    "prompting": Method(Prompting, (-1.0, 1.0), find=lambda lm, _, card: instructed(lm, card)),
    "gist": Method(Gists, (-1.0, 1.0), find=lambda lm, _, card: compressed_instructions(lm, card)),
    "few-shot": Method(Prompting, (-1.0, 1.0), find=few_shot),
    "activations": Method(Activations, _SCALED, find=difference_of_means),
}


def fit_baseline(
    lm: LM,
    method: str,
    texts: Sequence[LabelledText],
    *,
    budget: TrainingBudget | None = None,
    instructions: tuple[str, str] | None = None,
    progress: Progress = no_progress,
) -> Baseline:
    """Fit a method on labelled texts.

    Args:
        lm: the model; it stays as it is.
        method: by its name in ``METHODS``.
        texts: with labels in [-1, 1].
        budget: of its training, if it has one.
        instructions: for the -1 end and the +1 end, for ``prompting`` and ``gist``.
        progress: what to tell of the work.

    Raises:
        DataError: an unknown method, texts of one end only, PEFT not installed, or a training that diverged.
        ModelError: a model that has not what the method needs, or whose rows cannot be told apart.
        KeyboardInterrupt: the user stopped it.
    """
    if method not in METHODS:
        raise DataError(f"unknown method {method!r}: there are {', '.join(METHODS)}.")
    if not any(text.label > 0 for text in texts) or not any(text.label < 0 for text in texts):
        raise DataError("a style has two ends: give texts of both.")
    budget, made = budget or TrainingBudget(), METHODS[method]
    data = {"texts": len(texts), "fingerprint": hex(texts_fingerprint(texts))}
    words = (
        dict(zip(("minus", "plus"), instructions, strict=True)) if instructions and method in INSTRUCTION_BASED else {}
    )
    card = BaselineCard(method, lm.name, lm.fingerprint, lm.tokenizer_fingerprint, data, words)
    if made.find is not None:
        return made.find(lm, texts, card)
    assert made.begin is not None
    check_rows(lm)
    trained = made.begin(lm, budget.seed)
    told = train(lm, trained, texts, budget, progress)
    return trained.rival(replace(card, fit=told))


def save_baseline(rival: Baseline, folder: str | Path) -> Path:
    """Write a rival; an older one in the same folder stands until the new one is whole.

    Raises:
        DataError: the folder holds something else, or the disk does not take it.
    """
    _KIND.save(Path(folder), {"card": asdict(rival.card)}, rival.tensors)
    return Path(folder)


def load_baseline(folder: str | Path) -> Baseline:
    """Read a rival.

    Raises:
        DataError: none there, a damaged one, or one of a method that this version does not know.
    """
    with _KIND.reading(Path(folder)) as (told, tensors):
        card: Any = BaselineCard(**told["card"])
        return METHODS[card.method].kind(card, tensors)
