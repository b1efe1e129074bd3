"""The head of a checkpoint, read from its file without the rest of the model; and its modules, without weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lmsteer.model.checkpoint import explained
from lmsteer.model.fingerprints import sampled_places
from lmsteer.model.head import HeadWeight
from lmsteer.util.records import parse_json

_INDEX, _ONE_FILE = "model.safetensors.index.json", "model.safetensors"


def read_head(model: str) -> HeadWeight:
    """Read the output embedding of a model in safetensors files: in a folder, or in the Hub's cache.

    Raises:
        ModelError: the model is not there, or has its output embedding under a name that transformers does not know.
    """
    with _opened(model) as (module, file, name):
        return HeadWeight(model, module, file.get_tensor(name))


def read_head_sample(model: str) -> dict[int, float]:
    """Read the few values of the output embedding that ``head_sample`` takes, without the rest of it.

    Raises:
        ModelError: as ``read_head``.
    """
    with _opened(model) as (_, file, name):
        part = file.get_slice(name)
        places = sampled_places(*part.get_shape())
        return {k: float(part[row : row + 1, column : column + 1]) for k, (row, column) in enumerate(places)}


def read_skeleton(model: str) -> PreTrainedModel:
    """The modules of a model in a folder or in the Hub's cache, with the shapes of their weights and without values.

    Raises:
        ModelError: the model is not there.
    """
    with explained(f"the modules of {model!r}", model):
        return _skeleton(_folder(model))


def _folder(model: str) -> Path:
    return Path(model) if Path(model).is_dir() else Path(snapshot_download(model, local_files_only=True))


def _skeleton(folder: Path) -> PreTrainedModel:
    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder, local_files_only=True)
        )
    return made


@contextmanager
def _opened(model: str) -> Iterator[tuple[str, Any, str]]:
    """The head's module, the open file that holds its weight, and the weight's name in it."""
    with explained(f"the output embedding of {model!r}", model):
        folder = _folder(model)
        skeleton = _skeleton(folder)
        head = skeleton.get_output_embeddings()
        module = next(name for name, each in skeleton.named_modules() if each is head)
        tied = [key for key, each in skeleton.named_parameters(remove_duplicate=False) if each is head.weight]
        path, name = _found(folder, tied)
        with safe_open(path, "pt") as file:
            yield module, file, name


def _found(folder: Path, names: list[str]) -> tuple[Path, str]:
    """The file and the name of the first of some tensors that the files have."""
    index = folder / _INDEX
    files = parse_json(index.read_text(encoding="utf-8"))["weight_map"] if index.exists() else {}
    for name in names:
        path = folder / files.get(name, _ONE_FILE)
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118 (it is no mapping)
                return path, name
    raise KeyError(f"none of {', '.join(names)} in {folder}")
