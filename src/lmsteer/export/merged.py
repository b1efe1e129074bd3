"""A steer merged into a checkpoint: a plain transformers folder, whose head is ``E (I + s W)ᵀ``.

Where the head is tied to the input embedding, it is untied first: those stay what they were. What has been written is
loaded again by transformers alone, and its logits compared, before it takes its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lmsteer.errors import SteerError
from lmsteer.export.check import check_mix
from lmsteer.model.lm import LM, LOADING_ERRORS
from lmsteer.steer.mix import Mix
from lmsteer.util.files import replace_folder

# Says what has been merged, and which files are of it.
_OWN = "lmsteer.json"
_WAY = "it cannot have a head of its own. Nothing was written; export a LoRA in its place."
# What logits of the written model may differ by, as a share of their size: products in another order, and rounding of
# the head in half precision.
_EXACT, _ROUGH = 1e-4, 3e-2
_TEXT = "The weather this morning was"


def export_merged(lm: LM, mix: Mix, out: str | Path) -> Path:
    """Write model and tokenizer with a mix in the head; loads with no lmsteer installed.

    Args:
        lm: the steers' base.
        mix: multiply steers, with one strength each.
        out: folder.

    Raises:
        SteerError: steers of another form, strengths row by row, a folder that holds something else, a disk that does
            not take it, or a model that comes out of its own checkpoint as another one.
        WrongBaseError: steers of another base.
    """
    folder = Path(out)
    _check_target(folder)
    check_mix(lm, mix)
    head = merged_head(lm, mix)
    try:
        with replace_folder(folder) as aside:
            with _with_head(lm, head):
                lm.model.save_pretrained(aside)
            lm.tokenizer.save_pretrained(aside)
            _prove(lm, mix, head, aside)
            told = {"base": lm.name, "base_fingerprint": lm.fingerprint, "strengths": _strengths(mix)}
            files = sorted(entry.name for entry in aside.iterdir())
            (aside / _OWN).write_text(json.dumps({**told, "files": files}, indent=2) + "\n", encoding="utf-8")
    except LOADING_ERRORS as error:
        raise SteerError(f"cannot write the model to {folder}: {error}. What stood there is untouched.") from error
    return folder


def merged_head(lm: LM, mix: Mix) -> Tensor:
    """``E (I + Σ_k s_k W_k)ᵀ`` (V, d), in the dtype of the head."""
    e = lm.head.weight
    update = e.float() @ mix.matrix().T.to(e.device)
    return (e.float() + update).to(e.dtype)


@contextmanager
def _with_head(lm: LM, weight: Tensor) -> Iterator[None]:
    """Have the model keep a head of its own, within a ``with`` block."""
    model: Any = lm.model
    config = model.config
    configs = [each for each in (config, config.get_text_config()) if hasattr(each, "tie_word_embeddings")]
    ties, former = [each.tie_word_embeddings for each in configs], lm.head.module.weight
    keys = getattr(model, "_tied_weights_keys", None)
    for each in configs:
        each.tie_word_embeddings = False
    model._tied_weights_keys = None
    lm.head.module.weight = nn.Parameter(weight, requires_grad=False)
    try:
        yield
    finally:
        lm.head.module.weight = former
        model._tied_weights_keys = keys
        for each, tie in zip(configs, ties, strict=True):
            each.tie_word_embeddings = tie


@torch.inference_mode()
def _prove(lm: LM, mix: Mix, head: Tensor, folder: Path) -> None:
    """Refuse what does not come back from disk as what was meant: a head tied again, or embeddings that moved."""
    ids = torch.tensor(lm.encode([_TEXT]), device=lm.device)
    with lm.steered(mix):
        expected = lm.model(input_ids=ids).logits.float()
    try:
        written = AutoModelForCausalLM.from_pretrained(folder, dtype=lm.model.dtype, local_files_only=True)
    except LOADING_ERRORS as error:
        raise SteerError(f"{type(lm.model).__name__} does not load from its own checkpoint: {error}") from error
    found = written.eval().to(lm.device)(input_ids=ids).logits.float()
    share = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    modules: list[Any] = [
        lm.model.get_input_embeddings(),
        written.get_input_embeddings(),
        written.get_output_embeddings(),
    ]
    own, embedding, headed = (module.weight for module in modules)
    if not torch.equal(headed, head) or not torch.equal(embedding, own):
        raise SteerError(
            f"{type(lm.model).__name__} comes back from its checkpoint with another head or embedding: {_WAY}"
        )
    if not share <= (_EXACT if lm.model.dtype == torch.float32 else _ROUGH):
        raise SteerError(f"{type(lm.model).__name__} comes back with logits {share:.1%} off: {_WAY}")


def _strengths(mix: Mix) -> dict[str, float]:
    return dict(zip(mix.steers, mix.strengths[0].tolist(), strict=True))


def _check_target(folder: Path) -> None:
    """Only what was written here before may be written over."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        own = {*json.loads((folder / _OWN).read_text(encoding="utf-8"))["files"], _OWN}
        others = {entry.name for entry in folder.iterdir()} - own
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SteerError(f"{folder} exists and is no export of lmsteer; choose another folder.") from error
    if others:
        raise SteerError(f"{folder} holds {', '.join(sorted(others))} beside its export; choose another folder.")
