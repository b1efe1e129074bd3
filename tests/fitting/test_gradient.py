"""The gradient method: from stored rows as through the whole model, and on from where it stood."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmsteer.errors import DataError
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.gradient import GradientConfig, TextRows, Training, draws, train
from lmsteer.model.batching import pad
from lmsteer.reading.rows import encode_with_end
from tiny import styled

TEXTS = styled(24)
RECIPE = GradientConfig(steps=6, batch=5, rank=4, initial=0.1, epsilon=0.5, l2=1e-3)


def trained(lm, recipe: GradientConfig = RECIPE) -> tuple[Training, list[float]]:
    ids = encode_with_end(lm, TEXTS)
    training, losses = Training(lm.hidden_size, recipe), []
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
    ids = encode_with_end(llama, TEXTS)
    naive = Training(llama.hidden_size, RECIPE)
    for batch, expected in zip(draws(len(TEXTS), RECIPE), losses, strict=True):
        padded, mask = pad([ids[i] for i in batch], 0, llama.device)
        label = torch.tensor([TEXTS[i].label for i in batch])[:, None, None]
        h = llama.model.model(input_ids=padded, attention_mask=mask).last_hidden_state[:, :-1]
        f = naive.factors
        w = lambda a, b: (h @ f[a]) @ f[b].T
        z = (h + RECIPE.epsilon * (label * w("A", "B") + w("A_domain", "B_domain"))) @ llama.head.weight.T
        targets = padded[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        loss = nn.functional.cross_entropy(z.flatten(0, 1), targets.flatten())
        squares = torch.cat([x.flatten() for x in f.values()]).square().mean()
        naive.optimiser.zero_grad()
        (loss + RECIPE.l2 * squares).backward()
        naive.optimiser.step()
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-4)
    for name, factor in naive.factors.items():
        # Adam divides by the root of squared gradients: float32 noise grows a hundredfold in six steps.
        torch.testing.assert_close(factor, training.factors[name], rtol=1e-2, atol=1e-3)


def test_it_learns(llama):
    _, losses = trained(llama, GradientConfig(steps=60, batch=8, rank=4, epsilon=0.1))
    assert sum(losses[-10:]) < sum(losses[:10]) - 1


def test_a_killed_run_goes_on_exactly(llama, tmp_path):
    whole, _ = trained(llama)
    ids = encode_with_end(llama, TEXTS)
    first = Training(llama.hidden_size, RECIPE)

    def kill(number: int, _: float) -> None:
        if number == 3:
            first.save(tmp_path / "state", "texts")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(first, TextRows(HiddenStates(llama, ids), TEXTS), llama.head, range(len(TEXTS)), kill)
    second = Training(llama.hidden_size, RECIPE)
    second.restore(tmp_path / "state", "texts")
    assert second.step == 3
    train(second, TextRows(HiddenStates(llama, ids), TEXTS), llama.head, range(len(TEXTS)), lambda *_: None)
    for name, factor in whole.factors.items():
        # The store gathers other texts together after a restart; nothing else differs.
        torch.testing.assert_close(factor, second.factors[name], rtol=1e-4, atol=1e-5)


def test_another_run_is_not_gone_on_with(llama, tmp_path):
    Training(32, RECIPE).optimiser.zero_grad()
    training, _ = trained(llama)
    training.save(tmp_path / "s", "texts")
    with pytest.raises(DataError, match="other texts or settings"):
        Training(32, RECIPE).restore(tmp_path / "s", "others")
    with pytest.raises(DataError, match="other texts or settings"):
        Training(32, GradientConfig(rank=4, seed=1)).restore(tmp_path / "s", "texts")


def test_damaged_and_untouched_trainings(llama, tmp_path):
    fresh = Training(32, RECIPE)
    fresh.save(tmp_path / "s", "texts")  # interrupted in its first step
    Training(32, RECIPE).restore(tmp_path / "s", "texts")
    (tmp_path / "s" / "state.json").write_text("{")
    with pytest.raises(DataError, match="no training that can be gone on with"):
        Training(32, RECIPE).restore(tmp_path / "s", "texts")
    with pytest.raises(DataError, match="must be one or more"):
        GradientConfig(rank=0)


def test_every_text_is_drawn_once_an_epoch():
    recipe = GradientConfig(steps=10, batch=6, seed=3)
    drawn = [i for batch in draws(20, recipe) for i in batch]
    assert [sorted(drawn[k : k + 20]) for k in (0, 20, 40)] == [list(range(20))] * 3
    assert list(draws(20, recipe)) == list(draws(20, recipe))
