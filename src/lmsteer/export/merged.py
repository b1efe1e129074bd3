"""A steer merged into a checkpoint: a plain transformers folder, whose head is ``E (I + s W)ᵀ``.

Linear layers inside the model where the steer acts have the weight ``W₀ + s B Aᵀ``. A head that is tied to the input
embedding is untied, and the input embedding stays as it is. The written tensors are read back and compared before the
folder takes its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from lmsteer.errors import ModelError, SteerError
from lmsteer.export.targets import MERGED_RECORD, check_merged_target
from lmsteer.export.updates import check_exportable, layer_factors, merged_head, weight_sites
from lmsteer.model.checkpoint import read_model
from lmsteer.model.lm import LM
from lmsteer.model.lora import check_floating, lora_update
from lmsteer.steer.mix import Mix
from lmsteer.util.compat import untied
from lmsteer.util.files import replace_folder, writing

_ADVICE = "such a model cannot have a head of its own. Nothing was written; use --to lora instead."
# Largest difference of the logits relative to their size, in float32 and in half precision: the sum has another order,
# and the head is rounded.
_FLOAT32, _HALF = 1e-4, 3e-2
_TEXT = "The weather this morning was"


def export_merged(lm: LM, mix: Mix, out: str | Path, *, check: bool = False) -> Path:
    """Write a model and its tokenizer with a mix in its weights; the folder loads without lmsteer.

    Args:
        lm: the steers' base.
        mix: multiply steers, with one strength each.
        out: the folder to write; an older export there is replaced.
        check: also load the written model and compare its logits with the steered ones. This needs memory for a second
            model on the CPU.

    Returns:
        The folder.

    Raises:
        SteerError: steers of another form, or that act on the stream after a layer, strengths row by row, a folder that
            holds something else, or a model that does not keep its own head in a checkpoint.
        OutputError: the disk cannot be written.
        WrongBaseError: a steer belongs to another base.
        ModelError: the memory is too small, or a linear layer is quantised.
    """
    folder = Path(out)
    check_merged_target(folder)
    check_exportable(lm, mix)
    weights = {lm.head.module: merged_head(lm, mix), **_layers(lm, mix)}
    needed = sum(tensor.nbytes for tensor in (*lm.model.parameters(), *weights.values()))
    try:
        with writing(folder, "the model", needed), replace_folder(folder) as aside:
            with _having(lm, weights):
                lm.model.save_pretrained(aside)
            lm.tokenizer.save_pretrained(aside)
            _check_tensors(lm, [*weights.values()], aside)
            if check:
                _check_logits(lm, mix, aside)
            strengths = dict(zip(mix.steers, mix.strengths[0].tolist(), strict=True))
            record = {"base": lm.name, "base_fingerprint": lm.fingerprint, "strengths": strengths}
            files = sorted(entry.name for entry in aside.iterdir())
            (aside / MERGED_RECORD).write_text(
                json.dumps({**record, "files": files}, indent=2) + "\n", encoding="utf-8"
            )
    except torch.OutOfMemoryError as error:
        raise ModelError(f"out of memory while the model was exported: {error}") from error
    except (ValueError, RuntimeError) as error:  # RuntimeError: tensors that share memory
        raise SteerError(f"cannot write the model to {folder}: {error}. What stood there is untouched.") from error
    return folder


def _layers(lm: LM, mix: Mix) -> dict[nn.Module, Tensor]:
    """The weights of linear layers as the mix changes them, on the CPU, in their dtype.

    Raises:
        ModelError: a layer whose weight is quantised.
    """
    sites = weight_sites(lm.model, mix)
    layers = layer_factors(mix, sites)
    changed = dict[nn.Module, Tensor]()
    for site in sites:
        check_floating(site.module)
        own: Any = site.module.weight
        changed[site.module] = (own.detach().cpu().float() + lora_update(site.module, layers[site.name])).to(own.dtype)
    return changed


@contextmanager
def _having(lm: LM, weights: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Give modules of a model other weights within a ``with`` block; the head is untied from the input embedding."""
    own: dict[nn.Module, Any] = {module: module.weight for module in weights}
    with lm.exclusive_use(), untied(lm.model):
        for module, weight in weights.items():
            module.weight = nn.Parameter(weight, requires_grad=False)
        try:
            yield
        finally:
            for module, weight in own.items():
                module.weight = weight


def _check_tensors(lm: LM, changed: Sequence[Tensor], folder: Path) -> None:
    """Refuse a checkpoint without the weights that were changed or the input embedding, or that would be tied again.

    No second model is loaded: the tensors are read from the files, and a model without weights is built.
    """
    name = type(lm.model).__name__
    try:
        with torch.device("meta"):
            skeleton: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # transformers raises exceptions of any kind
        raise SteerError(f"{name} cannot be built from its own checkpoint: {error}") from error
    tied = skeleton.get_output_embeddings().weight is skeleton.get_input_embeddings().weight
    own: Any = lm.model.get_input_embeddings()
    embedding = own.weight.detach().cpu()
    if tied or not all(_is_saved(tensor, folder) for tensor in (*changed, embedding)):
        raise SteerError(
            f"{name} comes back from its checkpoint with other weights or another input embedding: {_ADVICE}"
        )


def _is_saved(tensor: Tensor, folder: Path) -> bool:
    """Whether a checkpoint has a tensor with these values, under whatever name: transformers renames some on saving."""
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                if file.get_slice(name).get_shape() == [*tensor.shape] and torch.equal(file.get_tensor(name), tensor):
                    return True
    return False


@torch.inference_mode()
def _check_logits(lm: LM, mix: Mix, folder: Path) -> None:
    """Refuse a checkpoint that loads with other logits than those of the steered model."""
    name = type(lm.model).__name__
    ids = torch.tensor(lm.encode([_TEXT]), device=lm.device)[:, : lm.max_length]
    with lm.steered(mix):
        expected = lm.model(input_ids=ids).logits.float().cpu()
    try:
        what = "the exported model"
        written = read_model(AutoModelForCausalLM, str(folder), what, dtype=lm.model.dtype, local_files_only=True)
    except ModelError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise
        raise SteerError(f"{name} does not load from its own checkpoint: {error}") from error
    logits = written.eval()(input_ids=ids.cpu()).logits.float()
    difference = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not difference <= (_FLOAT32 if lm.model.dtype == torch.float32 else _HALF):
        raise SteerError(f"{name} comes back with logits that differ by {difference:.1%}: {_ADVICE}")
