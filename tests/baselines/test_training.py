"""Training: the loss is that of the texts' own tokens, and the budget is kept."""

from __future__ import annotations

import random
import signal
from contextlib import contextmanager

import pytest
import torch

from lmsteer.baselines import training as module
from lmsteer.baselines.baseline import BaselineCard, Trainer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.baselines.training import train
from lmsteer.data.chats import Chat
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.model.chat import encode_chat
from lmsteer.util.provenance import provenance_of
from tiny import chat_lm

RAGGED = [LabelledText("ab" * n, 1.0 if n % 2 else -1.0) for n in (1, 2, 3, 5, 8, 13)]


class Watched(Trainer):
    """Gives the model's own logits, and keeps what it was given."""

    learning_rate = 0.5

    def __init__(self, lm):
        self.lm, self.given = lm, []
        self.parameter = torch.zeros(1, requires_grad=True)

    def trainable(self):
        return [self.parameter]

    def logits(self, ids, mask, strengths):
        self.given.append((ids, mask, strengths))
        return self.lm.model(input_ids=ids, attention_mask=mask).logits + self.parameter

    def baseline(self, card):
        raise NotImplementedError


def test_the_loss_is_of_every_token_but_the_first_and_no_padding(llama):
    watched = Watched(llama)
    metadata = train(llama, watched, RAGGED, TrainingBudget(steps=1, batch_size=6))
    ((ids, mask, strengths),) = watched.given
    assert sorted(mask.sum(1).tolist()) == [2, 4, 6, 10, 16, 26]
    labels = {len(text.text): text.label for text in RAGGED}
    assert strengths.tolist() == [labels[n] for n in mask.sum(1).tolist()]
    losses = []
    with torch.no_grad():
        for row, own in zip(ids, mask, strict=True):
            text = row[: int(own.sum())]
            log_p = torch.log_softmax(llama.model(text[None]).logits[0, :-1], -1)
            losses += (-log_p.gather(1, text[1:, None])).flatten().tolist()
    assert metadata["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)  # float32: padded


def test_prompts_are_read_and_not_learnt():
    lm, texts = chat_lm(), [LabelledText("ab", 1.0, "xyz"), LabelledText("cde", -1.0, Chat.of_user("Well?"))]
    watched = Watched(lm)
    metadata = train(lm, watched, texts, TrainingBudget(steps=1, batch_size=2))
    losses = []
    with torch.no_grad():
        for prompt, text in ((lm.encode(["xyz"])[0], "ab"), (encode_chat(lm.codec, texts[1].before), "cde")):
            own = lm.encode([text])[0]
            log_p = torch.log_softmax(lm.model(torch.tensor([[*prompt, *own]])).logits[0, len(prompt) - 1 : -1], -1)
            losses += (-log_p.gather(1, torch.tensor(own)[:, None])).flatten().tolist()
    assert metadata["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)  # float32: padded


def test_long_texts_are_cut(llama, monkeypatch):
    monkeypatch.setattr(module, "_MAX_TOKENS", 5)
    watched = Watched(llama)
    train(llama, watched, RAGGED, TrainingBudget(steps=1, batch_size=6))
    assert watched.given[0][0].shape == (6, 5)


def test_the_rate_falls_to_zero_and_every_text_is_met_once_an_epoch(llama, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def noted(self, *args, **options):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    watched = Watched(llama)
    metadata = train(llama, watched, RAGGED, TrainingBudget(steps=4, batch_size=3))
    assert rates == [0.5, 0.375, 0.25, 0.125]
    assert (metadata["steps"], metadata["learning_rate"]) == (4, 0.5)
    lengths = [sorted(n for _, mask, _ in watched.given[k : k + 2] for n in mask.sum(1).tolist()) for k in (0, 2)]
    assert lengths == [[2, 4, 6, 10, 16, 26]] * 2


def test_a_budget_of_time_is_kept(llama, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    assert train(llama, Watched(llama), RAGGED, TrainingBudget(steps=100, seconds=5.0, batch_size=2))["steps"] == 4


def test_what_diverges_or_has_nothing_to_learn_is_refused(llama):
    class Diverging(Watched):
        learning_rate = float("inf")

    with pytest.raises(DataError, match="diverged"):
        train(llama, Diverging(llama), RAGGED, TrainingBudget(steps=2))
    with pytest.raises(DataError, match="no text has two tokens"):
        train(llama, Watched(llama), [LabelledText("a", 1.0), LabelledText("b", -1.0)], TrainingBudget())


def test_ctrl_c_stops_between_two_steps(llama):
    @contextmanager
    def progress(title, total, start):
        yield lambda advance, said: signal.raise_signal(signal.SIGINT)

    watched = Watched(llama)
    with pytest.raises(KeyboardInterrupt):
        train(llama, watched, RAGGED, TrainingBudget(steps=9), progress)
    assert len(watched.given) == 1


def test_the_seed_decides_the_order(llama):
    def order(seed):
        watched = Watched(llama)
        texts = [LabelledText("ab" * random.Random(n).randint(1, 9), 1.0) for n in range(30)]
        train(llama, watched, texts, TrainingBudget(steps=8, batch_size=4, seed=seed))
        return [mask.sum(1).tolist() for _, mask, _ in watched.given]

    assert order(1) == order(1) != order(2)
    card = BaselineCard(method="lora", **provenance_of(llama))
    assert (
        LoRATrainer(llama, seed=1).baseline(card).fingerprint != LoRATrainer(llama, seed=2).baseline(card).fingerprint
    )
