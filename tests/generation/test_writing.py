"""Writing: rows that end make room for others, and every row is the same in any company."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from lmsteer.generation import writing
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.generate import generate
from lmsteer.generation.row import Row, row_noise
from lmsteer.generation.writing import write
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from tiny import FAMILIES, inner_steer, random_steer, tiny_lm


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_end_leave_and_others_take_their_places(make_lm, family, monkeypatch):
    lm = make_lm(family)
    monkeypatch.setattr(writing, "_STRETCH", 2)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", list(range(2, 260, 7)))
    sizes, step = [], Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda self: sizes.append(len(self)) or step(self))
    prompts = ["The cat", "A longer prompt"]
    config = GenerationConfig(5, 12, SamplingConfig(temperature=4.0), score=True, batch_size=8)
    strengths = [{"style": s} for s in (0.0, 2.0)]
    steers = {"style": random_steer(lm)}
    together = list(generate(lm, prompts, steers, strengths, config))
    sizes_together = list(sizes)
    alone = list(generate(lm, prompts, steers, strengths, replace(config, batch_size=1)))
    assert [(c.text, c.tokens) for c in together] == [(c.text, c.tokens) for c in alone]
    # float32 sums of up to twelve numbers of size five, padded and not.
    assert [c.log_p for c in together] == pytest.approx([c.log_p for c in alone], abs=1e-4, rel=0)
    assert len({c.tokens for c in together}) > 3
    if not lm.is_recurrent:
        assert max(sizes_together) == 8
        # Steps of a batch of eight that is refilled: fewer than if each eight had to wait for their longest row.
        assert len(sizes_together) < 3 * 12


def rows_of(lm, *texts, tokens=3):
    starts = map(Start, lm.encode(texts))
    return [Row(start, row_noise(0, k, 0, tokens)) for k, start in enumerate(starts)]


def test_other_threads_have_the_model_between_two_steps_and_not_within_one(llama, monkeypatch):
    """The head is used after the pass, so that a step is one piece."""
    before, within, use, keep = [], [], LM.exclusive_use, Decoder.keep

    def asked(lm):
        before.append(use(lm).is_held_here)
        return use(lm)

    def looked(decoder, passes):
        within.append(use(llama).is_held_here)
        keep(decoder, passes)

    monkeypatch.setattr(LM, "exclusive_use", asked)
    monkeypatch.setattr(Decoder, "keep", looked)
    assert len([text for ended in write(llama, rows_of(llama, "a", "b"), 2) for text in ended]) == 2
    assert before.count(False) >= 3
    assert within == [True] * 3
    before.clear()
    with use(llama):  # as within lm.steered
        list(write(llama, rows_of(llama, "a"), 1))
    assert all(before)


def test_a_prompt_of_several_rows_is_read_once(llama):
    widths = []
    same = rows_of(llama, "abcdef", "abcdef", "abcdef", "xy")
    embedding = llama.model.get_input_embeddings()
    with embedding.register_forward_hook(lambda _, args, __: widths.append(tuple(args[0].shape))):
        texts = [text for ended in write(llama, same, 4) for text in ended]
    assert widths == [(2, 5), (4, 1), (4, 1), (4, 1)]
    assert sorted(text.row for text in texts) == [0, 1, 2, 3]
    assert all(len(text.ids) == 3 and text.log_p != text.log_p for text in texts)


def test_the_model_is_free_between_two_stretches(llama):
    rows = write(llama, rows_of(llama, "abc", "de", "f"), 1)
    for _ in range(3):
        next(rows)
        assert not llama.exclusive_use().is_held_here
        before = llama.model(torch.tensor([[5, 6]])).logits
        assert torch.equal(before, llama.model(torch.tensor([[5, 6]])).logits)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_no_row_goes_beyond_the_context_while_others_go_on(make_lm, family, monkeypatch):
    lm = make_lm(family)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", list(range(0, 259, 5)))
    ids, sampling = [40 + k % 90 for k in range(lm.max_length - 20)], SamplingConfig(1.0, temperature=4.0)
    rows = [Row(Start(ids), row_noise(0, k, 0, 20), sampling=sampling) for k in range(12)]
    together, alone = ([text for ended in write(lm, rows, size) for text in ended] for size in (4, 12))
    assert {text.row: text.ids for text in together} == {text.row: text.ids for text in alone}
    assert len({len(text.ids) for text in together}) > 2


def test_an_adapter_is_installed_once_a_batch(llama):
    installed = []

    @contextmanager
    def adapter():
        installed.append(1)
        yield

    rows = rows_of(llama, "abc", "de", "f", "ghij", tokens=40)
    parts = [*write(llama, rows, 2, installed=adapter)]
    assert len(installed) == len(parts) == 2
    assert sorted(text.row for part in parts for text in part) == [0, 1, 2, 3]


def test_what_is_written_inside_the_model_is_scored_while_the_adapter_is_there(llama, monkeypatch):
    active, scored = [], []

    @contextmanager
    def adapter():
        active.append(1)
        yield
        active.pop()

    def score(lm, starts, texts):
        scored.append(len(active))
        return [-1.0] * len(texts)

    monkeypatch.setattr(writing, "unsteered_log_likelihoods", score)
    steer = inner_steer(llama, ["layers.0"])
    rows = [replace(row, steers={"s": steer}, strengths={"s": 1.0}) for row in rows_of(llama, "abc", "de", tokens=4)]
    (texts,) = write(llama, rows, 2, score=True, installed=adapter)
    assert scored == [1]
    assert [text.log_p for text in texts] == [-1.0, -1.0]


def test_logits_that_are_not_finite_count_only_until_a_row_ends(llama, monkeypatch):
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", list(range(260)))
    rows, step, steps = rows_of(llama, "a", "b", tokens=5), Decoder.step, [0]

    def damaged(self):
        steps[0] += 1
        with self._lm.head.module.register_forward_hook(lambda *call: call[-1] * (torch.nan if steps[0] > 1 else 1)):
            return step(self)

    monkeypatch.setattr(Decoder, "step", damaged)
    (ended,) = write(llama, rows, 2)
    assert [len(text.ids) for text in ended] == [1, 1]
    steps[0] = 1
    (failed,) = write(llama, rows, 2)
    assert [(text.ended, text.failed, text.ids) for text in failed] == [(True, True, [])] * 2


def test_a_row_whose_logits_are_not_finite_fails_alone():
    lm = tiny_lm("gpt_neox")
    rows = rows_of(lm, "abc", "xzy", "de")
    whole = {text.row: text.ids for part in write(lm, rows, 3) for text in part}
    lm.model.get_input_embeddings().weight.data[lm.encode(["z"])[0][0]] = torch.nan
    texts = {text.row: text for part in write(lm, rows, 3) for text in part}
    assert [(texts[k].failed, texts[k].ids) for k in range(3)] == [(False, whole[0]), (True, []), (False, whole[2])]
