"""A steer as a LoRA on the head that plain PEFT loads, and a LoRA on the head as the nearest steer.

A multiply steer of strength s moves logits by ``s (h A) Bᵀ Eᵀ``: exactly a LoRA on the output embedding, with Aᵀ (r, d)
below and ``s E B`` (V, r) above. The other way there is a steer only where the LoRA's update of E stays within what E
spans: the nearest is found by least squares, and what is left over is told.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.errors import SteerError, WrongBaseError
from lmsteer.export.check import check_mix
from lmsteer.model.head_file import NamedHead
from lmsteer.model.lm import LM
from lmsteer.steer.algebra import merge
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.artifacts import ArtifactKind
from lmsteer.util.files import replace_folder

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_DOWN, _UP = "lora_A.weight", "lora_B.weight"
_PREFIX = "base_model.model."
# What PEFT may do beside or in place of adding a product.
_MORE = ("use_dora", "alpha_pattern", "rank_pattern", "lora_bias", "modules_to_save")
_KIND = ArtifactKind("LoRA", _CONFIG, _TENSORS, 1, SteerError)


def head_name(lm: LM) -> str:
    """Where the head stands in the model, as PEFT's ``target_modules`` names it."""
    return next(name for name, module in lm.model.named_modules() if module is lm.head.module)


def export_lora(lm: LM, mix: Mix, out: str | Path) -> Path:
    """Write a mix as a LoRA on the head, its strengths in it.

    Args:
        lm: the steers' base.
        mix: multiply steers, with one strength each.
        out: folder, as ``PeftModel.from_pretrained`` takes it.

    Raises:
        SteerError: steers of another form, strengths row by row, or a folder that holds something else.
        WrongBaseError: steers of another base.
    """
    check_mix(lm, mix)
    return write_lora(NamedHead(lm.name, head_name(lm), lm.head.weight), mix, Path(out))


def write_lora(head: NamedHead, mix: Mix, folder: Path) -> Path:
    """Write a mix as a LoRA on a head, of whose model nothing else is needed.

    Raises:
        SteerError: steers of several forms, strengths row by row, or a folder that holds something else.
    """
    _KIND.check_target(folder)
    steer = merge(mix, "export")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": head.base,
        "target_modules": [head.name],
        "r": steer.rank,
        "lora_alpha": steer.rank,  # a scale of 1
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    tensors = {_DOWN: steer.factors["A"].T, _UP: head.weight.float().cpu() @ steer.factors["B"]}
    try:
        with replace_folder(folder) as aside:
            content = {f"{_PREFIX}{head.name}.{key}": tensor.contiguous() for key, tensor in tensors.items()}
            save_file(content, aside / _TENSORS)
            (aside / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise SteerError(f"cannot write the LoRA to {folder}: {error}. What stood there is untouched.") from error
    return folder


@dataclass(frozen=True)
class Nearest:
    """The nearest steer of a LoRA on the head.

    Attributes:
        steer: at strength 1.
        residual: the share of the LoRA's update of E, by its Frobenius norm, that no steer can have; 0 to 1.
    """

    steer: Steer
    residual: float


def import_lora(lm: LM, folder: str | Path, name: str) -> Nearest:
    """Read a LoRA on the head, and find the nearest steer: ``min_W ‖E Wᵀ - ΔE‖``, for ``ΔE = α/r B A`` (V, d).

    Raises:
        SteerError: no LoRA there, a damaged one, or one that changes other layers than the head.
        WrongBaseError: a LoRA of another vocabulary or hidden size.
    """
    down, up = _read(lm, Path(folder))
    e = lm.head.weight.double().cpu()
    if up.shape[0] != e.shape[0] or down.shape[1] != e.shape[1]:
        shape, own = (up.shape[0], down.shape[1]), tuple(e.shape)
        raise WrongBaseError(f"the LoRA in {folder} is for a head of {shape}; that of {lm.name} is {own}.")
    # The best Wᵀ is E⁺ B A, so that in a steer's factors W = Aᵀ (E⁺ B)ᵀ.
    b = torch.linalg.lstsq(e, up, driver="gelsd").solution
    left = (up - e @ b) @ down
    residual = float(left.norm() / (up @ down).norm().clamp(min=1e-30))
    card = lm.card(name, fit={"method": "lora", "residual": residual})
    factors = {"A": down.T.float().contiguous(), "B": b.float().contiguous()}
    return Nearest(Steer("multiply", factors, e.shape[1], e.shape[0], card), residual)


def _read(lm: LM, folder: Path) -> tuple[Tensor, Tensor]:
    """A (r, d) and α/r B (V, r), in float64."""
    try:
        config: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / _TENSORS)
        alpha = float(config["lora_alpha"])
    except FileNotFoundError as error:
        raise SteerError(f"no LoRA in {folder}: {error.filename} is missing.") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SteerError(f"the LoRA in {folder} is damaged: {type(error).__name__}: {error}.") from error
    if more := [name for name in _MORE if config.get(name)]:
        raise SteerError(f"the LoRA in {folder} has {', '.join(more)}: what that does is nothing that a steer can do.")
    layer = f"{_PREFIX}{head_name(lm)}"
    factors = {f"{layer}.{_DOWN}", f"{layer}.{_UP}"}
    others = [key for key in tensors.keys() - factors if not _is_ours(lm, key, tensors[key])]
    if others:
        raise SteerError(
            f"the LoRA in {folder} changes {', '.join(sorted(others)[:3])}: only one of {head_name(lm)} alone can be a "
            "steer."
        )
    down, up = (tensors.get(f"{layer}.{name}", torch.zeros(0, 0)).double() for name in (_DOWN, _UP))
    if down.dim() != 2 or up.dim() != 2 or not down.shape[0] or down.shape[0] != up.shape[1]:
        raise SteerError(f"the LoRA in {folder} has no factors of {head_name(lm)} that fit together.")
    rank = down.shape[0]
    return down, (alpha / rank**0.5 if config.get("use_rslora") else alpha / rank) * up


def _is_ours(lm: LM, key: str, tensor: Tensor) -> bool:
    """Whether a tensor is a weight of the model as it comes: PEFT may keep embeddings beside a LoRA of the head."""
    name = key.removeprefix(_PREFIX).replace(".base_layer", "")
    own = dict(lm.model.named_parameters(remove_duplicate=False)).get(name)
    return own is not None and own.shape == tensor.shape and torch.equal(own.cpu(), tensor.to(own.dtype))
