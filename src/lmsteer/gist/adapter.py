"""A gist adapter: embeddings of gist tokens and a LoRA, which teach a frozen model to squeeze prompts into them.

While it is installed the LoRA (or what full fine-tuning has changed) is added to a copy of the weights, so that a pass
takes no longer; afterwards they are what they were, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lmsteer.errors import DataError, ModelError, WrongBaseError
from lmsteer.gist.embedding import embedded, gist_ids
from lmsteer.gist.masks import GistCondition
from lmsteer.gist.probe import check_maskable
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM
from lmsteer.model.low_rank import check_floating
from lmsteer.model.weights import temporary_update
from lmsteer.util.artifacts import ArtifactKind
from lmsteer.util.files import finite

SHIPPED_FOLDER = Path(str(files("lmsteer") / "assets" / "gists"))

_KIND = ArtifactKind("gist adapter", "gist.json", "gist.safetensors", 1, DataError)
# Models that have an adapter installed, and its fingerprint: their weights are not their own.
_ADAPTED = WeakKeyDictionary[nn.Module, str]()
_EMBEDDINGS, _DOWN, _UP, _CHANGE = "embeddings", "down", "up", "change"


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
        down: of each adapted layer, by its name in the model, A (r, n), in bfloat16 as fitted.
        up: of each adapted layer, B (m, r), with the LoRA's scale in it: its weight (m, n) becomes W + B A.
        card: where it comes from.
        changes: of each parameter, by its name in the model, what full fine-tuning adds to it.

    Raises:
        DataError: no gist tokens, factors that do not fit together, or values that are not finite numbers.
    """

    embeddings: Tensor
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    card: GistCard
    changes: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.card.tokens < 1:
            raise DataError(f"an adapter needs one gist token or more, not {self.card.tokens}.")
        if len(self.embeddings) not in (1, self.card.tokens):
            raise DataError(f"{self.card.tokens} gist tokens cannot have {len(self.embeddings)} embeddings.")
        if self.down.keys() != self.up.keys() or any(self.up[n].shape[1] != a.shape[0] for n, a in self.down.items()):
            raise DataError("the factors of the LoRA do not fit together.")
        if not all(torch.isfinite(tensor).all() for tensor in self.tensors.values()):
            raise DataError("the adapter holds values that are not finite numbers: its fit diverged.")

    @property
    def condition(self) -> GistCondition:
        """Under which it was fitted."""
        return GistCondition(self.card.fit.get("condition", GistCondition.GIST.value))

    @cached_property
    def fingerprint(self) -> str:
        """Of embeddings and factors, and of how many gist tokens they are for."""
        return f"{tensors_fingerprint(self.tensors)}-{self.card.tokens}"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, as they are stored."""
        factors = {f"{name}.{_DOWN}": a for name, a in self.down.items()}
        factors |= {f"{name}.{_UP}": b for name, b in self.up.items()}
        factors |= {f"{name}.{_CHANGE}": change for name, change in self.changes.items()}
        return {_EMBEDDINGS: self.embeddings, **factors}

    def ids(self, lm: LM) -> list[int]:
        """The G ids that stand for gist tokens after a prompt."""
        return gist_ids(lm, self.card.tokens, len(self.embeddings))

    @contextmanager
    def installed(self, lm: LM) -> Iterator[None]:
        """Have a model know gist tokens, within a ``with`` block; blocks of one adapter may stand in one another.

        Putting it in copies the weights: who writes often keeps it in.

        Raises:
            WrongBaseError: it is not the adapter's base, or has not the layers that it adapts.
            ModelError: a model that cannot honour gist masks, or has another adapter installed.
        """
        if _ADAPTED.get(lm.model) == self.fingerprint:
            yield
            return
        self._check(lm)
        if lm.model in _ADAPTED:
            raise ModelError(f"{lm.name} has another gist adapter installed: one at a time.")
        with ExitStack() as stack:
            _ADAPTED[lm.model] = self.fingerprint
            stack.callback(_ADAPTED.pop, lm.model)
            for parameter, update in self._updates(lm):
                stack.enter_context(temporary_update(parameter, update))
            stack.enter_context(embedded(lm, self.embeddings.to(lm.device)))
            yield

    def _updates(self, lm: LM) -> list[tuple[nn.Parameter, Tensor]]:
        """Parameters of a model, and what is added to each."""
        try:
            updates = [*self._of_layers(lm), *((lm.model.get_parameter(name), c) for name, c in self.changes.items())]
        except AttributeError as error:
            raise WrongBaseError(f"{lm.name} has not the layers of this gist adapter: {error}.") from error
        if len({id(parameter) for parameter, _ in updates}) < len(updates):
            raise ModelError(f"{lm.name} has layers that share a weight: it cannot take an update of each.")
        return updates

    def _of_layers(self, lm: LM) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for name, down in self.down.items():
            module = lm.model.get_submodule(name)
            check_floating(module, "a gist adapter")
            update = self.up[name].float() @ down.float()
            weight = lm.model.get_parameter(f"{name}.weight")
            yield weight, update.T if isinstance(module, Conv1D) else update  # GPT-2's layers are transposed

    def _check(self, lm: LM) -> None:
        base = (lm.fingerprint, lm.tokenizer_fingerprint)
        if base != (self.card.base_fingerprint, self.card.tokenizer_fingerprint):
            raise WrongBaseError(f"this gist adapter was fitted on {self.card.base} and cannot be used with {lm.name}.")
        check_maskable(lm)


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else than a gist adapter, which saving one there would remove.

    Raises:
        DataError: it does, or it is no folder.
    """
    _KIND.check_target(folder)


def save_adapter(adapter: GistAdapter, folder: str | Path) -> Path:
    """Write an adapter; an older one in the same folder stands until the new one is whole.

    Raises:
        DataError: the folder holds something else, or the disk does not take it.
    """
    folder = Path(folder)
    _KIND.save(folder, {"card": finite(asdict(adapter.card))}, adapter.tensors)
    return folder


def find_adapter(name: str | Path) -> GistAdapter:
    """Read an adapter by folder, or one that ships by its name.

    Raises:
        DataError: there is none, or a damaged one.
    """
    for folder in (Path(name), SHIPPED_FOLDER / name):
        if folder.exists():
            return load_adapter(folder)
    shipped = ", or ".join(["", *sorted(entry.name for entry in SHIPPED_FOLDER.glob("*"))])
    raise DataError(f"no gist adapter in {name}; give a folder that gist fit made{shipped}.")


def load_adapter(folder: str | Path) -> GistAdapter:
    """Read an adapter.

    Raises:
        DataError: none there, or a damaged one.
    """
    with _KIND.reading(Path(folder)) as (told, tensors):
        embeddings = tensors.pop(_EMBEDDINGS)
        down, up, changes = (
            {name.removesuffix(f".{end}"): tensor for name, tensor in tensors.items() if name.endswith(f".{end}")}
            for end in (_DOWN, _UP, _CHANGE)
        )
        return GistAdapter(embeddings, down, up, GistCard(**told["card"]), changes)
