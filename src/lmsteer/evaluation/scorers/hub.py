"""Any text-classification model of transformers as a scorer.

A class's probability is a softmax over the classes, or, of a model with several labels at once or with a single one, a
sigmoid of its own logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lmsteer.errors import DataError, ModelError
from lmsteer.evaluation.scorers.base import HUB, UNDECIDED, ScorerMetrics
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.fingerprints import model_fingerprint
from lmsteer.model.loading import LOADING_ERRORS
from lmsteer.model.sources.resolve import check_hub

# Tokens of a text that are read where neither the model nor its tokenizer says how many it can.
_LONGEST = 512


class Classifier:
    """The probability of one class of a classifier.

    Args:
        reference: Hub id or folder, ``=`` and the class at the +1 end, which a model of two exclusive classes need not
            name: it is the second of them.

    Raises:
        ModelError: the model cannot be loaded, or is no classifier.
        DataError: no such class, or none given of several.
    """

    about: tuple[ScorerMetrics, ...] = ()

    def __init__(self, reference: str) -> None:
        self.name = HUB + reference
        model, label = _parts(reference)
        self._tokenizer, self._model = _load(model)
        self._class = _index(self._model.config, model, label)
        self.fingerprint = model_fingerprint(self._model)

    @torch.inference_mode()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability of the class for each text; what exceeds the model's context is cut off."""
        if not texts:
            return []
        limit = _context(self._tokenizer, self._model.config)
        encoded = self._tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        told = [i for i, ids in enumerate(encoded) if ids]
        found = torch.full((len(encoded),), UNDECIDED)
        for batch in length_buckets([encoded[i] for i in told]):
            rows = [told[i] for i in batch]
            found[rows] = self._probabilities([encoded[i] for i in rows])
        return found.tolist()

    def _probabilities(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Of texts (B,)."""
        padded, mask = pad(ids, self._model.config.get_text_config().pad_token_id, self._model.device)
        logits = self._model(input_ids=padded, attention_mask=mask).logits.float()
        found = logits.softmax(-1) if _exclusive(self._model.config) else logits.sigmoid()
        return found[:, self._class].cpu()


def _parts(reference: str) -> tuple[str, str]:
    """Model and class; a folder's own name may have a ``=`` in it."""
    if "=" not in reference or Path(reference).is_dir():
        return reference, ""
    model, _, label = reference.rpartition("=")
    return model, label


def _load(model: str) -> tuple[Any, Any]:
    """Tokenizer and classifier, padding settled: classifiers of causal models find a text's end by it."""
    try:
        if not Path(model).is_dir():
            check_hub(model)
        tokenizer = AutoTokenizer.from_pretrained(model)
        classifier, loading = AutoModelForSequenceClassification.from_pretrained(model, output_loading_info=True)
    except LOADING_ERRORS as error:
        raise ModelError(f"cannot load the classifier {model!r}: {error}") from error
    if missing := loading["missing_keys"]:
        raise ModelError(f"{model!r} is no classifier: it has no weights for {', '.join(sorted(missing))}.")
    config = classifier.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return tokenizer, classifier.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _index(config: Any, model: str, label: str) -> int:
    """The place of a class among the model's."""
    if config.problem_type == "regression":
        raise DataError(f"{model!r} is a regression: its numbers are no probabilities of a class.")
    classes = {str(name): index for index, name in config.id2label.items()}
    if label in classes:
        return classes[label]
    if label or len(classes) != 2 or not _exclusive(config):
        raise DataError(f"name the class at the +1 end as {HUB}{model}=CLASS, one of {', '.join(classes)}.")
    return 1


def _exclusive(config: Any) -> bool:
    return config.num_labels > 1 and config.problem_type != "multi_label_classification"


def _context(tokenizer: Any, config: Any) -> int:
    """Tokens that are read of a text: as many as the tokenizer says, or else as the model has positions for."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or _LONGEST + 2
    # Two positions may be spoken for: RoBERTa's begin at 2.
    return tokenizer.model_max_length if tokenizer.model_max_length <= positions else positions - 2
