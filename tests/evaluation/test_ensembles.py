"""Ensembles draw from weighted sums of the logits of several contexts: the sums of separate passes, row by row."""

from __future__ import annotations

import pytest
import torch

from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.baselines.steer import steer_baseline
from lmsteer.errors import DataError, ModelError
from lmsteer.evaluation.conditions import Prefixed, Unsteered
from lmsteer.evaluation.ensembles import AfterWords, Ensemble, Greedier, contrastive_prompting, dexperts, guidance
from lmsteer.generation.config import GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.writing import NotFiniteError
from lmsteer.util.provenance import provenance_of
from tiny import random_steer

PROMPTS = ["The cat", "A much longer prompt, to be padded", "x"]
GREEDY = GenerationConfig(1, 10, SamplingConfig(temperature=0))
DRAWN = GenerationConfig(3, 8, batch_size=8)
WORDS = ("Sad: ", "So very glad: ")


def written(lm, condition, config=GREEDY, prompts=PROMPTS):
    return condition.generate(lm, prompts, condition.prefill(lm, prompts, config.max_new_tokens), config)


def greedily(lm, contexts, tokens=10):
    """Greedy text by a separate pass for each context and token: ``contexts`` are weights, ids and context managers."""
    ids = []
    for _ in range(tokens):
        z = 0
        for weight, start, acting in contexts:
            with acting(), torch.no_grad():
                z = z + weight * lm.model(torch.tensor([[*start, *ids]])).logits[0, -1]
        ids.append(int(z.argmax()))
        if ids[-1] in lm.stop_ids:
            break
    return lm.codec.decode(ids)


@pytest.fixture(scope="module")
def lora(llama):
    trainer = LoRATrainer(llama, "all", seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(trainer.trainable()):
            generator = torch.Generator().manual_seed(number)
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return trainer.baseline(BaselineCard(method="lora", **provenance_of(llama)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gemma2"])
def test_contrasted_prompts_are_the_sum_of_separate_passes(make_lm, family):
    lm = make_lm(family)
    negative, positive = WORDS

    def contexts(prompt):
        ids = lm.encode([prompt, positive + prompt, negative + prompt])
        return [(weight, each, torch.no_grad) for weight, each in zip((1.0, 1.5, -1.5), ids, strict=True)]

    assert written(lm, contrastive_prompting(*WORDS, 1.5)) == [greedily(lm, contexts(prompt)) for prompt in PROMPTS]


def test_experts_are_the_sum_of_separate_passes(llama, lora):
    def at(strength):
        return lambda: lora.at(llama, [strength])

    def contexts(prompt):
        (ids,) = llama.encode([prompt])
        return [(1.0, ids, torch.no_grad), (2.0, ids, at(1.0)), (-2.0, ids, at(-1.0))]

    found = written(llama, dexperts(lora, 2.0))
    assert found == [greedily(llama, contexts(prompt)) for prompt in PROMPTS]
    assert found != written(llama, Unsteered())


@pytest.mark.parametrize("config", [GREEDY, DRAWN])
def test_ends_of_the_scales_are_what_they_should_be(llama, lora, config):
    plain = written(llama, Unsteered(), config)
    assert written(llama, contrastive_prompting(*WORDS, 0.0), config) == plain
    assert written(llama, contrastive_prompting(WORDS[0], WORDS[0], 3.0), config) == plain
    assert written(llama, dexperts(lora, 0.0), config) == plain
    for strength, words in ((-1.0, WORDS[0]), (1.0, WORDS[1])):
        alone = written(llama, Prefixed("p", "p", strength, words, Unsteered()), config)
        assert written(llama, guidance(*WORDS, strength), config) == alone
    assert written(llama, guidance(*WORDS, 3.0), config) != plain


def test_rows_do_not_depend_on_their_batch(llama):
    condition = contrastive_prompting(*WORDS, 1.0)
    few = GenerationConfig(3, 8, batch_size=3)
    assert written(llama, condition, DRAWN) == written(llama, condition, few)
    found = [*condition.continuations(llama, PROMPTS, condition.prefill(llama, PROMPTS, 8), DRAWN)]
    assert [(each.prompt, each.sample) for each in found] == [(p, k) for p in PROMPTS for k in range(3)]
    assert all(each.tokens <= 8 for each in found)


def test_greedier_text_is_drawn_from_fewer_tokens(llama):
    fewer = GenerationConfig(3, 8, SamplingConfig(top_p=0.2), batch_size=8)
    found = written(llama, Greedier("g", "greedier", 0.0, 0.2), DRAWN)
    assert found == written(llama, Unsteered(), fewer)
    assert found != written(llama, Unsteered(), DRAWN)


def test_fingerprints_tell_contexts_and_weights_apart(llama, lora):
    made = [
        contrastive_prompting(*WORDS, 1.0),
        contrastive_prompting(*WORDS, 2.0),
        contrastive_prompting(*reversed(WORDS), 1.0),
        guidance(*WORDS, 1.0),
        guidance(*WORDS, -1.0),
        dexperts(lora, 1.0),
        dexperts(lora, 1.0, 0.5),
        Greedier("g", "g", 0.0, 0.5),
        Greedier("g", "g", 0.0, 0.6),
    ]
    assert len({each.fingerprint for each in made}) == len(made)


@pytest.mark.parametrize(
    "config", [GenerationConfig(limits=Limits(kl=1.0)), GenerationConfig(readings=True), GenerationConfig(stop=("a",))]
)
def test_what_would_have_no_effect_is_refused(llama, config):
    with pytest.raises(DataError, match="leave them out"):
        written(llama, guidance(*WORDS, 2.0), config)


def test_contexts_that_rows_cannot_have_are_refused(llama, make_lm):
    with pytest.raises(ModelError, match="one row at a time"):
        guidance(*WORDS, 2.0).prefill(make_lm("mamba"), PROMPTS, 4)
    with pytest.raises(ModelError, match="cannot be one row's alone"):
        dexperts(steer_baseline(random_steer(llama)), 1.0).prefill(llama, PROMPTS, 4)
    long = "word " * llama.max_length
    with pytest.raises(DataError, match="longer than the model's context"):
        guidance(long, long, 2.0).prefill(llama, PROMPTS, 4)


def test_logits_that_are_not_finite_are_named(llama):
    ensemble = Ensemble("too much", "m", 1.0, (AfterWords(float("inf")), AfterWords(float("-inf"))))
    with pytest.raises(NotFiniteError, match="too much: the logits are not finite"):
        written(llama, ensemble)
