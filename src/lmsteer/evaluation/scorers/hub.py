"""Any text-classification model of transformers as a scorer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lmsteer.batches import by_length, pad
from lmsteer.errors import DataError, ModelError


class Classifier:
    """The probability of one class of a classifier.

    Args:
        model: Hub id or folder.
        label: of the class at the +1 end; of two classes, the second if not given.

    Raises:
        ModelError: the model cannot be loaded.
        DataError: no such class, or none given of several.
    """

    def __init__(self, model: str, label: str = "") -> None:
        self.name = f"hf:{model}" + (f"={label}" if label else "")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model)
            self._model = AutoModelForSequenceClassification.from_pretrained(model).eval()
        except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError) as error:
            raise ModelError(f"cannot load the classifier {model!r}: {error}") from error
        labels = {str(name): index for index, name in self._model.config.id2label.items()}
        if label not in labels and (label or len(labels) != 2):
            raise DataError(f"name the class at the +1 end as hf:{model}=CLASS, one of {', '.join(labels)}.")
        self._class = labels[label] if label else 1

    @torch.inference_mode()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability of the class for each text; what exceeds the model's context is cut off."""
        if not texts:
            return []
        limit = min(self._tokenizer.model_max_length, self._model.config.get_text_config().max_position_embeddings)
        encoded = self._tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        found = torch.zeros(len(encoded))
        for batch in by_length(encoded):
            ids, mask = pad([encoded[i] for i in batch], self._tokenizer.pad_token_id or 0, self._model.device)
            logits = self._model(input_ids=ids, attention_mask=mask).logits.float()
            found[batch] = logits.softmax(-1)[:, self._class].cpu()
        return found.tolist()
