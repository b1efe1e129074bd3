"""The search for a rate and a number of steps: what is chosen, and that held-out texts are never learnt from."""

from __future__ import annotations

import math

import pytest
import torch

from lmsteer.baselines.baseline import Trainer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.methods import fit_baseline
from lmsteer.baselines.search import RATES, search
from lmsteer.baselines.training import train
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.reading.splits import is_held_out
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
    held_out = [text for text in TEXTS if is_held_out(text)]
    others = [text for text in TEXTS if not is_held_out(text)]
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
    held_out = [list(ids[text]) for text in TEXTS if is_held_out(text)]
    assert held_out
    assert not [own for own in held_out if own in trainer.learnt]
    assert all(own in trainer.measured for own in held_out)


def test_the_parameters_of_the_best_step_stay(llama):
    """A rate that jumps over the best number ends farther from it than it has been."""
    held_out = [text for text in TEXTS if is_held_out(text)]
    others = [text for text in TEXTS if not is_held_out(text)]
    trainer = OneNumber(llama, 40)
    trainer.learning_rate = 30.0
    record = train(llama, trainer, others, BUDGET, held_out=held_out)
    assert record["steps"] < BUDGET.steps
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
    assert set(record["tried"]) == {"0.1", "0.3", "1"}

    class Broken(OneNumber):
        def logits(self, ids, mask, strengths):
            return super().logits(ids, mask, strengths) * math.nan

    with pytest.raises(DataError, match="diverged"):
        search(llama, lambda: Broken(llama, 40), TEXTS, BUDGET)


def test_too_few_texts_are_refused(llama):
    few = [text for text in TEXTS if not is_held_out(text)][:2]
    with pytest.raises(DataError, match="too few"):
        search(llama, lambda: OneNumber(llama, 40), few, BUDGET)


def test_a_searched_baseline_says_on_its_card_what_was_tried(llama):
    baseline = fit_baseline(llama, "lora", TEXTS, budget=BUDGET)
    assert len(baseline.card.fit["tried"]) == len(RATES)
    assert f"{baseline.card.fit['learning_rate']:.3g}" in baseline.card.fit["tried"]


@pytest.mark.parametrize("label", [-1.0, 1.0])
def test_whether_a_text_is_held_out_does_not_depend_on_the_others(label):
    texts = [LabelledText(f"text {n}", label) for n in range(400)]
    share = sum(map(is_held_out, texts)) / len(texts)
    assert 0.06 < share < 0.2  # one in eight; a binomial of 400 lies within these but for one time in a million
