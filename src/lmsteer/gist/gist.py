"""A gist: the keys and values of a prompt's gist tokens, which stand in for the prompt; a file that can be sent."""

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
from lmsteer.model.kv_cache import KVSlice, Start
from lmsteer.model.lm import LM
from lmsteer.model.row_adapters import RowAdapter
from lmsteer.util.files import replace_file, writing
from lmsteer.util.provenance import Provenance, provenance_of
from lmsteer.util.records import from_record, parse_json

_FORMAT = 2
_HEADER = "gist"


@dataclass(frozen=True, kw_only=True)
class GistProvenance(Provenance):
    """Where a gist comes from.

    Attributes:
        adapter_fingerprint: fingerprint of the adapter that compressed the prompt.
        prompt_tokens: number of tokens of the prompt.
        end: position of the first token after the gist: G if the model is shift-invariant, else G more than the
            number of the prompt's tokens.
        format: version of the file format.
    """

    adapter_fingerprint: str
    prompt_tokens: int
    end: int
    format: int = _FORMAT

    @classmethod
    def of(cls, lm: LM, adapter: GistAdapter, prompt_tokens: int, end: int) -> GistProvenance:
        """The provenance of a prompt that an adapter compressed."""
        return cls(**provenance_of(lm), adapter_fingerprint=adapter.fingerprint, prompt_tokens=prompt_tokens, end=end)

    @property
    def title(self) -> str:
        """What the gist is called in an error message."""
        return "this gist"

    def to_json(self) -> dict[str, Any]:
        """The fields that are not empty, for JSON."""
        return {name: value for name, value in asdict(self).items() if value != {}}


@dataclass(frozen=True)
class Gist:
    """A compressed prompt.

    Attributes:
        keys: keys of each layer (heads, G, d_head).
        values: values of each layer (heads, G, d_head).
        provenance: where it comes from.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    provenance: GistProvenance

    @property
    def tokens(self) -> int:
        """Number of positions whose keys and values are kept: G, or the whole prompt's for the positive control."""
        return self.keys[0].shape[1]

    @property
    def kv(self) -> KVSlice:
        """Keys and values."""
        return KVSlice(self.keys, self.values)

    def start(self, adapter: RowAdapter | None = None) -> Start:
        """Where rows after the gist start, before their own tokens; the model must have the adapter of the gist.

        Args:
            adapter: the adapter, for rows alone; None where it is installed in the model.
        """
        return Start((), self.kv, self.provenance.end, adapter)

    @property
    def bytes(self) -> int:
        """Size of keys and values."""
        return sum(part.numel() * part.element_size() for part in (*self.keys, *self.values))

    def to_json(self) -> dict[str, Any]:
        """Its origin and its size, as a JSON object."""
        return {**self.provenance.to_json(), "gist_tokens": self.tokens, "bytes": self.bytes}

    def check(self, lm: LM, adapter: GistAdapter) -> None:
        """Refuse another base, another adapter, or a cache of another shape.

        Raises:
            WrongBaseError: it is one.
        """
        self.provenance.check_base(lm)
        layers = lm.model.config.get_text_config().num_hidden_layers
        if len(self.keys) != layers:
            raise WrongBaseError(f"this gist has {len(self.keys)} layers, {lm.name} has {layers}.")
        if self.provenance.adapter_fingerprint != adapter.fingerprint:
            raise WrongBaseError("this gist was made by another gist adapter: use the one that made it.")

    def save(self, file: str | Path) -> Path:
        """Write the gist; an older file stays until the new one is complete.

        Raises:
            OutputError: the disk cannot be written.
        """
        file = Path(file)
        tensors = {f"keys.{layer}": part.contiguous() for layer, part in enumerate(self.keys)}
        tensors |= {f"values.{layer}": part.contiguous() for layer, part in enumerate(self.values)}
        with writing(file, "the gist", self.bytes), replace_file(file) as aside:
            save_file(tensors, aside, metadata={_HEADER: json.dumps(self.provenance.to_json())})
        return file

    @classmethod
    def load(cls, file: str | Path) -> Gist:
        """Read a gist from its file.

        Raises:
            DataError: there is no gist, or a damaged one.
        """
        try:
            with safe_open(file, "pt") as stored:
                record = parse_json((stored.metadata() or {}).get(_HEADER, "null"))
                if isinstance(record, dict) and record.get("format") != _FORMAT:
                    raise DataError(
                        f"{file} is a gist of another format ({record.get('format')}); compress its prompt again."
                    )
                provenance = from_record(GistProvenance, record)
                layers = sum(name.startswith("keys.") for name in stored.keys())  # noqa: SIM118
                keys, values = (
                    tuple(stored.get_tensor(f"{name}.{layer}") for layer in range(layers))
                    for name in ("keys", "values")
                )
        except FileNotFoundError as error:
            raise DataError(f"no such file: {file}.") from error
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"{file} is no gist, or damaged: {type(error).__name__}: {error}.") from error
        if not layers or {part.dim() for part in (*keys, *values)} != {3}:
            raise DataError(f"{file} is no gist: it holds no keys and values of (heads, tokens, size).")
        return cls(keys, values, provenance)
