"""Gist adapters: embeddings of gist tokens and a LoRA, by which a frozen model compresses prompts into gist tokens.

A folder of an adapter holds ``gist.json``, its card, and ``gist.safetensors``: ``embeddings``, and for each layer
``<layer>.lora_A`` and ``<layer>.lora_B``, or after full fine-tuning ``<parameter>.change``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lmsteer.errors import DataError, ModelError
from lmsteer.gist.config import GistCondition
from lmsteer.gist.embedding import gist_embeddings, gist_ids
from lmsteer.gist.lookup import GIST_ADAPTER, GistCard, find_folder
from lmsteer.gist.probe import check_maskable
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRAFactors, from_tensors, lora_installed, to_tensors
from lmsteer.model.row_adapters import RowAdapter, lora_additions
from lmsteer.model.row_layers import check_rows
from lmsteer.model.weights import temporary_update
from lmsteer.util.files import finite
from lmsteer.util.records import FormatError, from_record

# Fingerprints of the adapters that are installed, by model.
_INSTALLED = WeakKeyDictionary[nn.Module, str]()
_EMBEDDINGS, _CHANGE = "embeddings", ".change"


@dataclass(frozen=True)
class GistAdapter:
    """What a model needs to compress prompts.

    Attributes:
        embeddings: embeddings of the gist tokens (G, d), or one for all of them (1, d).
        lora: LoRA factors by the names of the layers; a fit keeps them in bfloat16.
        card: the adapter's card.
        changes: after full fine-tuning, what is added to each parameter, by its name in the model.

    Raises:
        DataError: no gist tokens, a number of embeddings that does not suit them, or values that are not finite.
    """

    embeddings: Tensor
    lora: Mapping[str, LoRAFactors]
    card: GistCard
    changes: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.card.tokens < 1:
            raise DataError(f"an adapter needs one gist token or more, not {self.card.tokens}.")
        if self.embeddings.dim() != 2 or not all(tensor.is_floating_point() for tensor in self.tensors.values()):
            raise DataError("an adapter needs embeddings of two dimensions, and numbers with a fraction throughout.")
        if len(self.embeddings) not in (1, self.card.tokens):
            raise DataError(f"{self.card.tokens} gist tokens cannot have {len(self.embeddings)} embeddings.")
        if not all(torch.isfinite(tensor).all() for tensor in self.tensors.values()):
            raise DataError("the adapter holds values that are not finite numbers: its fit diverged.")

    @property
    def condition(self) -> GistCondition:
        """The condition under which the adapter was fitted."""
        return self.card.condition

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of all tensors, and the number of gist tokens."""
        return f"{tensors_fingerprint(self.tensors)}-{self.card.tokens}"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names under which they are stored."""
        changes = {f"{name}{_CHANGE}": change for name, change in self.changes.items()}
        return {_EMBEDDINGS: self.embeddings, **to_tensors(self.lora), **changes}

    def ids(self, lm: LM) -> list[int]:
        """The token ids (G,) of the gist tokens after a prompt."""
        return gist_ids(lm, self.card.tokens, len(self.embeddings))

    def for_rows(self, lm: LM) -> RowAdapter:
        """The adapter for rows of a batch whose other rows need not have it: it reads and writes after gists.

        Raises:
            WrongBaseError: another base than the adapter's, or one without the layers that it adapts.
            ModelError: a model whose rows cannot have an adapter each, or an adapter that changes all weights.
        """
        self.card.check_base(lm)
        check_rows(lm)
        if self.changes:
            raise ModelError("this gist adapter changes all weights, which all rows go through: fit one with a LoRA.")
        return RowAdapter(lora_additions(lm, self.lora))

    @contextmanager
    def installed(self, lm: LM) -> Iterator[None]:
        """Give a model the gist tokens and the LoRA within a ``with`` block; blocks of one adapter may be nested.

        On a CPU in float32, installing merges the LoRA into copies of the weights (``lora_installed``): install it
        once around many generations. Afterwards the weights are the model's own again, bit for bit.

        Raises:
            WrongBaseError: another base than the adapter's, or one without the layers that it adapts.
            ModelError: a model that does not honour gist masks, or has another adapter installed.
        """
        with ExitStack() as stack:
            stack.enter_context(lm.exclusive_use())
            if _INSTALLED.get(lm.model) == self.fingerprint:
                yield
                return
            self.card.check_base(lm)
            check_maskable(lm)
            if lm.model in _INSTALLED:
                raise ModelError(f"{lm.name} has another gist adapter installed; only one at a time is possible.")
            _INSTALLED[lm.model] = self.fingerprint
            stack.callback(_INSTALLED.pop, lm.model)
            stack.enter_context(lora_installed(lm.model, self.lora))
            stack.enter_context(temporary_update(lm.model, self.changes.items()))
            stack.enter_context(gist_embeddings(lm, self.embeddings))
            yield


def save_adapter(adapter: GistAdapter, folder: str | Path) -> Path:
    """Write an adapter; an older one in the same folder stays until the new one is complete.

    Raises:
        DataError: the folder holds something else.
        OutputError: the disk cannot be written.
    """
    folder = Path(folder)
    GIST_ADAPTER.save(folder, {"card": finite(asdict(adapter.card))}, adapter.tensors)
    return folder


def find_adapter(name: str | Path) -> GistAdapter:
    """Read an adapter by its folder, or by the name of one that ships.

    Raises:
        DataError: there is none, or a damaged one.
    """
    return load_adapter(find_folder(name))


def load_adapter(folder: str | Path) -> GistAdapter:
    """Read an adapter from its folder.

    Raises:
        DataError: there is none, or a damaged one.
    """
    with GIST_ADAPTER.reading(Path(folder)) as (record, tensors):
        if _EMBEDDINGS not in tensors:
            raise FormatError(f"the tensor {_EMBEDDINGS!r} is missing")
        changes = {key.removesuffix(_CHANGE): change for key, change in tensors.items() if key.endswith(_CHANGE)}
        card = from_record(GistCard, record["card"])
        adapter = GistAdapter(tensors[_EMBEDDINGS], from_tensors(tensors), card, changes)
        if others := sorted(tensors.keys() - adapter.tensors.keys()):
            raise FormatError(f"it has no place for the tensor {others[0]!r}")
        return adapter
