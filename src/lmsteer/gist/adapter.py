"""A gist adapter: embeddings of gist tokens and a LoRA, which teach a frozen model to squeeze prompts into them.

While it is installed the LoRA is added to the weights themselves, so that it costs nothing; afterwards they are what
they were, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lmsteer.errors import DataError, WrongBaseError
from lmsteer.files import check_folder, replace_folder
from lmsteer.gist.embedding import embedded, gist_ids
from lmsteer.gist.masks import check_maskable
from lmsteer.lm import LM

CARD_FILE, WEIGHTS_FILE = "gist.json", "gist.safetensors"
_FORMAT = 1
_EMBEDDINGS, _DOWN, _UP = "embeddings", "down", "up"


@dataclass(frozen=True)
class GistCard:
    """A gist adapter's provenance.

    Attributes:
        base: name of the model.
        base_fingerprint: of its weights.
        tokenizer_fingerprint: of its tokenizer.
        tokens: G, gist tokens after a prompt.
        data: what it was fitted on.
        fit: how.
        held_out: figures on texts that the fit has not seen.
    """

    base: str
    base_fingerprint: str
    tokenizer_fingerprint: str
    tokens: int
    data: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GistAdapter:
    """What makes gists of prompts.

    Attributes:
        embeddings: of the gist tokens (G, d), or one for all of them (1, d).
        down: of each adapted layer, by its name in the model, A (r, n).
        up: of each adapted layer, B (m, r), with the LoRA's scale in it: its weight (m, n) becomes W + B A.
        card: where it comes from.

    Raises:
        DataError: no gist tokens, or factors that do not fit together.
    """

    embeddings: Tensor
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    card: GistCard

    def __post_init__(self) -> None:
        if self.card.tokens < 1:
            raise DataError(f"an adapter needs one gist token or more, not {self.card.tokens}.")
        if len(self.embeddings) not in (1, self.card.tokens):
            raise DataError(f"{self.card.tokens} gist tokens cannot have {len(self.embeddings)} embeddings.")
        if self.down.keys() != self.up.keys() or any(self.up[n].shape[1] != a.shape[0] for n, a in self.down.items()):
            raise DataError("the factors of the LoRA do not fit together.")

    @cached_property
    def fingerprint(self) -> str:
        """Of embeddings and factors; 32 hex digits."""
        digest = hashlib.sha256(str(self.card.tokens).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def ids(self, lm: LM) -> list[int]:
        """The G ids that stand for gist tokens after a prompt."""
        different = gist_ids(lm, len(self.embeddings))
        return different if len(different) == self.card.tokens else different * self.card.tokens

    @contextmanager
    def installed(self, lm: LM) -> Iterator[None]:
        """Have a model know gist tokens, within a ``with`` block.

        Raises:
            WrongBaseError: it is not the adapter's base, or has not the layers that it adapts.
            ModelError: a model that cannot honour gist masks.
        """
        self._check(lm)
        modules = {name: lm.model.get_submodule(name) for name in self.down}
        with ExitStack() as stack:
            for name, module in modules.items():
                stack.enter_context(_added(module, self.up[name], self.down[name]))
            stack.enter_context(embedded(lm, self.embeddings.to(lm.device)))
            yield

    def _check(self, lm: LM) -> None:
        base = (lm.fingerprint, lm.tokenizer_fingerprint)
        if base != (self.card.base_fingerprint, self.card.tokenizer_fingerprint):
            raise WrongBaseError(f"this gist adapter was fitted on {self.card.base} and cannot be used with {lm.name}.")
        check_maskable(lm)

    def _tensors(self) -> dict[str, Tensor]:
        """By name, as they are stored."""
        factors = {f"{name}.{_DOWN}": a for name, a in self.down.items()}
        factors |= {f"{name}.{_UP}": b for name, b in self.up.items()}
        return {_EMBEDDINGS: self.embeddings, **factors}


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else than a gist adapter, which saving one there would remove.

    Raises:
        DataError: it does, or it is no folder.
    """
    check_folder(folder, (CARD_FILE, WEIGHTS_FILE), "gist adapter", DataError)


def save_adapter(adapter: GistAdapter, folder: str | Path) -> Path:
    """Write an adapter; an older one in the same folder stands until the new one is whole.

    Raises:
        DataError: the folder holds something else, or the disk does not take it.
    """
    folder = Path(folder)
    check_target(folder)
    try:
        with replace_folder(folder) as aside:
            save_file({k: v.contiguous() for k, v in adapter._tensors().items()}, aside / WEIGHTS_FILE)
            (aside / WEIGHTS_FILE).chmod(0o644)  # safetensors writes 0600: an adapter is to be shared
            told = {"format": _FORMAT, "card": asdict(adapter.card)}
            (aside / CARD_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write the gist adapter to {folder}: {error}.") from error
    return folder


def load_adapter(folder: str | Path) -> GistAdapter:
    """Read an adapter.

    Raises:
        DataError: none there, or a damaged one.
    """
    folder = Path(folder)
    try:
        told = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        if told["format"] != _FORMAT:
            raise ValueError(f"format {told['format']}, which this version does not know")
        card = GistCard(**told["card"])
        tensors = load_file(folder / WEIGHTS_FILE)
        embeddings = tensors.pop(_EMBEDDINGS)
        down, up = (
            {name.removesuffix(f".{end}"): tensor for name, tensor in tensors.items() if name.endswith(f".{end}")}
            for end in (_DOWN, _UP)
        )
        return GistAdapter(embeddings, down, up, card)
    except FileNotFoundError as error:
        raise DataError(f"no gist adapter in {folder}: {error.filename} is missing.") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"the gist adapter in {folder} is damaged: {type(error).__name__}: {error}.") from error


@contextmanager
@torch.no_grad()
def _added(module: nn.Module, up: Tensor, down: Tensor) -> Iterator[None]:
    """Add B A to a layer's weight (m, n), or (n, m) in GPT-2's manner, and take the former weight back at the end."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    former = weight.data
    update = up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32)
    if isinstance(module, Conv1D):
        update = update.T
    if update.shape != weight.shape:
        raise WrongBaseError(f"the gist adapter has a layer of {tuple(update.shape)}; the model's is {weight.shape}.")
    weight.data = former.clone().copy_(former.float() + update)  # laid out as it was, which products are quick for
    try:
        yield
    finally:
        weight.data = former
