"""Tiny random models of every architecture family, random steers on them, and texts with a style."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lmsteer.data.labelled import LabelledText
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.lookup import GistCard
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRAFactors, body_layers
from lmsteer.model.onednn import use_onednn
from lmsteer.steer.card import Card
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import find_site
from lmsteer.steer.steer import Steer
from lmsteer.util.provenance import provenance_of

_COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_KV = {**_COMMON, "num_key_value_heads": 2}
_GEMMA = {**_KV, "head_dim": 8, "final_logit_softcapping": 5.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gpt_neox": {**_COMMON, "tie_word_embeddings": False},
    "llama": _KV,
    "mistral": _KV,
    "qwen2": _KV,
    "qwen3": {**_KV, "head_dim": 8},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": {**_KV, "pad_token_id": 0},
    "granite": {**_KV, "logits_scaling": 4.0},
    "cohere": {**_KV, "logit_scale": 0.25},
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes are tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer like that of Llama 2: a space is put in front of a text, bytes are a fallback, <s> is added."""
    special = ["<unk>", "<s>", "</s>"]
    words = ["▁", *"abcdeisthw", "▁t", "▁w", "as", "th"]
    vocabulary = {token: i for i, token in enumerate([*special, *(f"<0x{i:02X}>" for i in range(256)), *words])}
    merges = [("▁", "t"), ("▁", "w"), ("a", "s"), ("t", "h")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", legacy=False
    )


def tiny_model(family: str, **options: Any) -> PreTrainedModel:
    """A random model with two layers, 32 wide; its embeddings are spread out enough that steers show."""
    ids = {"vocab_size": len(tiny_tokenizer()), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**ids, **FAMILIES[family], **options})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.get_output_embeddings().weight.data.normal_(0, 0.3)
    return model.eval()


def tiny_lm(family: str, dtype: torch.dtype = torch.float32) -> LM:
    """A tiny model with its tokenizer, as ``load`` would give it."""
    model = tiny_model(family).to(dtype)
    use_onednn(model)
    return LM(model, tiny_tokenizer(), f"tiny-{family}")


def kin_of(lm: LM, kind: str = "Q4_1") -> LM:
    """The model after its weights were rounded to few bits, with a scale for each block, as in a GGUF file."""
    model, to = deepcopy(lm.model), gguf.GGMLQuantizationType[kind]
    for weight in model.parameters():
        if weight.dim() == 2 and weight.shape[1] % 32 == 0:
            rounded = gguf.quants.dequantize(gguf.quants.quantize(weight.detach().numpy(), to), to)
            weight.data = torch.from_numpy(rounded)
    return LM(model, lm.tokenizer, f"{lm.name}-{kind}")


def card(lm: LM, name: str = "style") -> Card:
    """A card of a steer on a model."""
    return Card(name=name, **provenance_of(lm), label="anything")


def matrix_of(mix: Mix) -> torch.Tensor:
    """The matrix (d, d) of a mix with one strength for all rows."""
    a, b = mix.factors()
    return a @ b.T


def random_steer(lm: LM, form: str = "multiply", rank: int = 3, seed: int = 0, name: str = "style") -> Steer:
    """A random steer of any form, large enough to show."""
    g = torch.Generator().manual_seed(seed)
    v, d = lm.head.weight.shape
    factors = {
        "multiply": {"A": torch.randn(d, rank, generator=g) / 4, "B": torch.randn(d, rank, generator=g) / 4},
        "add": {"a": torch.randn(d, generator=g) / 2},
        "offset": {"o": torch.randn(v, generator=g)},
    }[form]
    return Steer(form, factors, d, v, card(lm, name))  # type: ignore[arg-type]


def inner_steer(lm: LM, sites: Sequence[str], rank: int = 2, seed: int = 0, *, head: bool = False) -> Steer:
    """A random steer of sites inside the model, where it moves outputs by some tenths, and of the head if wanted."""
    steer, random = random_steer(lm, seed=seed), torch.Generator().manual_seed(seed)
    factors = {key: factor if head else factor[:, :0] for key, factor in steer.factors.items()}
    for site in (find_site(lm.model, each) for each in sites):
        factors[f"{site.name}.A"] = torch.randn(site.inputs, rank, generator=random) / site.inputs**0.5
        factors[f"{site.name}.B"] = torch.randn(site.outputs, rank, generator=random) / 4
    return replace(steer, factors=factors)


def read_steer(lm: LM, form: str = "multiply", name: str = "style") -> Steer:
    """A random steer with a reader and a safe range, whose reading can be held."""
    steer = random_steer(lm, form, name=name)
    held_out = {"slope": 0.25, "offset": 0.1}
    return replace(steer, card=replace(steer.card, held_out=held_out, safe_range=(-6.0, 5.0)))


def own_steer(lm: LM, form: str = "multiply", seed: int = 0, name: str = "style") -> Steer:
    """A random steer with the card that a fit on the model writes."""
    return replace(random_steer(lm, form, seed=seed, name=name), card=lm.card(name))


def random_adapter(lm: LM, tokens: int = 2, *, share_embedding: bool = False, seed: int = 0) -> GistAdapter:
    """A gist adapter with a LoRA of every layer, strong enough to change what the model writes."""
    drawn = torch.Generator().manual_seed(seed)
    size = lm.model.get_input_embeddings()(torch.tensor([1], device=lm.device)).shape[1]
    lora = {}
    for name in body_layers(lm):
        weight = lm.model.get_parameter(f"{name}.weight")
        is_transposed = type(lm.model.get_submodule(name)).__name__ == "Conv1D"
        rows, columns = weight.T.shape if is_transposed else weight.shape
        a, b = (torch.randn(shape, generator=drawn) * 0.2 for shape in ((2, columns), (rows, 2)))
        lora[name] = LoRAFactors(a, b)
    embeddings = torch.randn(1 if share_embedding else tokens, size, generator=drawn)
    return GistAdapter(embeddings, lora, GistCard(**provenance_of(lm), tokens=tokens))


def styled(count: int, seed: int = 0) -> list[LabelledText]:
    """Texts whose letters tell their label."""
    rng = random.Random(seed)
    letters = {1.0: "abcdefgh", -1.0: "stuvwxyz"}
    return [
        LabelledText("".join(rng.choices(letters[label] + "lmno", k=16)), label)
        for label in (1.0, -1.0)
        for _ in range(count // 2)
    ]


# How many models write chats.
CHATML = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


# The same for a model that thinks before it answers, and whose template opens the thinking part.
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}{# </think> #}")


def chat_lm(template: str = CHATML, tokens: Sequence[str] = ()) -> LM:
    """A tiny model with a chat template, for whose special tokens, and more tokens, it has input embeddings."""
    lm, tokenizer = tiny_lm("llama"), tiny_tokenizer()
    tokenizer.add_tokens(["<|turn|>", "<|end|>"], special_tokens=True)
    tokenizer.add_tokens([*tokens])
    tokenizer.chat_template = template
    lm.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return replace(lm, tokenizer=tokenizer)
