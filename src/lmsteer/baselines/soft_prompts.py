"""Prompt tuning (Lester et al., 2021) and prefix tuning (Li and Liang, 2021) through PEFT: a soft prompt for each end.

The strength is limited to -1 to 1: between the ends prompts are interpolated, in training and in use. In use, a prompt
is represented by its keys and values, so that each row of a batch may have its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import DynamicCache

from lmsteer.baselines.baseline import (
    BaselineCard,
    Capabilities,
    StoredBaseline,
    Trainer,
    batches_by_strength,
)
from lmsteer.baselines.room import check_room
from lmsteer.baselines.row_strengths import by_strength
from lmsteer.data.chats import Prompt
from lmsteer.errors import DataError, ModelError, SteerError
from lmsteer.generation.generate import encode_prompts
from lmsteer.generation.prefill import Prefill
from lmsteer.model.kv_cache import KVSlice, Start, inputs_of, slice_kv
from lmsteer.model.lm import LM
from lmsteer.reading.likelihood import sequence_log_prob
from lmsteer.steer.hook import unsteered
from lmsteer.util.compat import CACHE
from lmsteer.util.random_state import forked_random_state

_MINUS, _PLUS = "minus", "plus"
# PEFT's name of the parameter that holds the soft prompt.
_WEIGHT = "prompt_encoder.default.embedding.weight"


@dataclass(frozen=True)
class _SoftPrompt(StoredBaseline):
    """Stored: ``minus`` and ``plus``, a row for each token (T, ..)."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=False, zero_is_base=False, composable=False, by_row=True, transferable=False
    )

    @property
    def context(self) -> int:
        """Length of the soft prompt, T."""
        return len(self.tensors[_PLUS])

    def prefill(self, lm: LM, prompts: Sequence[Prompt], strength: float, new_tokens: int) -> Prefill:
        """Prompts after the soft prompt of a strength.

        Raises:
            WrongBaseError: another base.
            DataError: a prompt is empty or too long.
            SteerError: a strength below -1 or above 1.
        """
        self.check_base(lm)
        start = self._start(lm, strength)
        return Prefill([replace(start, ids=own) for own in encode_prompts(lm, prompts, new_tokens + self.context)])

    def for_rows(self, lm: LM) -> Callable[[float], Start]:
        """Rows after the soft prompt of a strength between -1 and 1.

        Raises:
            WrongBaseError: another base.
        """
        self.check_base(lm)
        return partial(self._start, lm)

    def _start(self, lm: LM, strength: float) -> Start:
        self._check_strengths([strength])
        return Start((), self.kv(lm, strength), self.context)

    @torch.inference_mode()
    def log_likelihoods(self, lm: LM, texts: Sequence[Sequence[int]], strengths: Sequence[float]) -> Tensor:
        """Log-likelihood of each text (N,) after the soft prompt of its strength.

        Raises:
            WrongBaseError: another base.
            DataError: a text is longer than the context that the soft prompt leaves.
            SteerError: a strength below -1 or above 1.
        """
        self.check_base(lm)
        check_room(lm, texts, self.context)
        self._check_strengths(strengths)
        kv = {strength: self.kv(lm, strength) for strength in set(strengths)}
        log_likelihoods = torch.zeros(len(texts))
        for batch in batches_by_strength(texts, strengths, by_row=True):
            inputs = inputs_of(lm, [Start(texts[i], kv[strengths[i]], self.context) for i in batch])
            new = {name: inputs[name][:, self.context :] for name in inputs.keys() - {CACHE, "attention_mask"}}
            logits = lm.model(attention_mask=inputs["attention_mask"], **new, **{CACHE: inputs[CACHE]}).logits[:, :-1]
            counted = inputs["attention_mask"][:, self.context :]
            log_likelihoods[batch] = sequence_log_prob(
                logits, new["input_ids"][:, 1:], counted[:, :-1] * counted[:, 1:]
            )
        return log_likelihoods

    def kv(self, lm: LM, strength: float) -> KVSlice:
        """Keys and values at a strength."""
        minus, plus = (self.tensors[end].to(lm.device) for end in (_MINUS, _PLUS))
        with lm.exclusive_use(), unsteered(lm.model):
            return self._kv(lm, _interpolate(minus, plus, strength))

    def _check_strengths(self, strengths: Sequence[float]) -> None:
        for strength in strengths:
            if not -1 <= strength <= 1:
                raise SteerError(f"{self.card.method} has no strength {strength:g}: its ends are -1 and 1.")

    def _kv(self, lm: LM, prompt: Tensor) -> KVSlice:
        raise NotImplementedError


@dataclass(frozen=True)
class PromptTuning(_SoftPrompt):
    """Prompt tuning: embeddings (T, d) before a text."""

    @torch.inference_mode()
    def _kv(self, lm: LM, prompt: Tensor) -> KVSlice:
        cache = DynamicCache(config=lm.model.config)
        embeddings = prompt[None].to(lm.model.dtype)
        lm.model(inputs_embeds=embeddings, use_cache=True, logits_to_keep=1, **{CACHE: cache})
        return slice_kv(cache, 0, len(prompt))


@dataclass(frozen=True)
class PrefixTuning(_SoftPrompt):
    """Prefix tuning: keys and values (T, 2 · layers · heads · d_head) before a text in every layer."""

    def _kv(self, lm: LM, prompt: Tensor) -> KVSlice:
        config = lm.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        parts = prompt.view(len(prompt), 2 * config.num_hidden_layers, heads, -1).permute(1, 2, 0, 3)
        return KVSlice(tuple(parts[0::2]), tuple(parts[1::2]))


class SoftPromptTrainer(Trainer):
    """Trains soft prompts of both ends: each text after the prompt that is interpolated at its label.

    Args:
        lm: the model.
        kind: ``prompt`` or ``prefix``.
        tokens: T.
        seed: seed of the initial prompts.

    Raises:
        DataError: PEFT is not installed.
        ModelError: PEFT does not know where the model has its layers.
    """

    def __init__(self, lm: LM, kind: str, tokens: int = 10, seed: int = 0) -> None:
        try:
            import peft
        except ImportError as error:
            raise DataError(f"{kind} tuning needs PEFT: pip install 'lmsteer[methods]'.") from error
        self._kind, self.context = kind, tokens
        self.learning_rate = {"prompt": 3e-2, "prefix": 1e-2}[kind]
        make: Any = {"prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig}[kind]
        settings = make(task_type="CAUSAL_LM", num_virtual_tokens=tokens)
        with forked_random_state([lm.device]), _quiet():
            try:
                self._model: Any = peft.get_peft_model(lm.model, settings)
            except ValueError as error:  # fields of the config that PEFT looks for and does not find
                raise ModelError(f"PEFT cannot put a {kind} before {type(lm.model).__name__}: {error}") from error
        random = torch.Generator().manual_seed(seed)

        def initial() -> Tensor:
            if kind == "prefix":  # zeros: what PEFT draws is far from any key or value
                return torch.zeros_like(self._model.get_parameter(_WEIGHT))
            words = torch.randint(lm.head.weight.shape[0], (tokens,), generator=random).to(lm.device)
            embedded: Tensor = lm.model.get_input_embeddings()(words)  # of random words (Lester et al., section 3.2)
            return embedded.detach().float()

        self._minus, self._plus = (initial().requires_grad_() for _ in range(2))

    def trainable(self) -> Sequence[Tensor]:
        """The prompts of both ends."""
        return [self._minus, self._plus]

    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """Logits of each row after the prompt of its strength; rows of one strength run together."""
        with _quiet():
            return by_strength(strengths, lambda strength, rows: self._after(strength, ids[rows], mask[rows]))

    def baseline(self, card: BaselineCard) -> StoredBaseline:
        """The prompts of both ends."""
        ends = {_MINUS: self._minus, _PLUS: self._plus}
        tensors = {end: prompt.detach().cpu().clone() for end, prompt in ends.items()}
        return {"prompt": PromptTuning, "prefix": PrefixTuning}[self._kind](card, tensors)

    def _after(self, strength: float, ids: Tensor, mask: Tensor) -> Tensor:
        prompt = {_WEIGHT: _interpolate(self._minus, self._plus, strength)}
        inputs = {"input_ids": ids, "attention_mask": mask}
        logits: Tensor = functional_call(self._model, prompt, kwargs=inputs).logits
        return logits[:, -ids.shape[1] :]


def _interpolate(minus: Tensor, plus: Tensor, strength: float) -> Tensor:
    """The prompt at a strength, of those at -1 and 1."""
    return torch.lerp(minus, plus, (strength + 1) / 2)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the deprecation warnings that PEFT causes in transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
