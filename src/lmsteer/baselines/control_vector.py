"""Control vectors as GGUF files, which repeng writes and llama.cpp reads: a direction (d,) for each of some layers.

Both add ``direction.l`` after layer l, counted from 0; llama.cpp cannot add anything after the first.
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
from lmsteer.util.files import replace_file
from lmsteer.util.provenance import provenance_of

_ARCHITECTURE = "controlvector"
_DIRECTION = "direction."


def export_control_vector(lm: LM, baseline: Activations, file: str | Path) -> Path:
    """Write directions as a control vector.

    Raises:
        WrongBaseError: another base.
        SteerError: a direction after the first layer, or a disk that does not take it.
    """
    baseline.check_base(lm)
    file = Path(file)
    if f"{_DIRECTION}0" in baseline.tensors:
        raise SteerError("a control vector cannot have a direction after the first layer, which llama.cpp refuses.")
    try:
        with replace_file(file) as aside:
            writer = GGUFWriter(aside, _ARCHITECTURE)
            writer.add_string(f"{_ARCHITECTURE}.model_hint", str(lm.model.config.get_text_config().model_type))
            writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(baseline.tensors))
            for name, direction in sorted(baseline.tensors.items()):
                writer.add_tensor(name, direction.float().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise SteerError(f"cannot write the control vector to {file}: {error}.") from error
    return file


def import_control_vector(lm: LM, file: str | Path) -> Activations:
    """Read a control vector, which says of its base no more than its kind.

    Raises:
        DataError: no such file, or no control vector.
        SteerError: one of another kind of model, or of another hidden size.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"no such file: {file}.")
    try:
        reader = GGUFReader(file)
        architecture = reader.fields["general.architecture"].contents()
        hint = reader.fields.get(f"{_ARCHITECTURE}.model_hint")
        kind = None if hint is None else hint.contents()
        found = {t.name: torch.from_numpy(np.array(t.data, dtype=np.float32)) for t in reader.tensors}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{file} is no control vector, or damaged: {type(error).__name__}: {error}.") from error
    named = {name for name in found if name.startswith(_DIRECTION) and name.removeprefix(_DIRECTION).isdigit()}
    if architecture != _ARCHITECTURE or not found or named != found.keys():
        raise DataError(f"{file} is no control vector: it holds {architecture}, {', '.join(sorted(found)[:3])} ..")
    own = lm.model.config.get_text_config().model_type
    if kind is not None and kind != own:
        raise SteerError(f"{file} is a control vector of a model of the kind {kind}; {lm.name} is a {own}.")
    d = lm.model.get_input_embeddings()(torch.tensor([0], device=lm.device)).shape[-1]
    if any(direction.shape != (d,) for direction in found.values()):
        raise SteerError(f"{file} holds directions of another length than {d}, which {lm.name} has.")
    card = BaselineCard(method="activations", **provenance_of(lm), fit={"imported": file.name})
    return Activations(card, found)
