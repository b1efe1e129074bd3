"""Fits from few texts: examples in front of what the model writes, folds in place of held-out texts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.data.labelled import FEW_TEXTS, LabelledText
from lmsteer.errors import DataError
from lmsteer.fitting.few import FOLDS, LENGTH, FewTexts, has_few, solve_few
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.statistics import Statistics
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.verify import verify
from lmsteer.util.progress import no_progress
from tiny import styled


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def few_of(lm, texts: list[LabelledText]) -> FewTexts:
    return FewTexts(LabelledRows.join(list(gather_rows(lm, texts, encode_labelled(lm, texts)))))


def test_a_fit_of_few_texts_says_on_its_card_what_folds_show(llama, tmp_path):
    texts = styled(48)
    done = fit(llama, texts, name="few")
    card, fisher = done.steer.card, fisher_factors(llama)
    assert (card.fit["folds"], card.data["texts"], done.held_out.texts) == (FOLDS, 48, 48)
    assert done.held_out.auc > 0.9
    assert card.held_out == done.held_out.to_json()
    factors = done.steer.factors["A"].double(), done.steer.factors["B"].double()
    assert fisher.inner(factors, factors) ** 0.5 == pytest.approx(LENGTH, rel=1e-4)
    again = fit(llama, texts[::-1], name="again")  # the order of the texts does not matter
    torch.testing.assert_close(again.steer.matrix(), done.steer.matrix(), rtol=1e-3, atol=1e-5)
    with pytest.raises(DataError, match="held none of these texts out"):
        verify(llama, done.steer, texts)
    assert verify(llama, done.steer, styled(8, seed=5)).held_out is not None


def test_statistics_that_arrive_in_parts_give_the_fit_of_all_few_texts(llama):
    texts = styled(24)
    whole = fit(llama, texts, name="whole")
    fit(llama, texts[::2], name="a", config=FitConfig(save_statistics="stats"))
    extended = fit(llama, texts[1::2], name="b", config=FitConfig(statistics=["stats"]))
    torch.testing.assert_close(extended.steer.matrix(), whole.steer.matrix(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("labels", [(1, 1, 1, -1, -1, -1, -1, -1), (1, 1, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5)])
def test_fewer_than_four_of_a_side_are_refused(llama, tmp_path, labels):
    texts = [LabelledText(f"text {i}", label) for i, label in enumerate(labels)]
    with pytest.raises(DataError, match=r"too few texts: (3|2) have a label above the mean"):
        fit(llama, texts, name="x")
    assert not list((tmp_path / "steers").glob("*"))  # no folder to resume from, either


def test_no_prompt_has_an_example_of_its_own_fold(llama):
    few = few_of(llama, styled(16))
    for fold, rows in enumerate(few.folds):
        ids, labels = rows.token_ids()
        assert sorted(labels.tolist()) == [-1, -1, 1, 1]  # folds are alike
        for positive, negative in few.prompts(llama, fold):
            shown = llama.codec.decode(positive), llama.codec.decode(negative)
            assert all(llama.codec.decode(own[:16]) not in side for own in ids for side in shown)
            assert set("stuvwxyz").isdisjoint(shown[0])
            assert set("abcdefgh").isdisjoint(shown[1])


def test_texts_of_a_group_share_a_fold(llama):
    texts = [replace(text, group=str(i % 8)) for i, text in enumerate(styled(16))]
    for fold in few_of(llama, texts).folds:
        groups = fold.digest[:, 0].unique()
        assert len(groups) == 2
        assert len(fold.texts()[1]) == 4


def test_a_fold_does_not_change_the_step_that_is_taken_without_it(llama):
    few, fisher = few_of(llama, styled(16)), fisher_factors(llama)
    gradients = few.gradients(llama, no_progress)
    flipped = FewTexts(LabelledRows.join([replace(few.folds[0], label=-few.folds[0].label), *few.folds[1:]]))
    flipped.__dict__["folds"] = [replace(few.folds[0], label=-few.folds[0].label), *few.folds[1:]]
    one, other = (solve_few(texts, gradients, fisher, without=0) for texts in (few, flipped))
    assert torch.equal(one.factors["A"], other.factors["A"])
    assert not torch.equal(one.factors["A"], solve_few(few, gradients, fisher).factors["A"])


def test_few_ends_where_many_begin(llama):
    statistics = Statistics.empty(llama)
    texts = styled(FEW_TEXTS)
    for batch in gather_rows(llama, texts, encode_labelled(llama, texts)):
        statistics.add(batch)
        assert has_few(statistics) == (statistics.texts < FEW_TEXTS)
    assert statistics.texts == FEW_TEXTS
