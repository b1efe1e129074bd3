"""A steer in a GGUF file: the base's own file, whose output tensor is ``E (I + s W)ᵀ``.

Everything else is copied as it is: the other tensors block by block, the tokenizer, the chat template. If the head is
tied to the input embedding (the file has no ``output.weight``), the output tensor is added and the embedding stays.
The file loads in llama.cpp and in programs built on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf as gguf_format
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from lmsteer.errors import ModelError, SteerError
from lmsteer.export.merged_head import check_exportable, merged_head
from lmsteer.export.targets import check_gguf_target
from lmsteer.model.lm import LM
from lmsteer.steer.card import QUANTISED
from lmsteer.steer.mix import Mix
from lmsteer.util.files import replace_file, writing

_OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"
_FILE_TYPES = {
    "f32": gguf_format.LlamaFileType.ALL_F32,
    "f16": gguf_format.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf_format.LlamaFileType.MOSTLY_Q8_0,
}
TYPES = {"f32": Type.F32, "f16": Type.F16, "q8_0": Type.Q8_0}


def export_gguf(lm: LM, mix: Mix, source: Path, out: Path, *, output: str = "f16", others: str | None = None) -> Path:
    """Write a GGUF file of the base with a mix in its output tensor.

    Args:
        lm: the steers' base.
        mix: multiply steers, with one strength each.
        source: GGUF file of the base.
        out: file to write.
        output: type of the output tensor: f32, f16 (the default) or q8_0.
        others: type of all other matrices: f32, f16 or q8_0; None leaves them as they are.

    Raises:
        SteerError: steers of another form, or that act inside the model, strengths row by row, or a target that is the
            source or no GGUF file.
        OutputError: the disk cannot be written.
        WrongBaseError: a steer belongs to another base.
        ModelError: the source cannot be read, belongs to another model, or its architecture has no output tensor.
    """
    check_exportable(lm, mix)
    mix.check_head_alone("a GGUF file")
    if wrong := {output, others or output} - set(TYPES):
        raise SteerError(f"unknown tensor type {', '.join(sorted(wrong))}: choose one of {', '.join(TYPES)}.")
    check_gguf_target(out, source)
    reader = _read(source)
    _check_base(lm, reader, source)
    head = merged_head(lm, mix).float().numpy()
    needed = source.stat().st_size + head.nbytes
    with writing(out, "the model", needed), replace_file(out) as aside:
        writer = gguf_format.GGUFWriter(aside, _architecture(reader))
        try:
            _copy_fields(reader, writer, others)
            for tensor in reader.tensors:
                if tensor.name != _OUTPUT:
                    _copy_tensor(tensor, writer, others)
            _add(writer, _OUTPUT, head, TYPES[output])
        except gguf_format.quants.QuantError as error:
            raise SteerError(f"cannot write {out}: {error}.") from error
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out


def _read(source: Path) -> Any:
    try:
        return gguf_format.GGUFReader(source)
    except Exception as error:  # on damaged bytes the reader raises exceptions of many kinds
        raise ModelError(f"cannot read the GGUF file {source}: {type(error).__name__}: {error}") from error


def _architecture(reader: Any) -> str:
    field = reader.get_field(gguf_format.Keys.General.ARCHITECTURE)
    if field is None:
        raise ModelError("the GGUF file does not name its architecture.")
    return str(field.contents())


def _check_base(lm: LM, reader: Any, source: Path) -> None:
    """Refuse a file of another model, or of an architecture without an output tensor."""
    name = _architecture(reader)
    architecture = next((key for key, value in gguf_format.MODEL_ARCH_NAMES.items() if value == name), None)
    if architecture is None or gguf_format.MODEL_TENSOR.OUTPUT not in gguf_format.MODEL_TENSORS[architecture]:
        raise ModelError(f"{source}: models of architecture {name!r} have no output tensor to merge a steer into.")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    own = tensors.get(_OUTPUT, tensors.get(_EMBEDDING))
    e = lm.head.weight.cpu().float()
    written = None if own is None else torch.from_numpy(np.array(_values(own)))
    if written is None or written.shape != e.shape or not (written - e).norm() <= QUANTISED * e.norm():
        raise ModelError(f"{source} belongs to another model than {lm.name}: their output embeddings differ.")


def _copy_fields(reader: Any, writer: gguf_format.GGUFWriter, others: str | None) -> None:
    """Copy the metadata, without the fields that the writer writes itself and those that are no longer true."""
    if others is not None:
        writer.add_file_type(_FILE_TYPES[others])
    written = (gguf_format.Keys.General.ARCHITECTURE, gguf_format.Keys.General.FILE_TYPE)
    for field in reader.fields.values():
        if field.name == gguf_format.Keys.General.ALIGNMENT:
            writer.add_custom_alignment(field.contents())
        elif not field.name.startswith("GGUF.") and field.name not in (written if others else written[:1]):
            sub_type = field.types[-1] if field.types[0] == gguf_format.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)


def _copy_tensor(tensor: Any, writer: gguf_format.GGUFWriter, others: str | None) -> None:
    if others is None or len(tensor.shape) < 2:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    else:
        _add(writer, tensor.name, _values(tensor), TYPES[others])


def _add(writer: gguf_format.GGUFWriter, name: str, values: NDArray[np.float32], kind: Type) -> None:
    writer.add_tensor(name, gguf_format.quants.quantize(values, kind), raw_dtype=kind)


def _values(tensor: Any) -> NDArray[np.float32]:
    """The numbers of a tensor of any type."""
    try:
        values: NDArray[np.float32] = gguf_format.quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ModelError(f"tensor {tensor.name} has type {tensor.tensor_type.name}, which cannot be read.") from error
    return values
