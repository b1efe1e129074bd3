"""The gradient method: cached rows give the same as the whole model, and interrupted trainings resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lmsteer.errors import DataError
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.gradient import GradientConfig, TextRows, Training, train, training_batches
from lmsteer.model.batching import pad
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.util.run import Run
from tiny import styled

TEXTS = styled(24)
CPU = torch.device("cpu")
SETTINGS = GradientConfig(steps=6, batch_size=5, rank=4, initial_std=0.1, epsilon=0.5, l2=1e-3)


def run(folder: Path, texts: str = "texts", seed: int = 0) -> Run:
    return Run(folder / "s", {"texts": texts, "seed": seed}, "an interrupted fit")


def trained(lm, config: GradientConfig = SETTINGS) -> tuple[Training, list[float]]:
    ids = encode_labelled(lm, TEXTS)
    training, losses = Training(lm.hidden_size, config, CPU), []
    train(
        training,
        TextRows(HiddenStates(lm, ids), TEXTS),
        lm.head,
        range(len(TEXTS)),
        lambda _, loss: losses.append(loss),
    )
    return training, losses


def test_fitting_from_stored_rows_is_fitting_through_the_whole_model(llama):
    """Identity 5, against the plain published loop: the model, a parametrised head, one backward pass."""
    training, losses = trained(llama)
    ids = encode_labelled(llama, TEXTS)
    naive = Training(llama.hidden_size, SETTINGS, CPU)
    for batch, expected in zip(training_batches(len(TEXTS), SETTINGS), losses, strict=True):
        padded, mask = pad([ids[i] for i in batch], 0, llama.device)
        label = torch.tensor([TEXTS[i].label for i in batch])[:, None, None]
        h = llama.model.model(input_ids=padded, attention_mask=mask).last_hidden_state[:, :-1]
        f = naive.factors
        w = lambda a, b: (h @ f[a]) @ f[b].T
        z = (h + SETTINGS.epsilon * (label * w("A", "B") + w("A_domain", "B_domain"))) @ llama.head.weight.T
        targets = padded[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        loss = nn.functional.cross_entropy(z.flatten(0, 1), targets.flatten())
        squares = torch.cat([x.flatten() for x in f.values()]).square().mean()
        naive.optimizer.zero_grad()
        (loss + SETTINGS.l2 * squares).backward()
        naive.optimizer.step()
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-4)
    for name, factor in naive.factors.items():
        # Adam divides by the root of squared gradients: float32 noise grows a hundredfold in six steps.
        torch.testing.assert_close(factor, training.factors[name], rtol=1e-2, atol=1e-3)


def test_it_learns(llama):
    _, losses = trained(llama, GradientConfig(steps=60, batch_size=8, rank=4, epsilon=0.1))
    assert sum(losses[-10:]) < sum(losses[:10]) - 1


def test_a_killed_run_goes_on_exactly(llama, tmp_path):
    whole, _ = trained(llama)
    ids = encode_labelled(llama, TEXTS)
    first = Training(llama.hidden_size, SETTINGS, CPU)

    def kill(number: int, _: float) -> None:
        if number == 3:
            first.save(run(tmp_path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(first, TextRows(HiddenStates(llama, ids), TEXTS), llama.head, range(len(TEXTS)), kill)
    second = Training(llama.hidden_size, SETTINGS, CPU)
    second.restore(run(tmp_path))
    assert second.step == 3
    train(second, TextRows(HiddenStates(llama, ids), TEXTS), llama.head, range(len(TEXTS)), lambda *_: None)
    for name, factor in whole.factors.items():
        # The store gathers other texts together after a restart; nothing else differs.
        torch.testing.assert_close(factor, second.factors[name], rtol=1e-4, atol=1e-5)


def test_another_run_is_not_gone_on_with(llama, tmp_path):
    Training(32, SETTINGS, CPU).optimizer.zero_grad()
    training, _ = trained(llama)
    training.save(run(tmp_path))
    with pytest.raises(DataError, match="another texts"):
        Training(32, SETTINGS, CPU).restore(run(tmp_path, "others"))
    with pytest.raises(DataError, match="another seed"):
        Training(32, SETTINGS, CPU).restore(run(tmp_path, seed=1))


def test_damaged_and_untouched_trainings(llama, tmp_path):
    fresh = Training(32, SETTINGS, CPU)
    fresh.save(run(tmp_path))  # interrupted in its first step
    Training(32, SETTINGS, CPU).restore(run(tmp_path))
    (tmp_path / "s" / "state.json").write_text("{")
    with pytest.raises(DataError, match="no training that can be resumed"):
        Training(32, SETTINGS, CPU).restore(run(tmp_path))
    for wrong, message in (({"rank": 0}, "1 or more"), ({"rank": 10**20}, "at most"), ({"seed": 1 << 64}, "64 bits")):
        with pytest.raises(DataError, match=message):
            GradientConfig(**wrong)


def test_every_text_is_drawn_once_an_epoch():
    config = GradientConfig(steps=10, batch_size=6, seed=3)
    drawn = [i for batch in training_batches(20, config) for i in batch]
    assert [sorted(drawn[k : k + 20]) for k in (0, 20, 40)] == [list(range(20))] * 3
    assert list(training_batches(20, config)) == list(training_batches(20, config))


def test_no_epoch_of_one_seed_is_an_epoch_of_another():
    orders = [tuple(batch) for seed in range(-2, 3) for batch in training_batches(20, GradientConfig(3, 20, seed=seed))]
    assert len(set(orders)) == len(orders) == 15
