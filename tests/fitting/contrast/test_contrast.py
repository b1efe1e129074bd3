"""A steer from descriptions: what is written, what is read, the regression, and what is refused."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from lmsteer.data.contrast import Contrast
from lmsteer.data.starter import starter_subjects
from lmsteer.errors import DataError, InterruptedWorkError
from lmsteer.fitting.contrast.config import ContrastConfig
from lmsteer.fitting.contrast.fit import fit_contrast
from lmsteer.fitting.contrast.imitation import imitation
from lmsteer.fitting.contrast.prompts import ContrastPrompts, contrast_prompts
from lmsteer.fitting.contrast.regression import DAMPING, ShiftRegression, low_rank, net_of_recent
from lmsteer.fitting.contrast.rows import RECENT, ContrastRows, read_texts
from lmsteer.fitting.contrast.writing import ContrastText, write_texts
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.generation.writing import write
from lmsteer.model.batching import length_buckets
from lmsteer.steer.files import load_steer
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import LowRank
from lmsteer.util.files import exclusive
from lmsteer.util.linalg import damped
from lmsteer.util.progress import no_progress
from tiny import random_steer, tiny_lm

CONTRAST = Contrast.of_descriptions("abc", "xyz")
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def lm():
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def texts(lm):
    prompts = contrast_prompts(lm, CONTRAST, ["a", "b", "c", "d"], 6)
    return write_texts(lm, prompts, ContrastConfig(4, 6, seed=0))


@pytest.fixture(scope="module")
def rows(lm, texts):
    return ContrastRows.join(list(read_texts(lm, texts, no_progress)))


def test_both_ends_write_about_every_subject(lm, texts):
    assert {(text.subject, text.end) for text in texts} == {(k, end) for k in range(4) for end in (1, -1)}
    assert all(0 < len(text.ids) <= 6 and not set(text.ids[:-1]) & set(lm.stop_ids) for text in texts)


def test_the_end_of_a_text_is_kept_and_read_so_that_a_steer_learns_when_to_end():
    lm = tiny_lm("llama")
    lm.model.generation_config.eos_token_id = list(range(0, 200, 2))
    texts = write_texts(lm, contrast_prompts(lm, CONTRAST, ["a", "b"], 12), ContrastConfig(4, 12, seed=0))
    ended = [text for text in texts if len(text.ids) < 12]
    assert ended
    assert all(text.ids[-1] in lm.stop_ids and len(text.ids) > 1 for text in ended)
    rows = ContrastRows.join(list(read_texts(lm, texts, no_progress)))
    assert len(rows) == sum(len(text.ids) for text in texts)


def test_texts_are_the_same_on_a_rerun_and_others_with_another_seed(lm, texts):
    prompts = contrast_prompts(lm, CONTRAST, ["a", "b", "c", "d"], 6)
    assert write_texts(lm, prompts, ContrastConfig(4, 6, seed=0)) == texts
    assert write_texts(lm, prompts, ContrastConfig(4, 6, seed=1)) != texts


@pytest.mark.parametrize("negatives", [([8], [8, 9]), ([9, 10], [9, 10, 11, 12])], ids=["two ends", "one-sided"])
def test_rows_are_those_of_the_text_after_each_prompt(lm, negatives):
    texts = [
        ContrastText(0, ContrastPrompts([5, 6, 7], negatives[0], [9, 10]), 1, [20, 21, 22]),
        ContrastText(3, ContrastPrompts([5], negatives[1], [9, 10, 11, 12]), -1, [30]),
    ]
    rows = ContrastRows.join(list(read_texts(lm, texts, no_progress)))
    assert rows.is_one_sided == (negatives[0] == [9, 10])
    sizes = [[0] * (text.prompts.longest + len(text.ids)) for text in texts]
    order = [texts[place] for batch in length_buckets(sizes) for place in batch]
    for name in ("neutral", "plain", "positive", "negative"):
        expected = []
        for text in order:
            prompt = [lm.start_id] if name == "plain" else getattr(text.prompts, name)
            ids = torch.tensor([[*prompt, *text.ids]])
            h = lm.hidden_states(ids, torch.ones_like(ids))[0]
            expected.append(h[len(prompt) - 1 : -1])
        # padding changes rounding only
        torch.testing.assert_close(getattr(rows, name), torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_a_chat_template_is_used_where_there_is_one(lm):
    lm = tiny_lm("llama")
    lm.tokenizer.chat_template = TEMPLATE
    prompt = contrast_prompts(lm, Contrast.of_prompt("Q"), ["a cat"], 4)[0]
    assert lm.codec.decode(prompt.positive) == "s:Q\nu:Write a short text about a cat.\na:"
    assert lm.codec.decode(prompt.neutral) == "u:Write a short text about a cat.\na:"


@pytest.mark.parametrize("is_one_sided", [True, False])
def test_the_imitation_is_that_of_the_steered_model(lm, rows, is_one_sided):
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 2, generator=g) / 4 for _ in range(2))
    steer = replace(random_steer(lm), factors={"A": a, "B": b})

    def divergence(target, strength):
        h = Mix({"s": steer}, {"s": strength}).steer_hidden_states(rows.neutral)
        log_p, log_q = (torch.log_softmax(lm.head.logits(state), -1) for state in (target, h))
        return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())

    near = imitation(lm.head, replace(rows, is_one_sided=is_one_sided), LowRank(a, b))
    ends = ((rows.positive, 1.0),) if is_one_sided else ((rows.positive, 1.0), (rows.negative, -1.0))
    # float32 logits; the sums are of some hundred rows
    assert near.steered == pytest.approx(sum(divergence(*end) for end in ends) / len(ends), rel=1e-4)
    assert near.unsteered == pytest.approx(sum(divergence(end, 0.0) for end, _ in ends) / len(ends), rel=1e-4)
    assert near.share == pytest.approx(1 - near.steered / near.unsteered)


@pytest.mark.parametrize("is_of_linear_layer", [True, False])
@pytest.mark.parametrize("is_one_sided", [True, False])
def test_the_map_is_the_least_squares_one(is_one_sided, is_of_linear_layer):
    """Its gradient is zero: no other map has a smaller damped sum of squares."""
    g = torch.Generator().manual_seed(0)
    neutral, plain, positive, negative = (torch.randn(50, 6, generator=g).double() for _ in range(4))
    inputs = tuple(torch.randn(50, 4, generator=g).double() for _ in range(2)) if is_of_linear_layer else ()
    regression = ShiftRegression.empty(4 if inputs else 6, 6)
    nothing = torch.full((50, 2), -1)
    rows = ContrastRows(neutral, plain, positive, negative, (), inputs, nothing, is_one_sided)
    for part in (rows[torch.arange(20)], rows[torch.arange(20, 50)]):
        regression.add(part, torch.zeros(1, 6))
    w = regression.matrix()
    shift = positive - negative if is_one_sided else (positive - negative) / 2
    h = torch.cat(inputs or (neutral, plain))
    moment = h.T @ h / len(h)
    damping = damped(moment, DAMPING) - moment
    gradient = h.T @ (h @ w - shift.repeat(2, 1)) / len(h) + damping @ w
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_a_shift_leaves_the_logits_of_the_last_tokens_alone_and_nothing_else_is_taken_from_it():
    g = torch.Generator().manual_seed(0)
    embeddings, shift = torch.randn(9, 6, generator=g).double(), torch.randn(4, 6, generator=g).double()
    recent = torch.tensor([[1, 2], [3, 3], [4, -1], [-1, -1]])
    net = net_of_recent(shift, recent, embeddings)
    removed = shift - net
    for row, tokens in enumerate(recent):
        e = embeddings[tokens[tokens >= 0]]
        # the damping that makes repeated tokens solvable is 1e-9 of the largest square
        assert bool(((e @ net[row]).abs() < 1e-6).all())
        assert float(net[row] @ removed[row]) == pytest.approx(0.0, abs=1e-6)
    assert torch.equal(net[3], shift[3])


def test_a_row_knows_the_last_tokens_of_its_text(lm):
    (rows,) = read_texts(lm, [ContrastText(0, ContrastPrompts([5], [6], [7]), 1, list(range(20, 31)))], no_progress)
    assert rows.recent[0].tolist() == [-1] * RECENT
    assert rows.recent[2].tolist() == [21, 20] + [-1] * (RECENT - 2)
    assert rows.recent[10].tolist() == list(range(29, 29 - RECENT, -1))


def test_a_shift_that_is_linear_is_found_and_one_of_low_rank_has_that_rank(lm):
    g = torch.Generator().manual_seed(0)
    fisher = fisher_factors(lm)
    a, b = (torch.randn(32, 2, generator=g).double() for _ in range(2))
    found_a, found_b, share = low_rank(a @ b.T, fisher, None)
    assert found_a.shape == (32, 2)
    # the factorisation is kept in float32
    torch.testing.assert_close(found_a @ found_b.T, a @ b.T, atol=1e-4, rtol=1e-4)
    assert share == pytest.approx(1.0, abs=1e-6)


def test_a_fit_is_saved_says_how_it_was_made_and_is_the_same_on_a_rerun(lm, tmp_path):
    config = ContrastConfig(texts=8, new_tokens=6)
    fits = [fit_contrast(lm, CONTRAST, name="abc", out=tmp_path / name, config=config) for name in ("one", "two")]
    saved = load_steer(tmp_path / "one")
    assert torch.equal(saved.factors["A"], fits[1].steer.factors["A"])
    assert saved.card.data["contrast"] == {"positive": "abc", "negative": "xyz", "role": "user"}
    assert saved.card.label == "abc"
    assert saved.card.fit["imitation"]["between"] == round(fits[0].imitation.between, 4) > 0


class Stopped(KeyboardInterrupt):
    """Ctrl-C."""


def stop_after(calls):
    """Progress whose bar of texts is stopped after so many steps."""
    left = [calls]

    @contextmanager
    def progress(what, total, done):
        def step(count, message):
            left[0] -= 1
            if not left[0]:
                raise Stopped

        yield step

    return progress


@pytest.mark.parametrize("calls", [1, 2])
def test_an_interrupted_fit_keeps_its_texts_and_writes_only_the_others(lm, tmp_path, monkeypatch, calls):
    monkeypatch.setattr("lmsteer.fitting.contrast.writing._BATCH", 4)
    config, out = ContrastConfig(texts=8, new_tokens=6), tmp_path / "abc"
    whole = fit_contrast(lm, CONTRAST, name="abc", out=tmp_path / "whole", config=config)
    with pytest.raises(InterruptedWorkError, match=r"texts so far are kept in .*abc.texts.partial.*--resume"):
        fit_contrast(lm, CONTRAST, name="abc", out=out, config=config, progress=stop_after(calls))
    assert not out.exists()
    kept = json.loads((tmp_path / "abc.texts.partial" / "texts.json").read_text())
    assert 0 < len(kept) < 16
    written = []
    real = write
    monkeypatch.setattr(
        "lmsteer.fitting.contrast.writing.write", lambda lm, rows, size: written.extend(rows) or real(lm, rows, size)
    )
    fitted = fit_contrast(lm, CONTRAST, name="abc", out=out, config=replace(config, resume=True))
    assert len(written) == 16 - len(kept)
    assert torch.equal(fitted.steer.factors["A"], whole.steer.factors["A"])
    assert not (tmp_path / "abc.texts.partial").exists()


@pytest.mark.parametrize("content", ['{"0": [999999]}', '{"0": ["x"]}', "["])
def test_damaged_texts_and_those_of_another_fit_are_not_resumed(lm, tmp_path, content):
    config = ContrastConfig(texts=8, new_tokens=6)
    with pytest.raises(InterruptedWorkError):
        fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=config, progress=stop_after(1))
    with pytest.raises(DataError, match="another seed"):
        fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=replace(config, seed=1, resume=True))
    assert (tmp_path / "x.texts.partial").exists()
    (tmp_path / "x.texts.partial" / "texts.json").write_text(content)
    with pytest.raises(DataError, match="damaged"):
        fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=replace(config, resume=True))


def test_a_fit_without_resume_begins_anew_and_one_that_is_refused_leaves_nothing(lm, tmp_path, monkeypatch):
    config, partial = ContrastConfig(texts=8, new_tokens=6), tmp_path / "x.texts.partial"
    with pytest.raises(InterruptedWorkError):
        fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=config, progress=stop_after(1))
    (partial / "texts.json").write_text("[")
    fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=config)
    assert not partial.exists()
    monkeypatch.setattr("lmsteer.fitting.contrast.fit.HELD_OUT_EVERY", 1)
    for resume in (False, True):
        with pytest.raises(DataError, match="too few subjects"):
            fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=replace(config, resume=resume))
        assert not partial.exists()


def test_two_fits_of_one_folder_do_not_run_at_once_and_the_second_leaves_the_texts_of_the_first(lm, tmp_path):
    config = ContrastConfig(texts=8, new_tokens=6)
    with pytest.raises(InterruptedWorkError):
        fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=config, progress=stop_after(1))
    with exclusive(tmp_path / "x"), pytest.raises(DataError, match="another process is writing"):
        fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=config)
    assert (tmp_path / "x.texts.partial" / "texts.json").exists()


def test_texts_of_a_teacher_are_read_by_the_model_in_its_own_tokens(lm, tmp_path):
    teacher = tiny_lm("gpt2")
    config = ContrastConfig(texts=8, new_tokens=6)
    fitted = fit_contrast(lm, CONTRAST, name="x", teacher=teacher, out=tmp_path / "x", config=config)
    asked = contrast_prompts(teacher, CONTRAST, starter_subjects(), 6)
    first = write_texts(teacher, asked, ContrastConfig(8, 6, seed=0))[0]
    assert (
        lm.codec.encode([fitted.samples[0]], special=False)[0]
        == lm.codec.encode([teacher.codec.decode(first.ids)], special=False)[0][:6]
    )
    assert fitted.steer.card.data["teacher"] == teacher.name
    assert fitted.steer.card.base == lm.name


def test_ends_that_the_model_does_not_tell_apart_are_refused(lm, tmp_path, monkeypatch):
    real = read_texts

    def same(*args, **places):
        return (replace(rows, negative=rows.positive) for rows in real(*args, **places))

    monkeypatch.setattr("lmsteer.fitting.contrast.fit.read_texts", same)
    with pytest.raises(DataError, match="does not follow"):
        fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=ContrastConfig(texts=8, new_tokens=6))
    assert not (tmp_path / "x").exists()


def test_a_description_longer_than_the_context_is_refused_with_both_numbers():
    short = tiny_lm("gpt2")
    with pytest.raises(DataError, match=r"takes 1\d\d tokens.*128"):
        contrast_prompts(short, Contrast.of_descriptions("long " * 25), ["a cat"], 8)


@pytest.mark.parametrize(("config", "reason"), [({"texts": 3}, "4 texts"), ({"new_tokens": 0}, "1 token")])
def test_settings_out_of_range_are_refused(config, reason):
    with pytest.raises(DataError, match=reason):
        ContrastConfig(**config)


def test_too_few_subjects_and_ranks_out_of_range_are_refused(lm, tmp_path):
    with pytest.raises(DataError, match="subjects"):
        fit_contrast(lm, CONTRAST, name="x", subjects=["a"], out=tmp_path / "x")
    with pytest.raises(DataError, match="rank"):
        fit_contrast(lm, CONTRAST, name="x", out=tmp_path / "x", config=ContrastConfig(rank=33))
