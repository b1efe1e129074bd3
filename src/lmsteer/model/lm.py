"""LM: a frozen causal language model with its tokenizer and head.

Every other module uses a model through this flow::

    texts ──encode──> ids ──hidden_states──> h ──steered head──> logits

Hidden states are captured at the input of the head, so that no code per architecture is needed: whatever a model
does after its last layer (norms, projections, scales), ``h`` is the input of its output embedding.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmsteer.errors import ModelError
from lmsteer.model.batching import pad
from lmsteer.model.codec import Codec
from lmsteer.model.context_length import context_length
from lmsteer.model.fingerprints import head_sample, model_fingerprint
from lmsteer.model.head import Head
from lmsteer.model.proofs import prove
from lmsteer.steer.card import Card
from lmsteer.steer.hook import SteerHandle, sites_of, unsteered
from lmsteer.steer.mix import Mix
from lmsteer.steer.thread_guard import Guard, exclusive_use
from lmsteer.util.compat import is_recurrent, is_split
from lmsteer.util.provenance import provenance_of


@dataclass(frozen=True)
class LM:
    """A frozen causal LM.

    Attributes:
        model: any causal LM of transformers, in evaluation mode.
        tokenizer: its tokenizer.
        name: its name in the cards of steers: a Hub id, a folder's name, or ``smollm2``.
        base_fingerprint: the fingerprint that stands for the weights' own, where they are the same base in another form
            (quantised, say); None to compute it.

    Raises:
        ModelError: the model has no plain head, weights that are not in memory, or logits that its head does not
            explain; or it is not causal.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    base_fingerprint: str | None = None

    def __post_init__(self) -> None:
        self._check_weights()
        self.model.eval().requires_grad_(False)
        if self.is_split:  # what all processes must compute together is computed now, before one of them goes its way
            _ = self.fingerprint, self.head.weight, self.head.bias
        prove(self)

    @cached_property
    def head(self) -> Head:
        """The output embedding, with the model's logit scale and soft cap."""
        return Head.of(self.model)

    @cached_property
    def is_split(self) -> bool:
        """Whether several processes hold a part of the weights each, so that all of them must do the same work."""
        return any(is_split(parameter) for parameter in self.model.parameters())

    @property
    def hidden_size(self) -> int:
        """d."""
        return self.head.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """The device of the input embedding, where ids go; hidden states are on that of ``head.weight``."""
        return self.model.device

    @cached_property
    def max_length(self) -> int:
        """The length of the longest text that the model can take, in tokens."""
        return context_length(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the model's weights, the same in float32 and in bfloat16."""
        return self.base_fingerprint or model_fingerprint(self.model)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """SHA-256 of the vocabulary and of what begins, ends or is unknown in a text, 32 hex digits.

        What acts on no text is left out, since users and formats of files differ in it: the padding token, tokens
        beyond the rows of the head, and the list of further special tokens.
        """
        rows = len(self.head.weight)
        ids = {token: i for token, i in self.tokenizer.get_vocab().items() if i < rows}
        acting = {token for key, token in self.tokenizer.special_tokens_map.items() if key != "pad_token"}
        content = [sorted(ids.items()), sorted(ids[token] for token in acting if token in ids)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    @cached_property
    def head_sample(self) -> dict[int, float]:
        """Sixteen values of the head's weight, by which a card recognises kin."""
        return head_sample(self.head.weight, len(self.head.weight))

    def card(self, name: str, **fields: Any) -> Card:
        """A card for a steer of this model."""
        return Card(name=name, **provenance_of(self), head_sample=tuple(self.head_sample.values()), **fields)

    @property
    def pad_id(self) -> int:
        """The padding token. It is masked, so that any token will do where the tokenizer has none."""
        token = self.tokenizer.pad_token_id
        return token if token in range(self.codec.rows) else 0

    @cached_property
    def codec(self) -> Codec:
        """The tokenizer, with the number of token ids that the model can read."""
        embedding: Any = self.model.get_input_embeddings()
        # A quantised weight may be packed, so that its shape says nothing.
        rows = getattr(embedding, "num_embeddings", None) or len(embedding.weight)
        predicted = len(self.head.weight)
        if predicted < rows:  # nothing reads the likelihood of what is never predicted
            return Codec(self.tokenizer, predicted, self.name, "output embeddings")
        return Codec(self.tokenizer, rows, self.name)

    @cached_property
    def start_id(self) -> int:
        """The token that a text without a prompt starts from: the first that the tokenizer adds, or the end of text."""
        added = self.codec.tokenize([""])[0]
        candidates = [*added[:1], self.tokenizer.get_vocab().get("<|endoftext|>"), self.tokenizer.bos_token_id]
        rows = range(self.codec.rows)
        return next((token for token in (*candidates, self.end_id) if token in rows), 0)

    @cached_property
    def takes_positions(self) -> bool:
        """Whether the model's forward pass takes ``position_ids`` (those of Mamba and Bloom do not)."""
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @property
    def is_recurrent(self) -> bool:
        """Whether the model keeps a state in place of keys and values (Mamba and its like).

        transformers' ``generate`` does not continue exactly from such a state: it applies the attention mask of the
        whole past to the one new token.
        """
        return is_recurrent(self.model)

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
        """The token ids of each text, with or without the special tokens that the tokenizer adds.

        Raises:
            DataError: a text has a token that the model cannot read, or half of a surrogate pair, as broken JSON does.
        """
        return self.codec.encode(texts, special=special)

    @torch.inference_mode()
    def hidden_states(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The hidden states (B, T, d) at the head's input for right-padded ``ids`` (B, T), unsteered, on its device.

        Raises:
            ModelError: the model's forward pass does not call its output embedding.
        """
        return self.before_head(input_ids=ids, attention_mask=attention_mask)

    def before_head(self, mix: Mix | None = None, /, **inputs: Any) -> Tensor:
        """The hidden states (B, T, d) at the head's input in a forward pass over any inputs, on its device.

        Gradients flow through. The head computes one position only, since its logits are not used.

        Args:
            mix: the steers that act inside the model; none by default. In front of the head none acts.
            **inputs: the arguments of the forward pass.

        Raises:
            ModelError: the model's forward pass does not call its output embedding.
        """
        captured: list[Tensor] = []

        def capture(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            captured.append(args[0])
            return (args[0][:1, -1:],)

        head = self.head
        inside = SteerHandle(self.model, mix, at_head=False) if mix is not None and mix.sites else nullcontext()
        with unsteered(self.model), inside, head.module.register_forward_pre_hook(capture, prepend=True):
            self.model(**{"use_cache": False, **inputs})
        if len(captured) != 1:
            raise ModelError(
                f"{type(self.model).__name__} called its output embedding {len(captured)} times in one "
                "forward pass instead of once; it cannot be steered."
            )
        return captured[0].to(head.device)

    @torch.inference_mode()
    def predicting(self, ids: Sequence[Sequence[int]], mix: Mix | None = None) -> tuple[Tensor, Tensor]:
        """The hidden states (N, d) that predict the tokens of some texts, and those tokens (N,), text by text.

        Every token of a text but its first is predicted: N is the sum of (length - 1). Both are on the head's device.

        Args:
            ids: the texts.
            mix: the steers that act inside the model; none by default.
        """
        padded, mask = pad(ids, self.pad_id, self.device)
        h = self.before_head(mix, input_ids=padded, attention_mask=mask)
        padded, predicted = padded.to(h.device), mask[:, 1:].to(h.device).bool()
        return h[:, :-1][predicted], padded[:, 1:][predicted]

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
            WrongBaseError: a steer of the mix was fitted on another base.
            SteerError: a steer has another hidden size or vocabulary than the model, or acts at a site that it lacks.
        """
        for steer in mix.steers.values():
            steer.card.check_base(self)
        vocabulary, hidden_size = self.head.weight.shape
        mix.check_shape(hidden_size, vocabulary)
        sites_of(self.model, mix)

    def check_in_one_process(self, what: str) -> None:
        """Refuse work that one process does by itself, on a model whose weights are split over several.

        Args:
            what: the work, such as "an export".

        Raises:
            ModelError: the weights are split.
        """
        if self.is_split:
            raise ModelError(
                f"{what} needs all weights of {self.name!r} in one process, and they are split over several: load it "
                "without distributed_config. device_map='auto' spreads it over the devices of one process."
            )

    def _check_weights(self) -> None:
        """Refuse weights that accelerate keeps on disk or in the CPU's memory and loads for each forward pass."""
        if away := [name for name, parameter in self.model.named_parameters() if parameter.is_meta]:
            raise ModelError(
                f"{len(away)} weights of {self.name!r} are offloaded ({away[0]} is one); lmsteer needs them in memory. "
                "Load the model in a smaller dtype (bfloat16), over more devices, or with device_map='cpu'."
            )
