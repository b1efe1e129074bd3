"""A gist: the keys and values of a prompt's gist tokens, which stand in the prompt's place; a file that can be sent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmsteer.errors import DataError, WrongBaseError
from lmsteer.gist.adapter import GistAdapter
from lmsteer.model.kv_cache import KVSlice
from lmsteer.model.lm import LM
from lmsteer.util.files import replace_file

_FORMAT = 1
_HEADER = "gist"


@dataclass(frozen=True)
class Origin:
    """What a gist was made of and by.

    Attributes:
        base: name of the model.
        base_fingerprint: of its weights.
        adapter_fingerprint: of the adapter that squeezed the prompt.
        prompt_tokens: that it stands for.
        end: position of what follows: G where the model sees distances only, else the prompt's tokens before it.
        format: of the file.
    """

    base: str
    base_fingerprint: str
    adapter_fingerprint: str
    prompt_tokens: int
    end: int
    format: int = _FORMAT

    @classmethod
    def of(cls, lm: LM, adapter: GistAdapter, prompt_tokens: int, end: int) -> Origin:
        """Of a prompt that an adapter squeezed."""
        return cls(lm.name, lm.fingerprint, adapter.fingerprint, prompt_tokens, end)


@dataclass(frozen=True)
class Gist:
    """A squeezed prompt.

    Attributes:
        keys: of each layer (heads, G, d_head).
        values: of each layer (heads, G, d_head).
        origin: where it comes from.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    origin: Origin

    @property
    def tokens(self) -> int:
        """G."""
        return self.keys[0].shape[1]

    @property
    def kept(self) -> KVSlice:
        """Keys and values."""
        return KVSlice(self.keys, self.values)

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        return sum(part.numel() * part.element_size() for part in (*self.keys, *self.values))

    def to_json(self) -> dict[str, Any]:
        """Its origin and its size, as a JSON object."""
        return {**asdict(self.origin), "gist_tokens": self.tokens, "bytes": self.bytes}

    def check(self, lm: LM, adapter: GistAdapter) -> None:
        """Refuse another base, another adapter, or a cache of another shape.

        Raises:
            WrongBaseError: it is one.
        """
        if self.origin.base_fingerprint != lm.fingerprint:
            raise WrongBaseError(f"this gist is of {self.origin.base}, and cannot be used with {lm.name}.")
        layers = lm.model.config.get_text_config().num_hidden_layers
        if len(self.keys) != layers:
            raise WrongBaseError(f"this gist has {len(self.keys)} layers, {lm.name} has {layers}.")
        if self.origin.adapter_fingerprint != adapter.fingerprint:
            raise WrongBaseError("this gist was made by another gist adapter: use the one that made it.")

    def save(self, file: str | Path) -> Path:
        """Write it; an older file stands until the new one is whole.

        Raises:
            DataError: the disk does not take it.
        """
        file = Path(file)
        tensors = {f"keys.{layer}": part.contiguous() for layer, part in enumerate(self.keys)}
        tensors |= {f"values.{layer}": part.contiguous() for layer, part in enumerate(self.values)}
        try:
            with replace_file(file) as aside:
                save_file(tensors, aside, metadata={_HEADER: json.dumps(asdict(self.origin))})
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot write the gist to {file}: {error}.") from error
        return file

    @classmethod
    def load(cls, file: str | Path) -> Gist:
        """Read one.

        Raises:
            DataError: no gist there, or a damaged one.
        """
        try:
            with safe_open(file, "pt") as stored:
                origin = Origin(**json.loads((stored.metadata() or {})[_HEADER]))
                layers = sum(name.startswith("keys.") for name in stored.keys())  # noqa: SIM118
                keys, values = (
                    tuple(stored.get_tensor(f"{what}.{layer}") for layer in range(layers))
                    for what in ("keys", "values")
                )
        except FileNotFoundError as error:
            raise DataError(f"no such file: {file}.") from error
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{file} is no gist, or damaged: {type(error).__name__}: {error}.") from error
        if origin.format != _FORMAT or not layers:
            raise DataError(f"{file} is a gist of another format ({origin.format}); squeeze its prompt again.")
        return cls(keys, values, origin)
