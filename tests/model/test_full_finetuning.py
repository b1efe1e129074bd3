"""Full fine-tuning: changes act at any strength, are float32 in any model, and leave it as it was."""

from __future__ import annotations

import pytest
import torch

from lmsteer.model.full_finetuning import FullFineTuning
from tiny import tiny_lm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_steps_add_up_and_the_model_stays_as_it_was(dtype):
    lm = tiny_lm("llama", dtype)
    ids = torch.arange(3, 9)[None]
    plain = lm.model(ids).logits
    tuning = FullFineTuning(lm)
    assert tuning.names == [name for name, _ in lm.model.named_parameters()]
    optimizer = torch.optim.SGD(tuning.parameters(), lr=1e-3)
    for _ in range(3):
        with tuning.installed():
            lm.model(ids, labels=ids).loss.backward()
        optimizer.step()
    assert all(change.dtype == torch.float32 for change in tuning.changes)
    assert any(change.any() for change in tuning.changes)
    assert torch.equal(lm.model(ids).logits, plain)
    with torch.no_grad(), tuning.installed(0.0):
        assert torch.equal(lm.model(ids).logits, plain)
    with torch.no_grad(), tuning.installed(300.0):
        assert not torch.equal(lm.model(ids).logits, plain)


def test_modules_that_are_left_out_have_no_change(llama):
    tuning = FullFineTuning(llama, [llama.model.get_input_embeddings(), llama.head.module])
    every = {name for name, _ in llama.model.named_parameters()}
    assert set(tuning.names) == every - {"model.embed_tokens.weight", "lm_head.weight"}
    assert tuning.named_changes(torch.bfloat16).keys() == set(tuning.names)
