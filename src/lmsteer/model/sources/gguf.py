"""GGUF files, converted once: reading one takes half a minute, reading safetensors a second.

The weights stay the float32 numbers that the file's blocks stand for, bit for bit.
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
from lmsteer.util.progress import notice

# Values of `tokenizer.ggml.pre` that stand for "each digit alone, then GPT-2's split". transformers (5.24)
# takes them for GPT-2's split alone, so that "\n\n1." becomes other tokens than the model learned.
_DIGITS_APART = frozenset({"smollm", "starcoder", "refact"})


# Special tokens by transformers' names, and the fields of a GGUF file that tell them. transformers 5.16 and 5.17 do not
# read them all, and a tokenizer with another end of text is another tokenizer.
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write the model and the tokenizer of a GGUF file to a folder that ``from_pretrained`` reads.

    The result depends on the file alone: transformers would let a ``tokenizer.json`` beside it win.

    Raises:
        ModelError: the file is damaged, or of a kind that transformers does not know.
    """
    notice(f"converting {gguf.name} to safetensors, once ...")
    out.mkdir(parents=True, exist_ok=True)
    # The GGUF reader's progress bar obeys no switch, so stderr is set aside.
    with tempfile.TemporaryDirectory(dir=out) as alone, redirect_stderr(StringIO()):
        try:
            model, tokenizer = _read_gguf(_link(gguf, Path(alone)))
        except Exception as error:  # readers fail on damaged bytes in every way there is
            raise ModelError(
                f"cannot read the GGUF file {gguf}: {type(error).__name__}: {error}\n"
                f"It may be damaged, or of a kind that transformers {transformers.__version__} cannot read; "
                "fetch it again, or name the model's Hub id or safetensors folder instead."
            ) from error
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def _link(gguf: Path, folder: Path) -> Path:
    link = folder / "model.gguf"
    try:
        link.symlink_to(gguf.resolve())
    except OSError:  # Windows grants links to few
        shutil.copyfile(gguf, link)
    return link


def _read_gguf(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    loader: Any = AutoModelForCausalLM
    # A transformers with GgufConfig keeps blocks packed where it can, and then refuses to save them.
    config = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": config(dequantize=True)} if config else {}
    options = {"dtype": torch.float32, "output_loading_info": True, **where, **dense}
    model, report = loader.from_pretrained(gguf.parent, **options)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks {len(missing)} of the model's tensors, {missing[0]} among them")
    return model, _mend(AutoTokenizer.from_pretrained(gguf.parent, **where), gguf)


def _mend(tokenizer: Any, gguf: Path) -> PreTrainedTokenizerBase:
    told = gguf_format.GGUFReader(gguf)
    for name, of_file in _SPECIAL.items():
        if (token := told.get_field(f"tokenizer.ggml.{of_file}_token_id")) is not None:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(int(token.contents())))
    split = told.get_field("tokenizer.ggml.pre")
    if split and split.contents() in _DIGITS_APART:
        tokenizer.clean_up_tokenization_spaces = False  # transformers 5.16 sets it, and warns of it for ever
        digits, gpt2 = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    return cast(PreTrainedTokenizerBase, tokenizer)
