"""The methods: how each is fitted and read back, and at which strengths its curve is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lmsteer.baselines.activations import Activations, difference_of_means
from lmsteer.baselines.baseline import ADAPTER, Baseline, BaselineCard, StoredBaseline, Trainer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.embeddings import Embeddings, EmbeddingsTrainer
from lmsteer.baselines.full import FullBaseline, FullTrainer
from lmsteer.baselines.gists import Gists, compressed_instructions
from lmsteer.baselines.lora import LoRABaseline, LoRATrainer
from lmsteer.baselines.names import INSTRUCTION_BASED, check_methods
from lmsteer.baselines.prompting import Prompting, few_shot, instructed
from lmsteer.baselines.search import search
from lmsteer.baselines.soft_prompts import PrefixTuning, PromptTuning, SoftPromptTrainer
from lmsteer.baselines.steer import DeepSteerBaseline, SteerBaseline, fit_steer, steer_baseline
from lmsteer.baselines.training import train
from lmsteer.data.labelled import LabelledText, texts_fingerprint
from lmsteer.errors import DataError
from lmsteer.fitting.site_names import DEEP, LORA
from lmsteer.model.lm import LM
from lmsteer.model.row_layers import check_rows
from lmsteer.steer.card import CARD_FILE
from lmsteer.steer.files import load_steer
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.provenance import provenance_of
from lmsteer.util.records import from_record

_ENDS = (-1.0, -0.5, 0.5, 1.0)
_FINE = (-6.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 6.0)
_WIDE = (-16.0, -8.0, -4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# The text of a LoRA of every layer degrades before strength 1.
_SMALL = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class FitTask:
    """What a method is fitted with.

    Attributes:
        lm: the model.
        texts: the labelled texts.
        card: the card of the result; ``fit`` holds the instructions for both ends, if there are any.
        budget: the budget of a training.
        progress: reports the work.
    """

    lm: LM
    texts: Sequence[LabelledText]
    card: BaselineCard
    budget: TrainingBudget
    progress: Progress


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        kind: the class of its baselines.
        strengths: the strengths at which its curve is measured.
        fit: fits a baseline.
    """

    kind: type[Baseline]
    strengths: Sequence[float]
    fit: Callable[[FitTask], Baseline]


def _trained(make_trainer: Callable[[LM, int], Trainer]) -> Callable[[FitTask], Baseline]:
    """A fit that trains the parameters of a trainer, which is made from the model and a seed."""

    def fit(task: FitTask) -> Baseline:
        check_rows(task.lm)
        make = partial(make_trainer, task.lm, task.budget.seed)
        if task.budget.search:
            trainer, metadata = search(task.lm, make, task.texts, task.budget, task.progress)
        else:
            trainer = make()
            metadata = train(task.lm, trainer, task.texts, task.budget, task.progress)
        return trainer.baseline(replace(task.card, fit=metadata))

    return fit


METHODS: Mapping[str, Method] = {
    "steer": Method(SteerBaseline, _FINE, lambda task: fit_steer(task.lm, task.texts, task.progress)),
    "deep-steer": Method(
        DeepSteerBaseline, _FINE, lambda task: fit_steer(task.lm, task.texts, task.progress, sites=(DEEP,))
    ),
    "lora-steer": Method(
        DeepSteerBaseline, _FINE, lambda task: fit_steer(task.lm, task.texts, task.progress, sites=(LORA,))
    ),
    "lora": Method(LoRABaseline, _SMALL, _trained(lambda lm, seed: LoRATrainer(lm, "all", seed=seed))),
    "lora-value": Method(LoRABaseline, _WIDE, _trained(lambda lm, seed: LoRATrainer(lm, "value", seed=seed))),
    "lora-head": Method(LoRABaseline, _WIDE, _trained(lambda lm, seed: LoRATrainer(lm, "head", seed=seed))),
    "prompt-tuning": Method(PromptTuning, _ENDS, _trained(lambda lm, seed: SoftPromptTrainer(lm, "prompt", seed=seed))),
    "prefix-tuning": Method(PrefixTuning, _ENDS, _trained(lambda lm, seed: SoftPromptTrainer(lm, "prefix", seed=seed))),
    "full": Method(FullBaseline, _WIDE, _trained(lambda lm, seed: FullTrainer(lm))),
    "embeddings": Method(Embeddings, _WIDE, _trained(lambda lm, seed: EmbeddingsTrainer(lm))),
    "prompting": Method(Prompting, (-1.0, 1.0), lambda task: instructed(task.lm, task.card)),
    "gist": Method(Gists, (-1.0, 1.0), lambda task: compressed_instructions(task.lm, task.card)),
    "few-shot": Method(Prompting, (-1.0, 1.0), lambda task: few_shot(task.lm, task.texts, task.card)),
    "activations": Method(Activations, _WIDE, lambda task: difference_of_means(task.lm, task.texts, task.card)),
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
        lm: the model; it is not changed.
        method: the method's name in ``METHODS``.
        texts: texts with labels in [-1, 1].
        budget: the budget of its training, if it is trained.
        instructions: an instruction for the -1 end and one for the +1 end, for ``prompting`` and ``gist``.
        progress: reports the work.

    Raises:
        DataError: an unknown method, texts of one end only, PEFT is not installed, or the training diverged.
        ModelError: the model lacks what the method needs, or cannot have a strength for each row.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    check_methods([method])
    if not any(text.label > 0 for text in texts) or not any(text.label < 0 for text in texts):
        raise DataError("a style has two ends: give texts of both.")
    words: dict[str, str] = {}
    if instructions and method in INSTRUCTION_BASED:
        words = dict(zip(("minus", "plus"), instructions, strict=True))
    data = {"texts": len(texts), "fingerprint": hex(texts_fingerprint(texts))}
    card = BaselineCard(method=method, **provenance_of(lm), data=data, fit=words)
    return METHODS[method].fit(FitTask(lm, texts, card, budget or TrainingBudget(), progress))


def save_baseline(baseline: Baseline, folder: str | Path) -> Path:
    """Write a baseline; an older one in the same folder stays until the new one is complete.

    Raises:
        LMSteerError: the folder holds something else, or the disk cannot be written.
    """
    baseline.save(Path(folder))
    return Path(folder)


def load_baseline(folder: str | Path) -> Baseline:
    """Read a baseline: a steer's folder, or one of ``adapter.json``.

    Raises:
        LMSteerError: there is none, it is damaged, or of a method that this version does not know.
    """
    folder = Path(folder)
    if (folder / CARD_FILE).exists():
        return steer_baseline(load_steer(folder))
    with ADAPTER.reading(folder) as (record, tensors):
        card = from_record(BaselineCard, record["card"])
        check_methods([card.method])
        kind = METHODS[card.method].kind
        if not issubclass(kind, StoredBaseline):
            raise DataError(f"a baseline of the method {card.method} is not kept in an {ADAPTER.card_file}.")
        return kind(card, tensors)
