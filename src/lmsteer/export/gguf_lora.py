"""A steer as a GGUF adapter: a LoRA that llama.cpp loads beside the base, and whose scale each request may choose.

An adapter of a steer at strength 1 has the steer's strength as its scale, negative ones included: ``llama-server``
takes ``"lora": [{"id": 0, "scale": -1.5}]`` in a request. Its factors are those of a PEFT LoRA (``updates``).

llama.cpp's names of tensors come from ``gguf``; that a tensor is the linear layer that it should be, and in which order
it has its rows, is found by comparing the numbers: files of Llama and its kin have the rows of queries and keys in
another order than transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf as gguf_format
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from lmsteer.errors import ModelError, SteerError
from lmsteer.export.gguf_base import OUTPUT, TYPES, GGUFBase, add_tensor, finish, is_near, values
from lmsteer.export.targets import ADAPTER_TYPES, check_adapter_target
from lmsteer.export.updates import check_exportable, lora_factors, weight_sites
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRAFactors, check_floating
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import HEAD, Site
from lmsteer.util.files import replace_file, writing

_WEIGHT = ".weight"


def export_gguf_lora(lm: LM, mix: Mix, source: Path, out: Path, *, dtype: str = "f32") -> Path:
    """Write a mix at its strengths as a GGUF adapter; at a scale of 1 it is the mix.

    llama.cpp applies an adapter at all tokens that the model reads, those of the prompt included.

    Args:
        lm: the steers' base.
        mix: multiply steers, with one strength each.
        source: GGUF file of the base that the adapter will be loaded beside.
        out: file to write.
        dtype: type of the factors: f32 (the default) or f16.

    Raises:
        SteerError: steers of another form, or that act on the stream after a layer, strengths row by row, a base
            without an output tensor of its own where the mix acts at the head, another type of the factors, or a
            target that is no adapter.
        OutputError: the disk cannot be written.
        WrongBaseError: a steer belongs to another base.
        ModelError: the source cannot be read, belongs to another model, or has a linear layer in another form.
    """
    check_exportable(lm, mix)
    sites = {site.name: site for site in weight_sites(lm.model, mix)}
    if dtype not in ADAPTER_TYPES:
        raise SteerError(f"the factors of an adapter are {' or '.join(ADAPTER_TYPES)}, not {dtype!r}.")
    check_adapter_target(out)
    base = GGUFBase.open(source)
    base.check_model(lm)
    layers = lora_factors(lm.head.weight, mix, [*sites.values()])
    if HEAD in layers:
        base.check_output()
        if base.is_tied:
            raise SteerError(
                f"{source.name} has no output tensor of its own: an adapter would act on the input embedding, too. "
                "Write a base that has one with --to gguf-base and the same --model or --gguf, and name that one with "
                "--gguf."
            )
    tensors = {OUTPUT: layers.pop(HEAD)} if HEAD in layers else {}
    for name, (lora_a, lora_b) in layers.items():
        tensor = _tensor_of(base, sites[name])
        tensors[tensor.name] = LoRAFactors(lora_a, lora_b[_row_order(lm, base, tensor, sites[name])])
    needed = sum(factor.nbytes for factors in tensors.values() for factor in factors)
    with writing(out, "the adapter", needed), replace_file(out) as aside:
        writer = gguf_format.GGUFWriter(aside, base.architecture)
        _add_fields(writer, lm, mix)
        for name, (lora_a, lora_b) in tensors.items():
            # llama.cpp multiplies by alpha / rank, and each tensor may have a rank of its own.
            add_tensor(writer, f"{name}.lora_a", lora_a.contiguous().numpy(), TYPES[dtype])
            add_tensor(writer, f"{name}.lora_b", (len(lora_a) * lora_b).contiguous().numpy(), TYPES[dtype])
        finish(writer)
    return out


def _add_fields(writer: gguf_format.GGUFWriter, lm: LM, mix: Mix) -> None:
    """What llama.cpp wants to know, and what a reader of the file may."""
    writer.add_type(gguf_format.GGUFType.ADAPTER)
    writer.add_string(gguf_format.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf_format.Keys.Adapter.LORA_ALPHA, 1.0)
    strengths = " ".join(f"{name}={value:g}" for name, value in zip(mix.steers, mix.strengths[0].tolist(), strict=True))
    writer.add_name(strengths)
    writer.add_description(f"lmsteer: {strengths} at a scale of 1, of the base {lm.name} ({lm.fingerprint}).")


def _tensor_of(base: GGUFBase, site: Site) -> Any:
    """The tensor of a linear layer in a file.

    Raises:
        ModelError: it has none.
    """
    # Models that read pictures, too, have their layers under a name of their own.
    for path in (site.path, f"model.{site.name}"):
        name = base.tensor_names.get_name(path + _WEIGHT, try_suffixes=(_WEIGHT,))
        if name in base.tensors:
            return base.tensors[name]
    raise ModelError(f"{base.path} has no tensor for the linear layer {site.name} alone.")


def _row_order(lm: LM, base: GGUFBase, tensor: Any, site: Site) -> Tensor:
    """The order (m,) in which the tensor of a linear layer has the rows of its weight.

    Raises:
        ModelError: the file has other numbers, or the weight is quantised.
    """
    check_floating(site.module)
    weight: Any = site.module.weight
    own = weight.detach().cpu().float()
    own = own.T if isinstance(site.module, Conv1D) else own
    written = values(tensor)
    for order in _orders(lm, len(own)):
        if is_near(written, own[order]):
            return order
    raise ModelError(f"{base.path} has another weight than {lm.name} at {site.name}, or has it in another form.")


def _orders(lm: LM, rows: int) -> list[Tensor]:
    """Orders that files have rows in: the model's, and that of Llama's queries and of its keys.

    Of each head of these, transformers has the first halves of all pairs before the second ones, and a file has the
    halves of each pair side by side.
    """
    config = lm.model.config.get_text_config()
    heads = (getattr(config, name, 0) or 0 for name in ("num_attention_heads", "num_key_value_heads"))
    own: NDArray[np.int64] = np.arange(rows)
    orders = [own]
    orders += [
        own.reshape(count, 2, -1).swapaxes(1, 2).reshape(-1) for count in heads if count and not rows % (2 * count)
    ]
    return [torch.from_numpy(order) for order in orders]
