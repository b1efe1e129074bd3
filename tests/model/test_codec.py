"""A tokenizer that knows other tokens than its model: what cannot be read is refused by name, the rest is left out."""

from dataclasses import replace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer

from lmsteer import fit, generate
from lmsteer.data.instructions import Instruction
from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.stream import stream
from lmsteer.generation.unconditional import sample_unconditional
from lmsteer.gist.examples import encode_examples
from lmsteer.model.codec import Codec
from lmsteer.model.lm import LM
from lmsteer.reading.analyse import analyse
from lmsteer.reading.encode import encode
from tiny import random_steer, styled, tiny_lm, tiny_model, tiny_tokenizer

PADDED = "my padding is [PAD] here"
REFUSAL = r"the token '\[PAD\]' \(id 259\), but tiny-llama has only 259 input embeddings"


def with_tokenizer(change):
    """A tiny model with a tokenizer that was changed, and the model was not."""
    lm, tokenizer = tiny_lm("llama"), tiny_tokenizer()
    change(tokenizer)
    return replace(lm, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def padded():
    return with_tokenizer(lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "[PAD]"}))


def test_a_text_with_a_token_that_the_model_cannot_read_is_refused_by_name(padded):
    for read in (
        lambda: padded.encode(["fine", PADDED]),
        lambda: [*generate(padded, [PADDED])],
        lambda: analyse(padded, [PADDED], {"s": random_steer(padded)}),
        lambda: fit(padded, [*styled(4), replace(styled(2)[0], text=PADDED)], name="s"),
        lambda: encode_examples(padded, [Instruction(PADDED, "", "out")], 1),
    ):
        with pytest.raises(DataError, match=REFUSAL) as refused:
            read()
        assert "resize_token_embeddings" in str(refused.value)
    assert padded.pad_id == 0
    texts = [[each.text for each in generate(lm, ["fine"])] for lm in (padded, tiny_lm("llama"))]
    assert texts[0] == texts[1]


def test_an_end_of_text_that_the_model_cannot_read_is_refused_where_texts_are_read_to_their_end():
    lm = with_tokenizer(lambda tokenizer: tokenizer.add_special_tokens({"eos_token": "[END]"}))
    for read in (
        lambda: encode(lm, ["a"], start=False, end=True),
        lambda: analyse(lm, ["a"], {"s": random_steer(lm)}),
        lambda: fit(lm, styled(4), name="s"),
    ):
        with pytest.raises(DataError, match=r"the end of each text has the token '\[END\]' \(id 259\)"):
            read()
    assert len([*generate(lm, ["fine"])]) == 1
    assert encode(lm, ["a"], start=False, end=False) == lm.encode(["a"])
    lm.model.generation_config.eos_token_id = None
    with pytest.raises(DataError, match="the end of each output"):
        encode_examples(lm, [Instruction("do", "", "out")], 1)


def test_a_start_of_text_that_the_model_cannot_read_is_not_where_texts_start():
    def add_start(tokenizer):
        tokenizer.add_special_tokens({"bos_token": "[BOS]"})
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="[BOS] $A", special_tokens=[("[BOS]", 259)]
        )

    lm = with_tokenizer(add_start)
    assert lm.start_id == lm.end_id
    assert len(sample_unconditional(lm, 2, 3, 0)[1])
    with pytest.raises(DataError, match=r"'\[BOS\]' \(id 259\)"):
        lm.encode(["a"])


@pytest.mark.parametrize("token", [-1, 259, 10**12])
def test_ids_without_a_token_are_refused_by_number(llama, token):
    with pytest.raises(DataError, match=f"the prompt has the token id {token}, but the ids of tiny-llama are 0 to 258"):
        llama.codec.check([5, token, 6], "the prompt")


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), ByT5Tokenizer()], ids=["fast", "slow"])
def test_ids_that_the_tokenizer_does_not_know_have_no_text(tokenizer):
    """As those of a head that is padded to a round size."""
    ids = tokenizer("it was", add_special_tokens=False)["input_ids"]
    codec = Codec(tokenizer, 1_000, "tiny")
    assert codec.decode([*ids[:3], 900, *ids[3:], 999]) == "it was"


def test_a_special_token_can_be_taken_literally_without_a_trace(llama):
    literal = llama.codec.encode(["a</s>b"], literal=True)[0]
    assert llama.end_id not in literal
    assert llama.codec.decode(literal) == "a</s>b"
    assert llama.encode(["a</s>b"])[0][1] == llama.end_id


def test_a_token_that_the_model_reads_and_never_predicts_is_refused_by_name():
    model = tiny_model("gpt_neox")
    model.set_output_embeddings(torch.nn.Linear(32, 100, bias=False))
    lm = LM(model, tiny_tokenizer(), "tiny")
    texts = [*styled(4), replace(styled(2)[0], text="\xe9")]
    for read in (lambda: lm.encode(["\xe9"]), lambda: fit(lm, texts, name="s")):
        with pytest.raises(DataError, match=r"the token '.*' \(id 1\d\d\), but tiny has only 100 output embeddings"):
            read()
    assert len([*generate(lm, ["fine"])]) == 1


def test_streams_leave_out_ids_that_the_tokenizer_does_not_know_as_generate_does():
    wide = LM(tiny_model("gpt_neox", vocab_size=4_000), tiny_tokenizer(), "tiny")
    config = GenerationConfig(1, 30, seed=1)
    (whole,) = generate(wide, ["fine"], config=config)
    assert whole.tokens > len(whole.text.encode())
    assert "".join(stream(wide, "fine", config=config)) == whole.text
