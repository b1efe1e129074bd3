"""A rival of a steer: what a method has learnt from labelled texts, and turns by a strength.

Every method learns both ends of a style: +1 and -1. What lies between and beyond depends on the method, and its traits
say what.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.generation.decoding import Prefill, PromptPrefill
from lmsteer.generation.generate import encode_prompts
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM


@dataclass(frozen=True)
class Capabilities:
    """What a method's strength is, and what it costs.

    Attributes:
        continuous: any number is a strength; else the two ends, and what is interpolated between them.
        zero_is_base: strength 0 is the model as it comes.
        composable: several can act at once, each at its own strength.
        by_row: rows of one batch may have strengths of their own.
        transferable: it can be carried to another model without its labelled texts.
    """

    continuous: bool
    zero_is_base: bool
    composable: bool
    by_row: bool
    transferable: bool


@dataclass(frozen=True)
class BaselineCard:
    """A rival's provenance.

    Attributes:
        method: by its name in the table of methods.
        base: name of the model.
        base_fingerprint: of its weights.
        tokenizer_fingerprint: of its tokenizer.
        data: fingerprint of the labelled texts, with their number.
        fit: settings, steps and seconds.
    """

    method: str
    base: str
    base_fingerprint: str
    tokenizer_fingerprint: str
    data: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline(ABC):
    """What a method has learnt.

    Attributes:
        card: where it comes from.
        tensors: what is stored, by name.

    Raises:
        DataError: values that are not finite numbers, or not what the method stores.
    """

    card: BaselineCard
    tensors: Mapping[str, Tensor]
    traits: ClassVar[Capabilities]

    def __post_init__(self) -> None:
        if not all(torch.isfinite(tensor).all() for tensor in self.tensors.values()):
            raise DataError(f"the {self.card.method} holds values that are not finite numbers.")

    @property
    def parameters(self) -> int:
        """Numbers stored."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Of the numbers stored."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def context(self) -> int:
        """Tokens of the context that it takes."""
        return 0

    @cached_property
    def fingerprint(self) -> str:
        """Of what is stored."""
        return tensors_fingerprint(self.tensors)

    def check_base(self, lm: LM) -> None:
        """Refuse another base.

        Raises:
            WrongBaseError: it is one.
        """
        if (lm.fingerprint, lm.tokenizer_fingerprint) != (self.card.base_fingerprint, self.card.tokenizer_fingerprint):
            raise WrongBaseError(
                f"this {self.card.method} was fitted on {self.card.base!r}, and cannot be used with {lm.name!r}."
            )

    def at(self, lm: LM, strengths: Sequence[float]) -> AbstractContextManager[None]:
        """Have the model act so in plain forward passes, at one strength or one for each row, within a ``with`` block.

        Raises:
            SteerError: a strength that the method cannot have, or a method that acts through the prompt alone.
        """
        raise SteerError(f"{self.card.method} acts through the prompt, and not on a model's passes.")

    @torch.inference_mode()
    def log_likelihoods(self, lm: LM, texts: Sequence[Sequence[int]], strengths: Sequence[float]) -> Tensor:
        """Log-likelihood of each text (N,), each at its strength, after its first token; texts are ids.

        Raises:
            WrongBaseError: another base.
            SteerError: a strength that the method cannot have.
        """
        found = torch.zeros(len(texts))
        for batch in self._batches(texts, strengths):
            padded, mask = pad([texts[i] for i in batch], lm.pad_id, lm.device)
            given = [strengths[i] for i in batch] if self.traits.by_row else [strengths[batch[0]]]
            with self.at(lm, given):
                logits = lm.model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :-1]
            found[batch] = sequence_log_prob(logits, padded[:, 1:], mask[:, 1:])
        return found

    def _batches(self, texts: Sequence[Sequence[int]], strengths: Sequence[float]) -> Iterator[list[int]]:
        """Texts of like length, and of one strength where rows cannot have their own."""
        lots = [list(range(len(texts)))]
        if not self.traits.by_row:
            lots = [[i for i in lots[0] if strengths[i] == strength] for strength in sorted(set(strengths))]
        for lot in lots:
            for batch in length_buckets([texts[i] for i in lot]):
                yield [lot[i] for i in batch]

    def starts(self, lm: LM, prompts: Sequence[str], strength: float, new: int) -> Prefill:
        """Where continuations of prompts begin at a strength, for ``continue_from``.

        Args:
            lm: the base.
            prompts: to continue.
            strength: of all of them.
            new: tokens that will follow.

        Raises:
            WrongBaseError: another base.
            DataError: a prompt that is empty or too long.
            SteerError: a strength that the method cannot have.
        """
        self.check_base(lm)
        return _Installed(lm, encode_prompts(lm, prompts, new), self, strength)


def sequence_log_prob(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Log-likelihood of the targets (B, T) that count, summed over each row (B,)."""
    log_p = torch.log_softmax(logits.float(), -1).gather(-1, targets[..., None]).squeeze(-1)
    return (log_p * mask).sum(1).cpu()


class Trainer(ABC):
    """What is trained of a rival: parameters, at which rate, and logits in which they act."""

    rate: float

    @abstractmethod
    def trainable(self) -> Sequence[Tensor]:
        """The parameters."""

    @abstractmethod
    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """Logits (B, T, V) of texts (B, T), each at its strength (B,)."""

    @abstractmethod
    def rival(self, card: BaselineCard) -> Baseline:
        """What has been learnt so far."""


@dataclass(frozen=True)
class _Installed(PromptPrefill):
    """Prompts as they are, continued by a model that acts otherwise."""

    rival: Baseline
    strength: float

    def installed(self) -> AbstractContextManager[None]:
        """The model with the rival at work."""
        return self.rival.at(self.lm, [self.strength])
