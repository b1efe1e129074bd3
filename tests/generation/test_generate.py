"""Rows do not depend on their batch, strengths act, and all of transformers' ways of generating are steered."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, pipeline

from lmsteer.data.chats import Chat
from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.generation.config import GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.generate import generate, perplexity
from lmsteer.generation.row import check_steering
from lmsteer.generation.stream import stream
from lmsteer.generation.writing import NotFiniteError
from lmsteer.model.chat import encode_chat
from lmsteer.steer.mix import Mix
from lmsteer.steer.strength import Hold, Windowed
from lmsteer.steer.window import Window
from tiny import FAMILIES, chat_lm, inner_steer, random_steer, tiny_lm

PROMPTS = ["The cat", "A much longer prompt, to be padded", "x"]


def generated(lm, batch_size: int = 64, **options):
    steers = {"style": random_steer(lm)}
    strengths = [{"style": s} for s in (-2.0, 0.0, 2.0)]
    return list(generate(lm, PROMPTS, steers, strengths, GenerationConfig(2, 6, batch_size=batch_size, **options)))


def texts(continuations):
    return [c.text for c in continuations]


@pytest.fixture
def readable(llama):
    """A model whose every token but three is one character: any text comes back as the same ids."""
    characters = [*map(chr, range(33, 127)), *(chr(0x100 + i) for i in range(162))]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False}
    return replace(llama, tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("readings", [False, True])
def test_stop_strings_end_continuations(llama, batch_size, readings):
    steers, strengths = {"style": random_steer(llama)}, [{"style": -2.0}, {"style": 2.0}]
    config = GenerationConfig(2, 24, batch_size=batch_size, score=True)
    whole = list(generate(llama, PROMPTS, steers, strengths, config))
    stop = tuple(c.text[len(c.text) // 2 :][:2] for c in whole[:2])
    config = replace(config, stop=stop, readings=readings)
    found = list(generate(llama, PROMPTS, steers, strengths, config))
    assert texts(found) == [min((c.text.split(s)[0] for s in stop), key=len) for c in whole]
    assert all(one.tokens < other.tokens for one, other in zip(found[:2], whole[:2], strict=True))
    for one, other in zip(found, whole, strict=True):
        assert one.tokens <= other.tokens
        if one.tokens < other.tokens:
            assert one.log_p > other.log_p  # of the tokens that were drawn
        else:
            assert one.log_p == pytest.approx(other.log_p, abs=1e-4)  # float32, in other batches
        assert not readings or "".join(r.text for r in one.readings) == one.text
        assert not readings or len(one.readings) == one.tokens
    assert "".join(stream(llama, PROMPTS[0], steers, strengths[0], config)) == found[0].text


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_depend_on_their_batch(make_lm, family):
    lm = make_lm(family)
    assert texts(generated(lm, 1)) == texts(generated(lm, 5)) == texts(generated(lm, 64))


def test_the_order_is_prompt_strength_sample(llama):
    for batch_size in (5, 64):
        assert [(c.prompt, c.strengths["style"], c.sample) for c in generated(llama, batch_size)] == [
            (p, s, k) for p in PROMPTS for s in (-2.0, 0.0, 2.0) for k in (0, 1)
        ]


def test_prompts_of_like_length_share_batches(llama, monkeypatch):
    prompts = ["ab" * (1 + 7 * k % 12) for k in range(12)]
    batches, read = [], Decoder.prefill
    monkeypatch.setattr(Decoder, "prefill", lambda self, rows: batches.append(list(rows)) or read(self, rows))
    config = GenerationConfig(2, 4, score=True)
    together = list(generate(llama, prompts, config=replace(config, batch_size=6)))
    lengths = [len(row.start.ids) for batch in batches for row in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in batches] == [6] * 4
    alone = list(generate(llama, prompts, config=replace(config, batch_size=1)))
    assert [(c.prompt, c.text, c.sample, c.tokens) for c in together] == [
        (c.prompt, c.text, c.sample, c.tokens) for c in alone
    ]
    assert [c.log_p for c in together] == pytest.approx([c.log_p for c in alone], abs=1e-4, rel=0)  # float32, padded


def test_results_come_as_soon_as_those_before_them_are_there(llama):
    steps = []

    class Progress:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return lambda advance, message: steps.append(advance)

        def __exit__(self, *_):
            pass

    rows = generate(llama, ["abcdef", "abcd", "ab"], config=GenerationConfig(2, 2, batch_size=2), progress=Progress)
    next(rows)
    assert steps == [2]
    assert len(list(rows)) == 5
    assert steps == [2, 2, 2]


def test_seeds_repeat_and_differ(llama):
    assert texts(generated(llama, seed=1)) == texts(generated(llama, seed=1))
    for one, other in ((1, 2), (-1, -2), (3, 3 + 2**61 - 1)):
        assert texts(generated(llama, seed=one)) != texts(generated(llama, seed=other))


def test_strengths_act_and_zero_is_unsteered(llama):
    rows = generated(llama)
    plain = texts(generate(llama, PROMPTS, config=GenerationConfig(2, 6)))
    assert [c.text for c in rows if c.strengths["style"] == 0] == plain
    assert [c.text for c in rows if c.strengths["style"] == 2] != plain


@pytest.mark.parametrize("inside", [False, True])
def test_scores_are_the_unsteered_models_log_likelihood(readable, inside):
    steer = inner_steer(readable, ["layers.0"]) if inside else random_steer(readable)
    steers, strengths = {"style": steer}, [{"style": s} for s in (-2.0, 0.0, 2.0)]
    config = GenerationConfig(4, 6, SamplingConfig(top_p=1.0), score=True)
    compared = 0
    for c in generate(readable, ["abc", "a-much-longer-prompt", "x"], steers, strengths, config):
        prompt, new = readable.encode([c.prompt, c.text])
        if len(new) != c.tokens:
            continue  # a special token was drawn, which the text does not show
        h = readable.hidden_states(torch.tensor([prompt + new]), torch.ones(1, len(prompt + new), dtype=torch.int64))
        expected = readable.head.log_likelihood(h[0, len(prompt) - 1 : -1], torch.tensor(new)).sum()
        assert c.log_p == pytest.approx(float(expected), rel=1e-4, abs=1e-4)  # float32, through a cache
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize(
    ("config", "strength", "what"),
    [
        (GenerationConfig(limits=Limits(fresh=4)), 1.0, "a limit"),
        (GenerationConfig(readings=True), 1.0, "a reading"),
        (GenerationConfig(), Hold(0.8, 3.0), "a hold"),
        (GenerationConfig(), Windowed(1.0, Window(2)), "a window"),
    ],
)
def test_what_needs_the_unsteered_logits_is_refused_for_a_steer_inside_the_model(llama, config, strength, what):
    steer = inner_steer(llama, ["layers.0"], head=True)
    steer = replace(steer, card=replace(steer.card, held_out={"slope": 0.25, "offset": 0.1}))
    with pytest.raises(SteerError, match=f"{what} needs a steer that acts on the head alone; .* at layers.0"):
        next(generate(llama, ["ab"], {"s": steer}, [{"s": strength}], config))


def test_within_a_block_that_steers_inside_the_model_nothing_is_generated(llama):
    steer = inner_steer(llama, ["layers.0"])
    with (
        llama.steered(Mix({"s": steer}, {"s": 1.0})),
        pytest.raises(SteerError, match="by an enclosing `steered` block"),
    ):
        next(generate(llama, ["ab"]))
    assert next(generate(llama, ["ab"])).text
    with llama.steered(Mix({"s": steer}, {"s": 1.0})), ThreadPoolExecutor(1) as pool:  # another thread's block
        assert pool.submit(check_steering, llama, {}, {}).result(30) is None


def test_greedy_generation_is_transformers_own(llama):
    greedy = GenerationConfig(max_new_tokens=5, sampling=SamplingConfig(temperature=0))
    ours = texts(generate(llama, ["The cat"], config=greedy))
    ids = torch.tensor(llama.encode(["The cat"]))
    theirs = llama.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5)
    assert ours == llama.tokenizer.batch_decode(theirs[:, ids.shape[1] :], skip_special_tokens=True)


def test_steers_act_under_pipeline_beams_and_sampling(llama):
    prompt = llama.tokenizer("The cat", return_tensors="pt")
    arguments = {"max_new_tokens": 6, "pad_token_id": 0}
    ways = [{"do_sample": False}, {"num_beams": 3, "do_sample": False}, {"do_sample": True}]
    mix = Mix({"s": random_steer(llama)}, {"s": 4.0})

    def run(**options):
        torch.manual_seed(0)
        return llama.model.generate(**prompt, **arguments, **options).tolist()

    before = [run(**options) for options in ways]
    with llama.steered(mix) as handle:
        during = [run(**options) for options in ways]
        piped = pipeline("text-generation", model=llama.model, tokenizer=llama.tokenizer)
        steered = piped("The cat", do_sample=False, max_new_tokens=6)[0]["generated_text"]
        assert handle.calls > 0
    assert [run(**options) for options in ways] == before
    assert all(a != b for a, b in zip(before, during, strict=True))
    assert steered == llama.tokenizer.decode(during[0][0], skip_special_tokens=True)


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 2},
        {"max_length": 9},
        {"suppress_tokens": list(range(40, 200))},
        {"forced_eos_token_id": 77},
        {"bad_words_ids": [[k] for k in range(40, 200)]},
    ],
    ids=lambda own: next(iter(own)),
)
def test_a_models_own_generation_config_has_no_effect(llama, monkeypatch, own):
    before = texts(generated(llama))
    for name, value in own.items():
        monkeypatch.setattr(llama.model.generation_config, name, value)
    assert texts(generated(llama)) == before


def test_a_models_own_generation_config_is_its_own_at_any_moment(llama):
    config, before = llama.model.generation_config, llama.model.generation_config.to_dict()
    seen = []
    with (
        llama.head.module.register_forward_hook(lambda *_: seen.append(llama.model.generation_config)),
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda seed: generated(llama, seed=seed), range(4)))
    assert len(seen) > 20
    assert all(each is config for each in [*seen, llama.model.generation_config])
    assert config.to_dict() == before


def test_bad_prompts_and_strengths_are_refused(llama):
    for prompts, message in (([], "no prompts"), ([""], "is empty"), (["x" * 3000], "longer than")):
        with pytest.raises(DataError, match=message):
            list(generate(llama, prompts))
    with pytest.raises(SteerError, match="finite"):
        list(generate(llama, ["x"], {"style": random_steer(llama)}, [{"style": math.inf}]))


def test_a_steer_of_another_base_is_refused_before_any_work_is_done(llama, make_lm, monkeypatch):
    monkeypatch.setattr(Decoder, "prefill", lambda *_: pytest.fail("the prompt was read"))
    with pytest.raises(WrongBaseError):
        next(generate(llama, ["ab"], {"s": random_steer(make_lm("qwen3"))}, [{"s": 1.0}]))


def test_perplexity_of_nothing_is_nan():
    assert math.isnan(perplexity([]))


@pytest.fixture
def damaged():
    """A model with an input embedding, that of ``z``, that is no number."""
    lm = tiny_lm("gpt_neox")
    lm.model.get_input_embeddings().weight.data[lm.encode(["z"])[0][0]] = math.nan
    return lm


def test_logits_that_are_not_finite_are_refused_with_the_prompt_and_the_strengths(damaged):
    refusal = (
        r"prompt 3 \('xz'\): the model's logits are not finite numbers in torch.float32: its weights may be damaged"
    )
    given = []
    with pytest.raises(NotFiniteError, match=refusal):
        given.extend(row.prompt for row in generate(damaged, ["a", "b", "xz"], config=GenerationConfig(2, 4)))
    assert given == ["a", "a", "b", "b"]  # those before it are given
    with pytest.raises(NotFiniteError, match=r"the prompt \('xz'\): .* its weights may be damaged"):
        list(stream(damaged, "xz"))
    steers = {"big": replace(random_steer(damaged, "offset"), factors={"o": torch.full((259,), 3e38)})}
    strengths = [{"big": strength} for strength in (0.0, 1.0, 2.0)]
    with pytest.raises(NotFiniteError, match=r"prompt 1 \('a'\): .* not finite numbers at big=2: lower the strength"):
        list(generate(damaged, ["a"], steers, strengths, GenerationConfig(1, 4)))
    assert len(list(generate(damaged, ["a"], steers, strengths[:2], GenerationConfig(1, 4)))) == 2
    late = {"big": Windowed(2, Window(1))}
    for text in (lambda: [*generate(damaged, ["a"], steers, [late])], lambda: [*stream(damaged, "a", steers, late)]):
        with pytest.raises(NotFiniteError, match=r"not finite numbers at big=2 \(of 2@1\.\.\): lower the strength"):
            text()
    with pytest.raises(NotFiniteError, match="its weights may be damaged"):  # the steer does not act yet
        list(generate(damaged, ["xz"], steers, [late]))


def test_a_chat_is_answered_after_its_template():
    lm = chat_lm()
    messages = [{"role": "user", "content": "How?"}]
    text = lm.codec.decode(encode_chat(lm.codec, Chat.of_user("How?")), skip_special=False)
    found, expected = ([*generate(lm, [prompt], config=GenerationConfig(2, 8))] for prompt in (messages, text))
    assert [each.text for each in found] == [each.text for each in expected]
    assert found[0].prompt == Chat.of_user("How?")
    assert "".join(stream(lm, messages, config=GenerationConfig(1, 8))) == found[0].text
    with pytest.raises(DataError, match=r"prompt 1 \('user: How\?'\): tiny-llama has no chat template"):
        list(generate(tiny_lm("llama"), [messages]))
    with pytest.raises(DataError, match="prompt 2: message 1 of the prompt has the role 'bot'"):
        list(generate(lm, ["a", [{"role": "bot", "content": "a"}]]))
