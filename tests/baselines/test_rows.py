"""Baselines of single rows: side by side, each row is what its method alone writes; what all rows share is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.baselines.activations import difference_of_means
from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.embeddings import EmbeddingsTrainer
from lmsteer.baselines.full import FullTrainer
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.baselines.prompting import few_shot
from lmsteer.baselines.soft_prompts import PrefixTuning, PromptTuning
from lmsteer.baselines.steer import SteerBaseline
from lmsteer.errors import ModelError, SteerError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import continue_from
from lmsteer.generation.row import Row, row_noise
from lmsteer.generation.writing import write
from lmsteer.util.provenance import provenance_of
from tiny import random_steer, styled

GREEDY = GenerationConfig(max_new_tokens=6, sampling=SamplingConfig(temperature=0))


def card_of(lm, method="a"):
    return BaselineCard(method=method, **provenance_of(lm))


def drawn(*shape, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def lora(lm, targets="all"):
    trainer = LoRATrainer(lm, targets, 3)
    for factor in trainer.trainable():
        factor.data.copy_(drawn(*factor.shape, size=0.25))
    return trainer.baseline(card_of(lm))


def by_row(lm):
    prompt, prefix = drawn(2, 3, lm.hidden_size), drawn(2, 3, 2 * 2 * 2 * 8)
    return {
        "lora": lora(lm),
        "activations": difference_of_means(lm, styled(20), card_of(lm)),
        "prompt": PromptTuning(card_of(lm), dict(zip(("minus", "plus"), prompt, strict=True))),
        "prefix": PrefixTuning(card_of(lm), dict(zip(("minus", "plus"), prefix, strict=True))),
    }


def test_rows_of_all_methods_side_by_side_are_what_each_method_writes_alone(llama):
    prompts = ["The cat", "It was"]
    wanted = [(name, baseline, strength) for name, baseline in by_row(llama).items() for strength in (-1.0, 0.5)]
    alone, rows = [], []
    for place, (_, baseline, strength) in enumerate(wanted):
        prompt = prompts[place % 2]
        prefill = baseline.prefill(llama, [prompt], strength, 6)
        alone += [row.text for row in continue_from(llama, [prompt], prefill, {}, [{}], GREEDY)]
        start = replace(baseline.for_rows(llama)(strength), ids=llama.encode([prompt])[0])
        rows.append(Row(start, row_noise(0, 0, 0, 6), sampling=GREEDY.sampling))
    written = {text.row: llama.codec.decode(text.ids) for part in write(llama, rows, 8) for text in part}
    assert [written[place] for place in range(len(rows))] == alone
    assert len(set(alone)) > 4


def test_what_all_rows_share_is_refused_with_the_reason(llama):
    steer = SteerBaseline(random_steer(llama))
    for baseline, reason in (
        (FullTrainer(llama).baseline(card_of(llama, "full")), "full cannot be one row's alone: it changes all weights"),
        (EmbeddingsTrainer(llama).baseline(card_of(llama, "embeddings")), "it changes the word embeddings"),
        (few_shot(llama, styled(20), card_of(llama, "few-shot")), "few-shot cannot .* send them with the prompt"),
        (steer, "serve its folder with --steers"),
        (lora(llama, "head"), "LoRA of the head cannot"),
    ):
        with pytest.raises(ModelError, match=reason):
            baseline.for_rows(llama)
    with pytest.raises(SteerError, match="its ends are -1 and 1"):
        by_row(llama)["prefix"].for_rows(llama)(2.0)
