"""Baselines of a steer: what another method has learnt from the same labelled texts, with a strength.

Every method learns both ends of a style, -1 and +1. Its capabilities say what lies between them and beyond. Methods act
in one of two ways, and each has a type of its own: a ``ForwardBaseline`` changes the model's forward passes, the others
put something in front of the text, words or keys and values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lmsteer.baselines.room import check_room
from lmsteer.data.chats import Prompt
from lmsteer.errors import DataError, ModelError
from lmsteer.generation.generate import encode_prompts
from lmsteer.generation.prefill import Prefill
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.reading.likelihood import sequence_log_prob
from lmsteer.util.artifacts import ArtifactKind
from lmsteer.util.provenance import Provenance

ADAPTER = ArtifactKind("baseline", "adapter.json", "adapter.safetensors", 1, DataError)


@dataclass(frozen=True)
class Capabilities:
    """What the strength of a method can be.

    Attributes:
        continuous: any number is a strength; else there are two ends, and perhaps what is interpolated between them.
        zero_is_base: strength 0 is the unsteered model.
        composable: several can act at once, each at its own strength.
        by_row: each row of a batch can have its own strength.
        transferable: it can be transferred to another model without its labelled texts.
    """

    continuous: bool
    zero_is_base: bool
    composable: bool
    by_row: bool
    transferable: bool


@dataclass(frozen=True, kw_only=True)
class BaselineCard(Provenance):
    """The provenance of a baseline.

    Attributes:
        method: the method's name in ``METHODS``.
    """

    method: str

    @property
    def title(self) -> str:
        """What the baseline is called in an error message."""
        return f"this {self.method} baseline"


class Baseline(ABC):
    """What a method has learnt.

    Attributes:
        capabilities: what its strength can be.
        all_rows: why rows of one batch cannot have it each, where they cannot.
    """

    capabilities: ClassVar[Capabilities]
    all_rows: ClassVar[str] = "it changes what all rows go through"

    @property
    @abstractmethod
    def method(self) -> str:
        """The method's name in ``METHODS``."""

    @property
    @abstractmethod
    def stored(self) -> Mapping[str, Tensor]:
        """The stored tensors, by name."""

    @abstractmethod
    def check_base(self, lm: LM) -> None:
        """Refuse another base.

        Raises:
            WrongBaseError: it was fitted on another one.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the baseline to a folder.

        Raises:
            LMSteerError: the folder holds something else, or the disk cannot be written.
        """

    @abstractmethod
    def prefill(self, lm: LM, prompts: Sequence[Prompt], strength: float, new_tokens: int) -> Prefill:
        """Start continuations of prompts at a strength, for ``continue_from``.

        Args:
            lm: the base.
            prompts: prompts to continue.
            strength: strength for all of them.
            new_tokens: number of tokens that will follow.

        Raises:
            WrongBaseError: another base.
            DataError: a prompt is empty or too long.
            SteerError: the method does not have this strength.
        """

    def for_rows(self, lm: LM) -> Callable[[float], Start]:
        """Prepare the baseline for rows of a batch whose other rows need not have it.

        Args:
            lm: the base.

        Returns:
            Where such rows start, before their own tokens, for each strength. It raises ``SteerError`` for a strength
            that the method does not have.

        Raises:
            WrongBaseError: another base.
            ModelError: rows of one batch cannot have this method each, or not on this model.
        """
        raise ModelError(f"{self.method} cannot be one row's alone: {self.all_rows}.")

    @abstractmethod
    def log_likelihoods(self, lm: LM, texts: Sequence[Sequence[int]], strengths: Sequence[float]) -> Tensor:
        """Log-likelihood of each text (N,) after its first token.

        Args:
            lm: the base.
            texts: token ids of each text.
            strengths: strength for each text.

        Raises:
            WrongBaseError: another base.
            DataError: a text is longer than the context that the method leaves.
            SteerError: the method does not have one of the strengths.
        """

    @property
    def parameters(self) -> int:
        """Number of stored parameters."""
        return sum(tensor.numel() for tensor in self.stored.values())

    @property
    def bytes(self) -> int:
        """Size of the stored parameters in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.stored.values())

    @property
    def context(self) -> int:
        """Number of tokens of the context that it takes."""
        return 0

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of what is stored."""
        return tensors_fingerprint(self.stored)


class ForwardBaseline(Baseline):
    """A baseline that acts on the model's forward passes."""

    @abstractmethod
    def at(self, lm: LM, strengths: Sequence[float]) -> AbstractContextManager[None]:
        """Change the model's forward passes within a ``with`` block.

        Args:
            lm: the base.
            strengths: one strength for all rows, or one for each row.

        Raises:
            WrongBaseError: another base.
            SteerError: the method does not have one of the strengths.
        """

    def prefill(self, lm: LM, prompts: Sequence[Prompt], strength: float, new_tokens: int) -> Prefill:
        """The prompts as they are, continued by the changed model."""
        self.check_base(lm)
        prefill = Prefill.of_ids(encode_prompts(lm, prompts, new_tokens))
        return replace(prefill, installed=partial(self.at, lm, [strength]))

    @torch.inference_mode()
    def log_likelihoods(self, lm: LM, texts: Sequence[Sequence[int]], strengths: Sequence[float]) -> Tensor:
        """Log-likelihood of each text (N,) after its first token, under the changed model.

        Raises:
            WrongBaseError: another base.
            DataError: a text is longer than the model's context.
            SteerError: the method does not have one of the strengths.
        """
        check_room(lm, texts)
        result = torch.zeros(len(texts))
        for batch in batches_by_strength(texts, strengths, by_row=self.capabilities.by_row):
            padded, mask = pad([texts[i] for i in batch], lm.pad_id, lm.device)
            own = [strengths[i] for i in batch] if self.capabilities.by_row else [strengths[batch[0]]]
            with self.at(lm, own):
                logits = lm.model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :-1]
            result[batch] = sequence_log_prob(logits, padded[:, 1:], mask[:, 1:])
        return result


@dataclass(frozen=True)
class StoredBaseline(Baseline):
    """A baseline that is kept in a folder of ``adapter.json`` and ``adapter.safetensors``.

    Attributes:
        card: its provenance.
        tensors: the stored tensors, by name.

    Raises:
        DataError: values that are not finite, or tensors other than the method stores.
    """

    card: BaselineCard
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if not all(tensor.is_floating_point() and torch.isfinite(tensor).all() for tensor in self.tensors.values()):
            raise DataError(f"{self.card.title} holds values that are not finite numbers.")

    @property
    def method(self) -> str:
        """The method's name on the card."""
        return self.card.method

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """The stored tensors, by name."""
        return self.tensors

    def check_base(self, lm: LM) -> None:
        """Refuse another base.

        Raises:
            WrongBaseError: the card names another one.
        """
        self.card.check_base(lm)

    def save(self, folder: Path) -> None:
        """Write ``adapter.json`` and ``adapter.safetensors``; older ones stay until the new ones are complete.

        Raises:
            DataError: the folder holds something else.
            OutputError: the disk cannot be written.
        """
        ADAPTER.save(folder, {"card": asdict(self.card)}, self.tensors)


class Trainer(ABC):
    """The trained parameters of a baseline, and the logits in which they act.

    Attributes:
        learning_rate: the highest learning rate, that of the first step.
        context: number of tokens of the context that it takes.
    """

    learning_rate: float
    context: int = 0

    @abstractmethod
    def trainable(self) -> Sequence[Tensor]:
        """The parameters."""

    @abstractmethod
    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """Logits (B, T, V) of texts (B, T), each at its strength (B,)."""

    @abstractmethod
    def baseline(self, card: BaselineCard) -> StoredBaseline:
        """The baseline that has been learnt so far."""


def batches_by_strength(
    texts: Sequence[Sequence[int]], strengths: Sequence[float], *, by_row: bool
) -> Iterator[list[int]]:
    """Batches of indices of texts of similar length; all of one strength unless rows can have their own."""
    groups = [list(range(len(texts)))]
    if not by_row:
        groups = [[i for i in groups[0] if strengths[i] == strength] for strength in sorted(set(strengths))]
    for group in groups:
        for batch in length_buckets([texts[i] for i in group]):
            yield [group[i] for i in batch]
