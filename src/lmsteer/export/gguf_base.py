"""The GGUF file of a base: what it holds, whether it is a model's own, and copies of it with another output tensor.

Everything but the output tensor is copied as it is: the other tensors block by block, the tokenizer, the chat template.
If the head is tied to the input embedding, the file has no ``output.weight``, and the embedding stays in a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import gguf as gguf_format
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from torch import Tensor

from lmsteer.errors import ModelError, SteerError
from lmsteer.model.lm import LM
from lmsteer.steer.card import QUANTISED
from lmsteer.util.files import replace_file, writing

OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"
_FILE_TYPES = {
    "f32": gguf_format.LlamaFileType.ALL_F32,
    "f16": gguf_format.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf_format.LlamaFileType.MOSTLY_Q8_0,
}
TYPES = {"f32": Type.F32, "f16": Type.F16, "q8_0": Type.Q8_0}


@dataclass(frozen=True, eq=False)
class GGUFBase:
    """A GGUF file that has been opened.

    Attributes:
        path: the file.
        reader: what ``gguf`` reads of it.
        architecture: the name of its architecture, such as ``llama``.
    """

    path: Path
    reader: Any
    architecture: str

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file.

        Raises:
            ModelError: it cannot be read, is one part of several, or does not name its architecture.
        """
        try:
            reader = gguf_format.GGUFReader(path)
        except Exception as error:  # on damaged bytes the reader raises exceptions of many kinds
            raise ModelError(f"cannot read the GGUF file {path}: {type(error).__name__}: {error}") from error
        parts = reader.get_field(gguf_format.Keys.Split.LLM_KV_SPLIT_COUNT)
        if parts is not None and int(parts.contents()) > 1:
            raise ModelError(f"{path} is one of several parts: join them with llama-gguf-split --merge.")
        field = reader.get_field(gguf_format.Keys.General.ARCHITECTURE)
        if field is None:
            raise ModelError(f"the GGUF file {path} does not name its architecture.")
        return cls(path, reader, str(field.contents()))

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """Its tensors, by name."""
        return {tensor.name: tensor for tensor in self.reader.tensors}

    @property
    def arch(self) -> gguf_format.MODEL_ARCH:
        """Its architecture, as ``gguf`` has it.

        Raises:
            ModelError: this release of ``gguf`` does not know it.
        """
        for arch, name in gguf_format.MODEL_ARCH_NAMES.items():
            if name == self.architecture:
                return arch
        raise ModelError(f"{self.path}: gguf does not know the architecture {self.architecture!r}.")

    @cached_property
    def tensor_names(self) -> gguf_format.TensorNameMap:
        """The names of tensors in files of its architecture, by those of other programs."""
        field = self.reader.get_field(gguf_format.Keys.LLM.BLOCK_COUNT.format(arch=self.architecture))
        return gguf_format.get_tensor_name_map(self.arch, 0 if field is None else int(field.contents()))

    @property
    def head(self) -> Any:
        """Its output embedding: its output tensor, or the input embedding that takes the place of one.

        Raises:
            ModelError: it lacks both tensors.
        """
        head = self.tensors.get(OUTPUT, self.tensors.get(_EMBEDDING))
        if head is None:
            raise ModelError(f"{self.path} has neither {OUTPUT} nor {_EMBEDDING}.")
        return head

    @property
    def is_tied(self) -> bool:
        """Whether it has no output tensor of its own."""
        return OUTPUT not in self.tensors

    def check_output(self) -> None:
        """Refuse a file whose model can have no output tensor of its own.

        Raises:
            ModelError: llama.cpp reads none in models of its architecture.
        """
        if gguf_format.MODEL_TENSOR.OUTPUT not in gguf_format.MODEL_TENSORS[self.arch]:
            raise ModelError(f"{self.path}: models of architecture {self.architecture!r} have no output tensor.")

    def check_model(self, lm: LM) -> None:
        """Refuse a file of another model than a loaded one.

        Raises:
            ModelError: the output embeddings differ, or there is none.
        """
        if not is_near(values(self.head), lm.head.weight):
            raise ModelError(f"{self.path} belongs to another model than {lm.name}: their output embeddings differ.")

    def copy(
        self, out: Path, add_output: Callable[[gguf_format.GGUFWriter], None], size: int, others: str | None = None
    ) -> Path:
        """Write a copy with another output tensor.

        Args:
            out: the file to write (``check_gguf_target``).
            add_output: adds the output tensor.
            size: bytes that the output tensor may take.
            others: type of all other matrices: f32, f16 or q8_0; None leaves them as they are.

        Raises:
            SteerError: a type does not suit a tensor.
            OutputError: the disk cannot be written.
            ModelError: a tensor cannot be read.
        """
        with writing(out, "the model", self.path.stat().st_size + size), replace_file(out) as aside:
            writer = gguf_format.GGUFWriter(aside, self.architecture)
            try:
                self._copy_fields(writer, others)
                for tensor in self.reader.tensors:
                    if tensor.name != OUTPUT:
                        _copy_tensor(tensor, writer, others)
                add_output(writer)
            except gguf_format.quants.QuantError as error:
                raise SteerError(f"cannot write {out}: {error}.") from error
            finish(writer)
        return out

    def _copy_fields(self, writer: gguf_format.GGUFWriter, others: str | None) -> None:
        """Copy the metadata, without the fields that the writer writes itself and those that are no longer true."""
        if others is not None:
            writer.add_file_type(_FILE_TYPES[others])
        written = (gguf_format.Keys.General.ARCHITECTURE, gguf_format.Keys.General.FILE_TYPE)
        for field in self.reader.fields.values():
            if field.name == gguf_format.Keys.General.ALIGNMENT:
                writer.add_custom_alignment(field.contents())
            elif not field.name.startswith("GGUF.") and field.name not in (written if others else written[:1]):
                sub_type = field.types[-1] if field.types[0] == gguf_format.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)


def check_types(*names: str) -> None:
    """Refuse types that tensors cannot be written in.

    Raises:
        SteerError: there is one.
    """
    if wrong := set(names) - set(TYPES):
        raise SteerError(f"unknown tensor type {', '.join(sorted(wrong))}: choose one of {', '.join(TYPES)}.")


def is_near(written: NDArray[np.float32], own: Tensor) -> bool:
    """Whether numbers of a file are those of a weight, as far as quantisation leaves them."""
    found, expected = torch.from_numpy(np.array(written)), own.detach().cpu().float()
    return found.shape == expected.shape and bool((found - expected).norm() <= QUANTISED * expected.norm())


def values(tensor: Any) -> NDArray[np.float32]:
    """The numbers of a tensor of any type.

    Raises:
        ModelError: its type is one that ``gguf`` cannot read.
    """
    try:
        read: NDArray[np.float32] = gguf_format.quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ModelError(f"tensor {tensor.name} has type {tensor.tensor_type.name}, which cannot be read.") from error
    return read


def add_tensor(writer: gguf_format.GGUFWriter, name: str, numbers: NDArray[np.float32], kind: Type) -> None:
    """Add a tensor in one of the types that can be written."""
    writer.add_tensor(name, gguf_format.quants.quantize(numbers, kind), raw_dtype=kind)


def finish(writer: gguf_format.GGUFWriter) -> None:
    """Write what was added to a writer, and close its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tensor(tensor: Any, writer: gguf_format.GGUFWriter, others: str | None) -> None:
    if others is None or len(tensor.shape) < 2:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    else:
        add_tensor(writer, tensor.name, values(tensor), TYPES[others])
