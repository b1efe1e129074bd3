"""GGUF files are converted once, because reading one takes half a minute, and reading safetensors a second.

The weights are the float32 numbers that the file's blocks encode, bit for bit.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, cast

import gguf as gguf_format
import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lmsteer.errors import ModelError
from lmsteer.model.checkpoint import check_whole
from lmsteer.util.progress import notice

# Values of `tokenizer.ggml.pre` that mean "each digit alone, then GPT-2's split". transformers (5.24) reads them as
# GPT-2's split alone, which splits "\n\n1." into other tokens than the model was trained on.
_DIGITS_APART = frozenset({"smollm", "starcoder", "refact"})


# Special tokens by transformers' names, and their fields in a GGUF file. transformers 5.16 and 5.17 do not read them
# all, and a tokenizer with another end-of-text token has another fingerprint.
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write the model and the tokenizer of a GGUF file to a folder that ``from_pretrained`` reads.

    The result depends on the file alone, although transformers would prefer a ``tokenizer.json`` beside it.

    Raises:
        ModelError: the file is damaged, or has a kind of model that transformers does not know.
    """
    notice(f"converting {gguf.name} to safetensors, once ...")
    out.mkdir(parents=True, exist_ok=True)
    # The GGUF reader's progress bar cannot be switched off, so stderr is redirected.
    with tempfile.TemporaryDirectory(dir=out) as scratch, redirect_stderr(StringIO()):
        try:
            model, tokenizer = _read_gguf(_link(gguf, Path(scratch)))
        except Exception as error:  # readers raise exceptions of any kind on damaged bytes
            kind = "" if isinstance(error, ModelError) else f"{type(error).__name__}: "
            raise ModelError(
                f"cannot read the GGUF file {gguf}: {kind}{error}\n"
                f"It may be damaged, or of a kind that transformers {transformers.__version__} cannot read; "
                "fetch it again, or name the model's Hub id or safetensors folder instead."
            ) from error
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def _link(gguf: Path, folder: Path) -> Path:
    link = folder / "model.gguf"
    try:
        link.symlink_to(gguf.resolve())
    except OSError:  # Windows allows links to few users
        shutil.copyfile(gguf, link)
    return link


def _read_gguf(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    location: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    loader: Any = AutoModelForCausalLM
    # A transformers with GgufConfig keeps blocks packed where it can, and then cannot save them.
    config = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": config(dequantize=True)} if config else {}
    loading = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = loader.from_pretrained(gguf.parent, dtype=torch.float32, **loading, **location, **dense)
    check_whole(model, info, "the file")
    return model, _repair_tokenizer(AutoTokenizer.from_pretrained(gguf.parent, **location), gguf)


def _repair_tokenizer(tokenizer: Any, gguf: Path) -> PreTrainedTokenizerBase:
    reader = gguf_format.GGUFReader(gguf)
    for name, field in _SPECIAL.items():
        if (token := reader.get_field(f"tokenizer.ggml.{field}_token_id")) is not None:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(int(token.contents())))
    split = reader.get_field("tokenizer.ggml.pre")
    if split and split.contents() in _DIGITS_APART:
        tokenizer.clean_up_tokenization_spaces = False  # transformers 5.16 sets it, and warns about it each time
        digits, gpt2 = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    return cast(PreTrainedTokenizerBase, tokenizer)
