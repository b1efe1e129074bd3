"""A tiny model as a GGUF file, and as the wheels of a packaged model."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf as gguf_format
import numpy as np
from tokenizers import pre_tokenizers

from lmsteer.model.sources.pypi import PackagedModel, Part

D, HEADS, KV_HEADS, FFN, LAYERS = 32, 2, 1, 64, 2
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def byte_letters() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def tokens() -> list[str]:
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_letters(), "ĊĊ", "ĠĠ", "Ġa"]


def write_gguf(path: Path, *, without: str = "", changed: str = "", packed: str = "", alignment: int = 32) -> Path:
    """A random two-layer Llama with a byte-level tokenizer, tied head, one tensor quantised.

    Args:
        path: the file.
        without: name of a tensor that it lacks.
        changed: name of a tensor that it has with other numbers.
        packed: name of a second tensor that is quantised.
        alignment: of its tensors.
    """
    writer = gguf_format.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_context_length(64)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens())
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens()) - 3))
    writer.add_token_merges(["Ċ Ċ", "Ġ Ġ", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    for name, value in tensors().items():
        if name in ("token_embd.weight", packed):
            blocks = gguf_format.quants.quantize(value, gguf_format.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf_format.GGMLQuantizationType.Q8_0)
        elif name != without:
            writer.add_tensor(name, -value if name == changed else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    kv = D * KV_HEADS // HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens()), D), "output_norm.weight": (D,)}
    for layer in range(LAYERS):
        block = {"attn_q": (D, D), "attn_k": (kv, D), "attn_v": (kv, D), "attn_output": (D, D)}
        block |= {"ffn_gate": (FFN, D), "ffn_up": (FFN, D), "ffn_down": (D, FFN)}
        block |= {"attn_norm": (D,), "ffn_norm": (D,)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_wheels(folder: Path, gguf: Path) -> PackagedModel:
    """Two wheels that pip accepts, carrying half of the GGUF each."""
    whole = gguf.read_bytes()
    halves = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    for number, half in enumerate(halves):
        info = f"tiny_model_{number}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"tiny_model_{number}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("tiny_model/tiny.gguf.part", half)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model-{number}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
    parts = tuple(Part(f"tiny-model-{number}==1.0", "tiny_model/tiny.gguf.part") for number in range(2))
    digest = hashlib.sha256(whole).hexdigest()
    return PackagedModel("Tiny (1 MB)", "tiny-model-1.0", "tiny.gguf", digest, parts, "Apache-2.0")


def built(cache: Path) -> list[str]:
    """What lies in the cache, temporary folders included, locks left out."""
    return sorted(entry.name for entry in cache.glob("*") if entry.suffix != ".lock")
