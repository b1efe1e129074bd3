"""The head of a checkpoint, read from its file without the rest of the model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lmsteer.errors import ModelError
from lmsteer.model.head import HeadWeight
from lmsteer.model.loading import LOADING_ERRORS

_INDEX, _ONE_FILE = "model.safetensors.index.json", "model.safetensors"


def read_head(model: str) -> HeadWeight:
    """Read the output embedding of a model in safetensors files: in a folder, or in the Hub's cache.

    Raises:
        ModelError: the model is not there, or has its output embedding under a name that transformers does not know.
    """
    try:
        folder = Path(model) if Path(model).is_dir() else Path(snapshot_download(model, local_files_only=True))
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
        module = skeleton.get_output_embeddings()
        name = next(name for name, each in skeleton.named_modules() if each is module)
        tied = [key for key, each in skeleton.named_parameters(remove_duplicate=False) if each is module.weight]
        return HeadWeight(model, name, _tensor(folder, tied))
    except (*LOADING_ERRORS, AttributeError, StopIteration) as error:
        raise ModelError(f"cannot read the output embedding of {model!r}: {error}") from error


def _tensor(folder: Path, names: list[str]) -> Tensor:
    """Read the first of some tensors that the files have."""
    index = folder / _INDEX
    files = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.exists() else {}
    for name in names:
        with safe_open(folder / files.get(name, _ONE_FILE), "pt") as file:
            if name in file.keys():  # noqa: SIM118 (it is no mapping)
                tensor: Tensor = file.get_tensor(name)
                return tensor
    raise KeyError(f"none of {', '.join(names)} in {folder}")
