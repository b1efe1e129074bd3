"""The files and folders that exports may write. This module does not import torch."""

from __future__ import annotations

import struct
from pathlib import Path

from lmsteer.errors import SteerError
from lmsteer.util.artifacts import ArtifactKind, check_overwrite
from lmsteer.util.files import check_writable
from lmsteer.util.records import parse_json

LORA_CONFIG, LORA_TENSORS = "adapter_config.json", "adapter_model.safetensors"
# Records what was merged into a model, and the names of the files that belong to the export.
MERGED_RECORD = "lmsteer.json"
_GGUF_MAGIC = b"GGUF"
# How the metadata of an adapter begin: general.architecture and general.type are among the first fields of a file.
_ADAPTER, _HEADER = "adapter", 4096
# The name of the field, its type (8, a string), the length of the string, and the string.
_ADAPTER_FIELD = b"general.type" + struct.pack("<IQ", 8, len(_ADAPTER)) + _ADAPTER.encode()
# Types of the factors of a GGUF adapter. Blocks of 32 numbers do not suit it: a row has as many as the LoRA has ranks.
ADAPTER_TYPES = ("f32", "f16")
_LORA = ArtifactKind("LoRA", LORA_CONFIG, LORA_TENSORS, 1, SteerError)


def check_lora_target(folder: Path) -> None:
    """Refuse a folder that holds something else than a LoRA.

    Raises:
        SteerError: it does, or it is a file.
    """
    _LORA.check_target(folder)


def check_merged_target(folder: Path) -> None:
    """Refuse a folder that holds something else than a merged model.

    Raises:
        SteerError: it does, or it is a file.
    """
    check_overwrite(folder, "merged model", MERGED_RECORD, _merged_files(folder), SteerError)


def check_gguf_target(out: Path, source: Path) -> None:
    """Refuse to overwrite the base, an adapter, a folder, or a file that is not GGUF.

    Args:
        out: the file of a model that is about to be written; it need not exist.
        source: the GGUF file of the base.

    Raises:
        SteerError: it is such a one.
        OutputError: it cannot be written.
    """
    check_writable(out, "the model")
    if out.exists() and source.exists() and out.samefile(source):
        raise SteerError(f"{out} is the base itself; choose another --out.")
    if _gguf_type(out) == _ADAPTER:
        raise SteerError(f"{out} exists and is an adapter; choose another --out.")


def check_adapter_target(out: Path) -> None:
    """Refuse to overwrite anything but a GGUF adapter.

    Args:
        out: the file of an adapter that is about to be written; it need not exist.

    Raises:
        SteerError: it is something else.
        OutputError: it cannot be written.
    """
    check_writable(out, "the adapter")
    if _gguf_type(out) not in (_ADAPTER, ""):
        raise SteerError(f"{out} exists and is a model, not an adapter; choose another --out.")


def _gguf_type(out: Path) -> str:
    """What a GGUF file says that it is: "adapter", or "model" by default; empty if there is nothing.

    Raises:
        SteerError: it is no GGUF file, or cannot be read.
    """
    if not out.exists():
        return ""
    try:
        with out.open("rb") as file:
            start = file.read(_HEADER)
    except OSError as error:
        raise SteerError(f"{out} exists and cannot be read: {error.strerror}; choose another --out.") from error
    if not start:
        return ""
    if not start.startswith(_GGUF_MAGIC):
        raise SteerError(f"{out} exists and is not a GGUF file; choose another --out.")
    return _ADAPTER if _ADAPTER_FIELD in start else "model"


def _merged_files(folder: Path) -> set[str]:
    """The files that an earlier export has written to a folder."""
    try:
        files = parse_json((folder / MERGED_RECORD).read_text(encoding="utf-8"))["files"]
        return {MERGED_RECORD, *map(str, files)}
    except (OSError, ValueError, KeyError, TypeError):
        return {MERGED_RECORD}
