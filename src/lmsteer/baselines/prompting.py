"""Prompting: an instruction for each end before the text, or a few texts of that end. Nothing is trained.

There are three strengths: -1, 0 and 1. The words of an end stand before the text, or they do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from lmsteer.baselines.baseline import BaselineCard, Capabilities, StoredBaseline
from lmsteer.baselines.room import check_room
from lmsteer.data.chats import Prompt, after_instruction
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError, SteerError
from lmsteer.generation.generate import encode_prompts
from lmsteer.generation.prefill import Prefill
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.lm import LM
from lmsteer.reading.likelihood import sequence_log_prob

_ENDS = {-1.0: "minus", 0.0: None, 1.0: "plus"}


@dataclass(frozen=True)
class Prompting(StoredBaseline):
    """The words before a text at each end: ``fit["minus"]`` and ``fit["plus"]`` of the card. It has no tensors."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=False, zero_is_base=True, composable=True, by_row=True, transferable=True
    )
    all_rows: ClassVar[str] = "it is nothing but words, so send them with the prompt"

    def __post_init__(self) -> None:
        super().__post_init__()
        minus, plus, tokens = (self.card.fit.get(key) for key in ("minus", "plus", "tokens"))
        if not isinstance(minus, str) or not isinstance(plus, str) or not isinstance(tokens, int):
            raise DataError("the card of a prompting baseline must have the words of both ends, and their length.")

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of its words."""
        return hashlib.sha256(json.dumps([self.card.fit[end] for end in ("minus", "plus")]).encode()).hexdigest()[:32]

    @property
    def context(self) -> int:
        """Number of tokens of the longer of both ends' words."""
        return int(self.card.fit["tokens"])

    def check_base(self, lm: LM) -> None:
        """Accept any model: words suit all of them."""

    @torch.inference_mode()
    def log_likelihoods(self, lm: LM, texts: Sequence[Sequence[int]], strengths: Sequence[float]) -> Tensor:
        """Log-likelihood of each text (N,) after its first token, read after the words of its end.

        Raises:
            DataError: a text is longer than the context that the words leave.
            SteerError: a strength other than -1, 0 and 1.
        """
        words = {strength: lm.encode([self._words(strength)])[0] for strength in set(strengths)}
        rows = [[*words[s], *text] for text, s in zip(texts, strengths, strict=True)]
        check_room(lm, texts, max(map(len, words.values()), default=0))
        result = torch.zeros(len(texts))
        for batch in length_buckets(rows):
            padded, mask = pad([rows[i] for i in batch], lm.pad_id, lm.device)
            before = torch.tensor([[len(words[strengths[i]])] for i in batch], device=lm.device)
            counted = mask * (torch.arange(padded.shape[1], device=lm.device) > before)
            logits = lm.model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :-1]
            result[batch] = sequence_log_prob(logits, padded[:, 1:], counted[:, 1:])
        return result

    def prefill(self, lm: LM, prompts: Sequence[Prompt], strength: float, new_tokens: int) -> Prefill:
        """The prompts after the words of an end; in a chat these begin the system message.

        Raises:
            DataError: a prompt is empty, or too long together with the words.
            SteerError: a strength other than -1, 0 and 1.
        """
        words = self._words(strength)
        if "" in prompts:
            raise DataError(f"prompt {prompts.index('') + 1} is empty: there is nothing to continue.")
        instructed = [after_instruction(prompt, words) if words else prompt for prompt in prompts]
        return Prefill.of_ids(encode_prompts(lm, instructed, new_tokens))

    def _words(self, strength: float) -> str:
        if strength not in _ENDS:
            raise SteerError(f"prompting has no strength {strength:g}: there are -1, 0 and 1.")
        end = _ENDS[strength]
        return "" if end is None else str(self.card.fit[end])


def instructed(lm: LM, card: BaselineCard) -> Prompting:
    """Prompting by an instruction for each end: ``fit["minus"]`` and ``fit["plus"]`` of the card.

    Raises:
        DataError: an instruction is missing or blank.
    """
    minus, plus = (str(card.fit.get(end, "")).strip() for end in ("minus", "plus"))
    if not minus or not plus:
        raise DataError("prompting needs an instruction for each end.")
    return _prompting(lm, f"{minus} ", f"{plus} ", card)


def few_shot(lm: LM, texts: Sequence[LabelledText], card: BaselineCard, shots: int = 4) -> Prompting:
    """Prompting by example texts of each end, one a line: those with the largest labels, and the shortest of these.

    Raises:
        DataError: texts of one end only.
    """
    ends = []
    for sign in (-1, 1):
        own = [text for text in texts if text.label * sign > 0]
        own.sort(key=lambda text: (-abs(text.label), len(text.text), text.text))
        if not own:
            raise DataError("few-shot prompting needs texts of both ends.")
        ends.append("".join(f"{' '.join(text.text.split())}\n" for text in own[:shots]))
    return _prompting(lm, ends[0], ends[1], card)


def _prompting(lm: LM, minus: str, plus: str, card: BaselineCard) -> Prompting:
    tokens = max(len(ids) for ids in lm.encode([minus, plus]))
    return Prompting(replace(card, fit={**card.fit, "minus": minus, "plus": plus, "tokens": tokens}), {})
