"""Any text-classification model of transformers as a scorer.

The probability of a class is a softmax over the classes. If a text can have several labels, or the model has a single
one, it is the sigmoid of the class's own logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from lmsteer.errors import DataError
from lmsteer.evaluation.scorers.base import HUB, UNDECIDED, ScorerMetrics
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.checkpoint import read_model, read_tokenizer
from lmsteer.model.context_length import UNLIMITED, context_length, stated_length
from lmsteer.model.fingerprints import model_fingerprint
from lmsteer.model.sources.resolve import hub_answers
from lmsteer.util.devices import accelerator

# Maximum number of tokens of a text, if neither the model nor its tokenizer has a limit.
_MAX_TOKENS = 512


class Classifier:
    """The probability of one class of a classifier.

    Args:
        reference: Hub id or folder, then ``=`` and the class at the +1 end. Of two exclusive classes it is the second
            by default.
        device: device of the model; the accelerator if there is one.

    Raises:
        ModelError: the model cannot be loaded, or is no classifier.
        DataError: there is no such class, or none is named and there are several.
    """

    is_probability = True
    metrics: tuple[ScorerMetrics, ...] = ()

    def __init__(self, reference: str, device: torch.device | None = None) -> None:
        self.name = HUB + reference
        model, label = _parts(reference)
        self._tokenizer, classifier = _load(model)
        self._context = _context(self._tokenizer, classifier)
        self._model = classifier.to(device or accelerator() or torch.device("cpu"))
        self._class = _index(self._model.config, model, label)
        self.fingerprint = model_fingerprint(self._model)

    @torch.inference_mode()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability of the class for each text; texts are cut at the model's context."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._context)["input_ids"]
        with_tokens = [i for i, ids in enumerate(encoded) if ids]
        result = torch.full((len(encoded),), UNDECIDED)
        for batch in length_buckets([encoded[i] for i in with_tokens]):
            rows = [with_tokens[i] for i in batch]
            result[rows] = self._probabilities([encoded[i] for i in rows])
        return result.tolist()

    def _probabilities(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Probabilities (B,) of the class for token ids of texts."""
        padded, mask = pad(ids, self._model.config.get_text_config().pad_token_id, self._model.device)
        logits = self._model(input_ids=padded, attention_mask=mask).logits.float()
        probabilities = logits.softmax(-1) if _exclusive(self._model.config) else logits.sigmoid()
        return probabilities[:, self._class].cpu()


def _parts(reference: str) -> tuple[str, str]:
    """Model and class; the name of a folder can have a ``=`` in it."""
    if "=" not in reference or Path(reference).is_dir():
        return reference, ""
    model, _, label = reference.rpartition("=")
    return model, label


def _load(model: str) -> tuple[Any, Any]:
    """Tokenizer and classifier with a padding token, by which classifiers of causal models find the end of a text."""
    here = {"local_files_only": Path(model).is_dir() or not hub_answers(model)}
    what = f"the classifier {model!r}"
    classifier: Any = read_model(AutoModelForSequenceClassification, model, what, **here)
    tokenizer: Any = read_tokenizer(model, what, **here)
    config = classifier.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return tokenizer, classifier.eval()


def _index(config: Any, model: str, label: str) -> int:
    """The index of a class."""
    if config.problem_type == "regression":
        raise DataError(f"{model!r} is a regression: its outputs are not probabilities of a class.")
    classes = {str(name): index for index, name in config.id2label.items()}
    if label in classes:
        return classes[label]
    if label or len(classes) != 2 or not _exclusive(config):
        raise DataError(f"name the class at the +1 end as {HUB}{model}=CLASS, one of {', '.join(classes)}.")
    return 1


def _exclusive(config: Any) -> bool:
    return config.num_labels > 1 and config.problem_type != "multi_label_classification"


def _context(tokenizer: Any, model: Any) -> int:
    """Maximum number of tokens of a text: the tokenizer's limit, or else the number of the model's positions."""
    stated = stated_length(model.config)
    positions = _MAX_TOKENS + 2 if stated == UNLIMITED else stated
    # RoBERTa's positions begin at 2, so that two of them cannot be used.
    told = tokenizer.model_max_length if tokenizer.model_max_length <= positions else positions - 2
    return min(told, context_length(model))
