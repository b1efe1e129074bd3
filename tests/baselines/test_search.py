"""The search for a rate and a number of steps: what is chosen, and that held-out texts are never learnt from."""

from __future__ import annotations

import math

import pytest
import torch

from lmsteer.baselines.baseline import Trainer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.methods import fit_baseline
from lmsteer.baselines.search import RATES, _divided, search
from lmsteer.baselines.training import train
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from tiny import styled

TEXTS = styled(60)
BUDGET = TrainingBudget(steps=20, batch_size=4, search=True)


class OneNumber(Trainer):
    """Adds a number to the logit of one token; keeps the texts that it was given."""

    learning_rate = 1.0

    def __init__(self, lm, token):
        self.lm, self.token, self.learnt, self.measured = lm, token, [], []
        self.number = torch.zeros(1, requires_grad=True)

    def trainable(self):
        return [self.number]

    def logits(self, ids, mask, strengths):
        given = [row[own.bool()].tolist() for row, own in zip(ids, mask, strict=True)]
        (self.learnt if torch.is_grad_enabled() else self.measured).extend(given)
        shift = torch.zeros(len(self.lm.head.weight))
        shift[self.token] = 1.0
        return self.lm.model(input_ids=ids, attention_mask=mask).logits.detach() + self.number * shift

    def baseline(self, card):
        raise NotImplementedError


def losses_by_rate(lm, made):
    others, held_out = _divided(TEXTS)
    found = {}
    for factor in RATES:
        trainer = made()
        trainer.learning_rate *= factor
        found[factor] = train(lm, trainer, others, BUDGET, held_out=held_out)["held_out_loss"]
    return found


def test_the_rate_with_the_least_held_out_loss_is_chosen(llama):
    def made():
        return OneNumber(llama, 40)

    losses = losses_by_rate(llama, made)
    trainer, record = search(llama, made, TEXTS, BUDGET)
    best = min(losses, key=losses.__getitem__)
    assert (record["learning_rate"], trainer.learning_rate) == (best, best)
    assert record["held_out_loss"] == losses[best]
    assert record["tried"] == {f"{factor:.3g}": round(loss, 4) for factor, loss in losses.items()}


def test_held_out_texts_are_measured_and_never_learnt_from(llama):
    trainer, _ = search(llama, lambda: OneNumber(llama, 40), TEXTS, BUDGET)
    ids = {text: llama.encode([text.text])[0] for text in TEXTS}
    held_out = [list(ids[text]) for text in _divided(TEXTS)[1]]
    assert len(held_out) == 6  # one in eight of thirty at either end
    assert not [own for own in held_out if own in trainer.learnt]
    assert all(own in trainer.measured for own in held_out)


def test_the_parameters_of_the_best_step_stay(llama):
    """A rate that jumps over the best number ends farther from it than it has been."""
    others, held_out = _divided(TEXTS)
    trainer = OneNumber(llama, 40)
    trainer.learning_rate = 30.0
    record = train(llama, trainer, others, BUDGET, held_out=held_out)
    assert record["best_step"] < record["steps"] == BUDGET.steps
    again = OneNumber(llama, 40)
    with torch.no_grad():
        again.number.copy_(trainer.number)
    again.learning_rate = 1e-12
    unmoved = train(llama, again, others, TrainingBudget(steps=1, batch_size=4), held_out=held_out)
    assert unmoved["held_out_loss"] == pytest.approx(record["held_out_loss"], rel=1e-6)


def test_a_rate_that_diverges_is_passed_over_and_if_all_do_that_is_said(llama):
    class Fragile(OneNumber):
        def logits(self, ids, mask, strengths):
            return super().logits(ids, mask, strengths) + (math.nan * self.number if self.learning_rate > 2 else 0)

    _, record = search(llama, lambda: Fragile(llama, 40), TEXTS, BUDGET)
    assert [rate for rate, loss in record["tried"].items() if loss is None] == ["3"]
    assert len(record["tried"]) == len(RATES)

    class Broken(OneNumber):
        def logits(self, ids, mask, strengths):
            return super().logits(ids, mask, strengths) * math.nan

    with pytest.raises(DataError, match="diverged"):
        search(llama, lambda: Broken(llama, 40), TEXTS, BUDGET)


def test_too_few_texts_are_refused_and_four_are_enough(llama):
    positive, negative = TEXTS[:2], TEXTS[-2:]
    with pytest.raises(DataError, match="two texts or more of either end"):
        search(llama, lambda: OneNumber(llama, 40), [*positive, negative[0]], BUDGET)
    others, held_out = _divided([*positive, *negative])
    assert sorted(text.label for text in others) == sorted(text.label for text in held_out) == [-1.0, 1.0]


@pytest.mark.parametrize("count", [40, 400, 4000])
def test_one_text_in_eight_is_held_out_and_not_many_more_than_128(count):
    texts = [LabelledText(f"text {n}", (-1.0, 0.0, 1.0)[n % 3]) for n in range(count)]
    others, held_out = _divided(texts)
    assert sorted([*others, *held_out], key=lambda t: t.text) == sorted(texts, key=lambda t: t.text)
    assert abs(len(held_out) - min(count / 8, 128)) <= 3
    assert held_out == _divided(texts[::-1])[1]


def test_a_searched_baseline_says_on_its_card_what_was_tried(llama):
    baseline = fit_baseline(llama, "lora", TEXTS, budget=BUDGET)
    assert len(baseline.card.fit["tried"]) == len(RATES)
    assert f"{baseline.card.fit['learning_rate']:.3g}" in baseline.card.fit["tried"]
