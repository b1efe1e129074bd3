"""A steer as a LoRA that plain PEFT loads, and a LoRA as the nearest steer.

A multiply steer at strength s changes logits by ``s (h A) Bᵀ Eᵀ``. That is exactly a LoRA on the output embedding, with
``lora_A = Aᵀ`` (r, d) and ``lora_B = s E B`` (V, r). At a linear layer inside the model its map is a LoRA as it is,
with ``lora_A = Aᵀ`` (r, n) and ``lora_B = s B`` (m, r). On the stream after a layer there is no weight for a LoRA.

In the other direction a LoRA on the head is a steer only as far as its update ``ΔE = α/r lora_B lora_A`` (V, d) lies in
the column space of E. The nearest steer minimises ``‖E Wᵀ - ΔE‖`` (Frobenius); the rest of the norm is reported. A LoRA
on linear layers of the model is a steer, exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmsteer.errors import ModelError, SteerError, WrongBaseError
from lmsteer.export.targets import LORA_CONFIG, LORA_TENSORS, check_lora_target
from lmsteer.export.updates import check_exportable, lora_factors, weight_sites
from lmsteer.model.head import HeadWeight
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRAFactors
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import HEAD, Site, all_sites
from lmsteer.steer.steer import Steer
from lmsteer.util.files import replace_folder, writing
from lmsteer.util.records import parse_json

_LORA_A, _LORA_B = "lora_A.weight", "lora_B.weight"
_PREFIX = "base_model.model."
# Options with which PEFT does something else than add a product.
_UNSUPPORTED = ("use_dora", "alpha_pattern", "rank_pattern", "lora_bias", "modules_to_save")
# Rows of E that are converted to float64 at once.
_ROWS = 8192


def head_name(lm: LM) -> str:
    """The name of the head's module, as PEFT's ``target_modules`` takes it."""
    return next(name for name, module in lm.model.named_modules() if module is lm.head.module)


def export_lora(lm: LM, mix: Mix, out: str | Path) -> Path:
    """Write a mix at its strengths as a LoRA on the head and on linear layers, wherever its steers act.

    PEFT's LoRA acts on all tokens that the model reads, those of the prompt included.

    Args:
        lm: the steers' base.
        mix: multiply steers, with one strength each.
        out: the folder to write, for ``PeftModel.from_pretrained``; an older LoRA there is replaced.

    Returns:
        The folder.

    Raises:
        SteerError: steers of another form, or that act on the stream after a layer, strengths row by row, or a folder
            that holds something else.
        WrongBaseError: a steer belongs to another base.
    """
    check_exportable(lm, mix)
    return _write(HeadWeight(lm.name, head_name(lm), lm.head.weight), mix, weight_sites(lm.model, mix), Path(out))


def write_lora(head: HeadWeight, skeleton: PreTrainedModel, mix: Mix, folder: Path) -> Path:
    """Write a mix as a LoRA of a model of which the head and the modules are at hand, as ``export_lora``.

    Args:
        head: the head.
        skeleton: the model, whose weights need no values (``read_skeleton``).
        mix: multiply steers, with one strength each.
        folder: the folder to write.

    Raises:
        SteerError: steers of several forms, or that act on the stream after a layer, strengths row by row, or a folder
            that holds something else.
    """
    return _write(head, mix, weight_sites(skeleton, mix), folder)


def _write(head: HeadWeight, mix: Mix, sites: Sequence[Site], folder: Path) -> Path:
    check_lora_target(folder)
    paths = {HEAD: head.module} | {site.name: site.path for site in sites}
    layers = {paths[name]: factors for name, factors in lora_factors(head.weight, mix, sites).items()}
    rank = max(len(factors.lora_A) for factors in layers.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": head.base,
        "target_modules": [*layers],
        "r": rank,
        "lora_alpha": rank,  # so that PEFT's scale, alpha / r, is 1
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(site.module, Conv1D) for site in sites),
        "inference_mode": True,
    }
    tensors = dict[str, Tensor]()
    for name, (a, b) in layers.items():  # all of one rank, since not every engine takes one for each layer
        padding = rank - len(a)
        tensors[f"{_PREFIX}{name}.{_LORA_A}"] = nn.functional.pad(a, (0, 0, 0, padding)).contiguous()
        tensors[f"{_PREFIX}{name}.{_LORA_B}"] = nn.functional.pad(b, (0, padding)).contiguous()
    needed = sum(tensor.nbytes for tensor in tensors.values())
    with writing(folder, "the LoRA", needed), replace_folder(folder) as aside:
        save_file(tensors, aside / LORA_TENSORS)
        (aside / LORA_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class NearestSteer:
    """The nearest steer of a LoRA on the head.

    Attributes:
        steer: the steer; strength 1 is the LoRA.
        residual: the part of the LoRA's update of E that no steer can have, as a share of its Frobenius norm, 0 to 1; 0
            if it leaves the head alone.
    """

    steer: Steer
    residual: float


def import_lora(lm: LM, folder: str | Path, name: str) -> NearestSteer:
    """Read a LoRA and find the nearest steer: exact for linear layers of the model, the nearest for the head.

    The least-squares problem is solved by its normal equations in float64 on the CPU: ``B = (EᵀE)⁻¹ Eᵀ lora_B`` (d, r).
    They are summed some rows of E at a time.

    Args:
        lm: the model that the LoRA was trained on.
        folder: a folder that PEFT has saved.
        name: the name of the new steer.

    Raises:
        SteerError: there is no LoRA, it is damaged, or it changes what is neither the head nor a linear layer of one
            of the model's layers.
        WrongBaseError: the LoRA has another vocabulary or hidden size, or layers of other sizes.
    """
    (lora_a, lora_b), inner = _read(lm, Path(folder))
    shape, own = (lora_b.shape[0], lora_a.shape[1]), tuple(lm.head.weight.shape)
    if shape != own:
        raise WrongBaseError(f"the LoRA in {folder} is for a head of shape {shape}; that of {lm.name} has {own}.")
    vocabulary, hidden_size = own
    gram = torch.zeros(hidden_size, hidden_size, dtype=torch.float64)
    product = torch.zeros(hidden_size, lora_b.shape[1], dtype=torch.float64)
    for e, rows in _row_blocks(lm.head.weight, lora_b):
        gram += e.T @ e
        product += e.T @ rows
    b = _solve(gram, product)
    # ‖(lora_B - E B) lora_A‖² and ‖lora_B lora_A‖², from matrices (r, r): the products (V, d) are too large to keep.
    rest = torch.zeros(len(lora_a), len(lora_a), dtype=torch.float64)
    for e, rows in _row_blocks(lm.head.weight, lora_b):
        left = rows - e @ b
        rest += left.T @ left
    a_gram = lora_a @ lora_a.T
    whole = float(((lora_b.T @ lora_b) * a_gram).sum().clamp(min=1e-60))
    residual = (float((rest * a_gram).sum().clamp(min=0.0)) / whole) ** 0.5
    card = lm.card(name, fit={"method": "lora", "residual": residual})
    factors = {"A": lora_a.T.float().contiguous(), "B": b.float().contiguous(), **inner}
    return NearestSteer(Steer("multiply", factors, hidden_size, vocabulary, card), residual)


def _row_blocks(e: Tensor, lora_b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows of E at a time, (N, d) in float64 on the CPU, with the same rows of lora_B (N, r).

    They are copied to the CPU before they are converted: not every device has float64.
    """
    for block, rows in zip(e.split(_ROWS), lora_b.split(_ROWS), strict=True):
        yield block.cpu().double(), rows


def _solve(gram: Tensor, product: Tensor) -> Tensor:
    """``(EᵀE)⁻¹ Eᵀ lora_B`` (d, r) by Cholesky, or by the pseudo-inverse if E has linearly dependent columns."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    # Columns that depend on others leave a pivot of rounding errors, which may be positive.
    pivots = factor.diagonal() ** 2
    if failed or not bool((pivots > len(gram) * torch.finfo(gram.dtype).eps * gram.diagonal()).all()):
        return torch.linalg.pinv(gram, hermitian=True) @ product
    return torch.cholesky_solve(product, factor)


def _read(lm: LM, folder: Path) -> tuple[LoRAFactors, dict[str, Tensor]]:
    """``lora_A`` (r, d) and ``α/r lora_B`` (V, r) of the head, in float64; the factors of a steer at other sites."""
    try:
        config: dict[str, Any] = parse_json((folder / LORA_CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / LORA_TENSORS)
        kind, alpha, stated = config["peft_type"], float(config["lora_alpha"]), int(config["r"])
    except FileNotFoundError as error:
        raise SteerError(f"no LoRA in {folder}: {error.filename} is missing.") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SteerError(f"the LoRA in {folder} is damaged: {type(error).__name__}: {error}.") from error
    if kind != "LORA":
        raise SteerError(f"{folder} holds an adapter of the type {kind!r}; a steer can only replace a LoRA.")
    if unsupported := [name for name in _UNSUPPORTED if config.get(name)]:
        raise SteerError(f"the LoRA in {folder} uses {', '.join(unsupported)}, which a steer cannot express.")
    weights = _weights(lm)
    paths = {HEAD: head_name(lm)} | {name: site.path for name, site in weights.items()}
    keys = {name: [f"{_PREFIX}{path}.{key}" for key in (_LORA_A, _LORA_B)] for name, path in paths.items()}
    others = tensors.keys() - {key for pair in keys.values() for key in pair}
    if changed := sorted(key for key in others if not _is_unchanged(lm, key, tensors[key])):
        raise SteerError(
            f"the LoRA in {folder} changes {', '.join(changed[:3])}: a steer can only replace a LoRA of "
            f"{paths[HEAD]} and of linear layers that share no weight."
        )
    found = dict[str, LoRAFactors]()
    for name, pair in keys.items():
        if any(key in tensors for key in pair):
            a, b = (tensors.get(key, torch.zeros(0, 0)).double() for key in pair)
            _check_factors(folder, paths[name], a, b, stated)
            if name in weights and (sizes := (b.shape[0], a.shape[1])) != (own := weights[name].sizes):
                raise WrongBaseError(f"the LoRA in {folder} is for {paths[name]} of size {sizes}; {lm.name} has {own}.")
            found[name] = LoRAFactors(a, alpha / (stated**0.5 if config.get("use_rslora") else stated) * b)
    if not found:
        raise SteerError(f"the LoRA in {folder} has no factors of {paths[HEAD]}, nor of another linear layer.")
    vocabulary, hidden_size = lm.head.weight.shape
    at_head = found.pop(
        HEAD, LoRAFactors(*(torch.zeros(shape).double() for shape in ((0, hidden_size), (vocabulary, 0))))
    )
    return at_head, {
        f"{name}.{end}": factor.float().contiguous()
        for name, (a, b) in found.items()
        for end, factor in (("A", a.T), ("B", b))
    }


def _weights(lm: LM) -> dict[str, Site]:
    """The linear layers of a model that a steer can act at; none if its layers are not found."""
    try:
        return {name: site for name, site in all_sites(lm.model).items() if site.is_weight}
    except ModelError:
        return {}


def _check_factors(folder: Path, path: str, a: Tensor, b: Tensor, stated: int) -> None:
    """Refuse factors whose shapes do not fit together, or are not of the rank that is stated."""
    if a.dim() != 2 or b.dim() != 2 or not a.shape[0] or a.shape[0] != b.shape[1]:
        raise SteerError(f"the LoRA in {folder} has no factors of {path} whose shapes fit together.")
    if (rank := a.shape[0]) != stated:
        raise SteerError(
            f"the LoRA in {folder} is damaged: its {LORA_CONFIG} says rank {stated}, and its factors of {path} have "
            f"{rank}."
        )


def _is_unchanged(lm: LM, key: str, tensor: Tensor) -> bool:
    """Whether a tensor equals the model's own weight: PEFT may save embeddings beside a LoRA on the head."""
    name = key.removeprefix(_PREFIX).replace(".base_layer", "")
    own = dict(lm.model.named_parameters(remove_duplicate=False)).get(name)
    return own is not None and own.shape == tensor.shape and torch.equal(own.cpu(), tensor.to(own.dtype))
