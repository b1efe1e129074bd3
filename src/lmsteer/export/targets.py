"""The files and folders that exports may write. This module does not import torch."""

from __future__ import annotations

from pathlib import Path

from lmsteer.errors import SteerError
from lmsteer.util.artifacts import ArtifactKind, check_overwrite
from lmsteer.util.files import check_writable
from lmsteer.util.records import parse_json

LORA_CONFIG, LORA_TENSORS = "adapter_config.json", "adapter_model.safetensors"
# Records what was merged into a model, and the names of the files that belong to the export.
MERGED_RECORD = "lmsteer.json"
_GGUF_MAGIC = b"GGUF"
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
    """Refuse to overwrite the base, a folder, or a file that is not GGUF.

    Args:
        out: the file that is about to be written; it need not exist.
        source: the GGUF file of the base.

    Raises:
        SteerError: it is such a one.
        OutputError: it cannot be written.
    """
    check_writable(out, "the model")
    if not out.exists():
        return
    if source.exists() and out.samefile(source):
        raise SteerError(f"{out} is the base itself; choose another --out.")
    try:
        with out.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise SteerError(f"{out} exists and cannot be read: {error.strerror}; choose another --out.") from error
    if start not in (b"", _GGUF_MAGIC):
        raise SteerError(f"{out} exists and is not a GGUF file; choose another --out.")


def _merged_files(folder: Path) -> set[str]:
    """The files that an earlier export has written to a folder."""
    try:
        files = parse_json((folder / MERGED_RECORD).read_text(encoding="utf-8"))["files"]
        return {MERGED_RECORD, *map(str, files)}
    except (OSError, ValueError, KeyError, TypeError):
        return {MERGED_RECORD}
