"""A steer in a GGUF file: the base's own file, whose output tensor is ``E (I + s W)ᵀ``; and a base untied for adapters.

Such files load in llama.cpp and in programs built on it.
"""

from __future__ import annotations

from pathlib import Path

from lmsteer.errors import SteerError
from lmsteer.export.gguf_base import OUTPUT, TYPES, GGUFBase, add_tensor, check_types
from lmsteer.export.targets import check_gguf_target
from lmsteer.export.updates import check_exportable, merged_head
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix


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
    check_types(output, others or output)
    check_gguf_target(out, source)
    base = GGUFBase.open(source)
    base.check_output()
    base.check_model(lm)
    head = merged_head(lm, mix).float().numpy()
    return base.copy(out, lambda writer: add_tensor(writer, OUTPUT, head, TYPES[output]), head.nbytes, others)


def export_gguf_base(source: Path, out: Path) -> Path:
    """Write a GGUF file of a base with an output tensor of its own, for adapters that change that one alone.

    A base with tied embeddings has one tensor for input and output, and llama.cpp applies an adapter of that one at
    both. In the copy the output tensor has the same bytes: without an adapter it computes the same.

    Args:
        source: GGUF file of the base.
        out: file to write.

    Raises:
        SteerError: the base has an output tensor of its own, or the target is the source or no GGUF file.
        OutputError: the disk cannot be written.
        ModelError: the source cannot be read, or its architecture has no output tensor.
    """
    check_gguf_target(out, source)
    base = GGUFBase.open(source)
    base.check_output()
    head = base.head
    if not base.is_tied:
        raise SteerError(f"{source} has an output tensor of its own: adapters load on it as it is.")
    return base.copy(
        out, lambda writer: writer.add_tensor(OUTPUT, head.data, raw_dtype=head.tensor_type), head.data.nbytes
    )
