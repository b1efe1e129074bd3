"""LM: a frozen causal language model with its tokenizer and head.

Every other module sees a model only through this flow::

    texts ──encode──> ids ──hidden_states──> h ──steered head──> logits

Hidden states are read off the head's own input, so no file per architecture is needed: whatever a model
does after its last layer (norms, projections, scales), ``h`` is what its output embedding is given.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lmsteer.errors import DataError, ModelError
from lmsteer.model.batching import pad
from lmsteer.model.fingerprints import head_sample, model_fingerprint
from lmsteer.model.head import Head
from lmsteer.model.onednn import use_onednn
from lmsteer.model.sources.resolve import DEFAULT_MODEL, check_hub, resolve
from lmsteer.steer.card import Card
from lmsteer.steer.guard import Guard, exclusive_use
from lmsteer.steer.hook import SteerHandle, unsteered
from lmsteer.steer.mix import Mix
from lmsteer.util.provenance import provenance_of

# Logits that differ by more than this share of their size mean that the head is not what its config says;
# float32 rounding is 1e-6, bfloat16's 8e-3.
_HEAD_TOLERANCE = 2e-2


# What transformers raises of a model that is missing, damaged or unknown.
LOADING_ERRORS = (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, SafetensorError)


@dataclass(frozen=True)
class LM:
    """A frozen causal LM.

    Attributes:
        model: any causal LM of transformers, in evaluation mode.
        tokenizer: its tokenizer.
        name: how steer cards name it: a Hub id, a folder's name, or ``smollm2``.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        self._prove_head()

    @cached_property
    def head(self) -> Head:
        """The output embedding, with the model's logit scale and soft cap."""
        return Head.of(self.model)

    @property
    def hidden_size(self) -> int:
        """d."""
        return self.head.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where ids go in."""
        return self.model.device

    @cached_property
    def max_length(self) -> int:
        """The longest text in tokens that the model's positions allow."""
        config = self.model.config.get_text_config()
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
        return min((int(limit) for limit in limits if limit), default=1 << 20)

    @cached_property
    def fingerprint(self) -> str:
        """Of the model's weights, in float32 and in bfloat16 the same."""
        return model_fingerprint(self.model)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """SHA-256 over the vocabulary and its special tokens."""
        content = [sorted(self.tokenizer.get_vocab().items()), sorted(self.tokenizer.all_special_ids)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def card(self, name: str, **fields: Any) -> Card:
        """A card of a steer whose base this is."""
        sample = tuple(head_sample(self.head.weight, len(self.head.weight)).values())
        return Card(name=name, **provenance_of(self), head_sample=sample, **fields)

    @property
    def pad_id(self) -> int:
        """A token to pad with; it is masked, so that any will do where the tokenizer has none of its own."""
        given = self.tokenizer.pad_token_id
        return given if given is not None and 0 <= given < self.head.weight.shape[0] else 0

    @cached_property
    def start_id(self) -> int:
        """The token from which the model writes from nothing: what its tokenizer puts first, or ends texts with."""
        given = self.encode([""])[0]
        candidates = [*given[:1], self.tokenizer.get_vocab().get("<|endoftext|>"), self.tokenizer.bos_token_id]
        rows = range(self.head.weight.shape[0])
        return next((token for token in (*candidates, self.end_id) if token in rows), 0)

    @property
    def takes_positions(self) -> bool:
        """Whether the model can be told where in its text each token stands (Mamba and Bloom cannot)."""
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @property
    def is_recurrent(self) -> bool:
        """Whether the model keeps a state in place of its past (Mamba and its like).

        transformers' ``generate`` does not go on exactly from such a state: it applies the mask of the whole past to
        the one token that is new.
        """
        return bool(getattr(self.model, "_is_stateful", False))

    @property
    def end_id(self) -> int | None:
        """The end-of-text token of the tokenizer, which stands after a text that is read; None if it has none."""
        token = self.tokenizer.eos_token_id
        assert token is None or isinstance(token, int)
        return token

    @property
    def stop_ids(self) -> list[int]:
        """The tokens at which generation stops: those of the model's generation config, ``end_id`` mostly among them.

        A chat model stops at its end of turn, too.
        """
        end = self.model.generation_config.eos_token_id
        return [] if end is None else [end] if isinstance(end, int) else list(end)

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Token ids of each text, as the tokenizer encodes it, with or without special tokens of its own.

        Raises:
            DataError: a text is none that can be written (half of a surrogate pair, as broken JSON has it).
        """
        if not texts:
            return []
        try:
            encoded = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
        except (TypeError, UnicodeError):
            for number, text in enumerate(texts, 1):
                if any("\ud800" <= character <= "\udfff" for character in text):
                    raise DataError(f"text {number} has half of a character in it (a lone surrogate).") from None
            raise
        return [list(ids) for ids in encoded]

    @torch.inference_mode()
    def hidden_states(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The rows (B, T, d) that the head is given for right-padded ``ids`` (B, T), unsteered.

        Raises:
            ModelError: the model's forward pass does not call its output embedding.
        """
        return self.before_head(input_ids=ids, attention_mask=attention_mask)

    def before_head(self, **inputs: Any) -> Tensor:
        """The rows (B, T, d) that the head is given in a forward pass over any inputs, unsteered; gradients go through.

        The head itself computes one position only: its logits are not wanted here.

        Raises:
            ModelError: the model's forward pass does not call its output embedding.
        """
        captured: list[Tensor] = []

        def capture(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            captured.append(args[0])
            return (args[0][:1, -1:],)

        with unsteered(self.model), self.head.module.register_forward_pre_hook(capture, prepend=True):
            self.model(**{"use_cache": False, **inputs})
        if len(captured) != 1:
            raise ModelError(
                f"{type(self.model).__name__} called its output embedding {len(captured)} times in one "
                "forward pass instead of once; it cannot be steered."
            )
        return captured[0]

    def predicting(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The hidden states (N, d) that predict tokens of some texts, and those tokens (N,), text by text.

        Every token of a text but its first is predicted: N is the sum of their lengths, less one each.
        """
        padded, mask = pad(ids, self.pad_id, self.device)
        predicted = mask[:, 1:].bool()
        return self.hidden_states(padded, mask)[:, :-1][predicted], padded[:, 1:][predicted]

    def steered(self, mix: Mix) -> SteerHandle:
        """Steer the model within a ``with`` block: ``model.generate``, pipelines and plain forward passes alike.

        Blocks within blocks add up. Meanwhile the model belongs to this thread, as within ``exclusive_use``.

        Raises:
            WrongBaseError: a steer of the mix was fitted on another base.
            SteerError: the mix has another hidden size or vocabulary than the model.
        """
        self.check_base(mix)
        return SteerHandle(self.model, mix)

    def exclusive_use(self) -> Guard:
        """Keep other threads from steering or reading the model within a ``with`` block; they wait for its end."""
        return exclusive_use(self.model)

    def check_base(self, mix: Mix) -> None:
        """Refuse steers of another base.

        Raises:
            WrongBaseError: there is one.
        """
        for steer in mix.steers.values():
            steer.card.check_base(self)

    @torch.inference_mode()
    def _prove_head(self) -> None:
        """Refuse a model whose logits are not what ``Head`` makes of its hidden states."""
        ids = torch.arange(1, 5, device=self.device)[None]
        mask = torch.ones_like(ids)
        ours = self.head.logits(self.hidden_states(ids, mask))
        theirs = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        gap = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)
        if not gap <= _HEAD_TOLERANCE:
            raise ModelError(
                f"{type(self.model).__name__}: logits computed from its hidden states differ from its own by "
                f"{gap:.1%} of their size; it does something to its logits that lmsteer does not know."
            )


def load(model: str | Path = DEFAULT_MODEL, *, dtype: torch.dtype | str = "auto", **options: Any) -> LM:
    """Load a causal LM by Hub id, local folder, ``.gguf`` file, or the name of a packaged model.

    Args:
        model: what to load.
        dtype: of the weights; ``"auto"`` takes the checkpoint's own.
        options: passed on to ``AutoModelForCausalLM.from_pretrained`` (``device_map``, ``quantization_config``,
            ``attn_implementation`` ...). On a machine with CUDA the model goes there unless ``device_map`` says else.

    Raises:
        ModelError: the model cannot be found, fetched, read, or steered.
    """
    source = resolve(model)
    if not source.local:
        check_hub(source.location, options.get("cache_dir"))
    if torch.cuda.is_available():
        options.setdefault("device_map", f"cuda:{os.environ.get('LOCAL_RANK', '0')}")  # one a process of a launch
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, local_files_only=source.local)
        loaded = AutoModelForCausalLM.from_pretrained(
            source.location, dtype=dtype, local_files_only=source.local, **options
        )
    except LOADING_ERRORS as error:
        raise ModelError(f"cannot load the model {str(model)!r}: {error}") from error
    use_onednn(loaded)
    return LM(loaded, tokenizer, source.name)
