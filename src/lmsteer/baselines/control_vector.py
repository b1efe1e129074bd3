"""Control vectors as GGUF files, as repeng writes and llama.cpp reads them: a direction (d,) for each of some layers.

Both add ``direction.<l>`` after layer l, counted from 0. llama.cpp cannot add a direction after the first layer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter

from lmsteer.baselines.activations import Activations
from lmsteer.baselines.baseline import BaselineCard
from lmsteer.errors import DataError, SteerError
from lmsteer.model.lm import LM
from lmsteer.util.files import replace_file, writing
from lmsteer.util.provenance import provenance_of

_ARCHITECTURE = "controlvector"
_DIRECTION = "direction."


def export_control_vector(lm: LM, baseline: Activations, file: str | Path) -> Path:
    """Write the directions of an activation baseline as a control vector.

    Args:
        lm: the base.
        baseline: the directions.
        file: file to write, ``.gguf``.

    Raises:
        WrongBaseError: another base.
        SteerError: there is a direction after the first layer.
        OutputError: the disk cannot be written.
    """
    baseline.check_base(lm)
    file = Path(file)
    if f"{_DIRECTION}0" in baseline.tensors:
        raise SteerError("a control vector cannot have a direction after the first layer, which llama.cpp refuses.")
    with writing(file, "the control vector", baseline.bytes), replace_file(file) as aside:
        writer = GGUFWriter(aside, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", str(lm.model.config.get_text_config().model_type))
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(baseline.tensors))
        for name, direction in sorted(baseline.tensors.items()):
            writer.add_tensor(name, direction.float().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return file


def import_control_vector(lm: LM, file: str | Path) -> Activations:
    """Read a control vector. Its file names the architecture of its base and nothing more, which is checked.

    Args:
        lm: the model that it is for.
        file: file to read.

    Raises:
        DataError: there is no such file, or it is no control vector.
        SteerError: it is for another architecture, or for another hidden size.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"no such file: {file}.")
    try:
        reader = GGUFReader(file)
        architecture = reader.fields["general.architecture"].contents()
        hint = reader.fields.get(f"{_ARCHITECTURE}.model_hint")
        base = None if hint is None else hint.contents()
        directions = {t.name: torch.from_numpy(np.array(t.data, dtype=np.float32)) for t in reader.tensors}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{file} is no control vector, or damaged: {type(error).__name__}: {error}.") from error
    numbered = {name for name in directions if name.startswith(_DIRECTION) and name.removeprefix(_DIRECTION).isdigit()}
    if architecture != _ARCHITECTURE or not directions or numbered != directions.keys():
        names = ", ".join(sorted(directions)[:3])
        raise DataError(f"{file} is no control vector: it holds {architecture} with the tensors {names} ..")
    model_type = lm.model.config.get_text_config().model_type
    if base not in (None, model_type):
        raise SteerError(f"{file} is a control vector for {base} models; {lm.name} is a {model_type}.")
    size = lm.model.get_input_embeddings()(torch.tensor([0], device=lm.device)).shape[-1]
    if any(direction.shape != (size,) for direction in directions.values()):
        raise SteerError(f"{file} holds directions of another length than {size}, the hidden size of {lm.name}.")
    card = BaselineCard(method="activations", **provenance_of(lm), fit={"imported": file.name})
    return Activations(card, directions)
