"""T5: the encoder's gist in place of its prompt gives what the masked encoder over all of it gives."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from lmsteer.errors import ModelError
from lmsteer.gist.encoder_decoder import encoded, encoded_after, squeezed
from lmsteer.gist.layout import Layout, Section
from lmsteer.gist.masks import GistCondition
from tiny import tiny_model

GIST = [90, 91, 92]


@pytest.fixture(scope="module")
def t5():
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
    config = T5Config(vocab_size=100, decoder_start_token_id=0, relative_attention_max_distance=16, **sizes)
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def rows():
    drawn = torch.Generator().manual_seed(1)
    lengths = [7, 1, 12, 4, 9, 3, 5, 20]
    prompts = [torch.randint(2, 80, (n,), generator=drawn).tolist() for n in lengths]
    rests = [torch.randint(2, 80, (n,), generator=drawn).tolist() for n in reversed(lengths)]
    return prompts, rests


@pytest.mark.parametrize("side", ["left", "right"])
@torch.inference_mode()
def test_a_gist_in_place_of_its_prompt_is_the_masked_encoder(t5, rows, side):
    prompts, rests = rows
    layout = Layout.of(prompts, GIST, rests, 0, t5.device, side)
    whole, seen = encoded(t5, layout)
    after, room = encoded_after(t5, squeezed(t5, prompts, GIST, 0), rests, 0)
    torch.testing.assert_close(after[room.bool()], whole[seen.bool()], rtol=1e-4, atol=1e-4)  # float32: other shapes
    written = [
        t5.generate(encoder_outputs=BaseModelOutput(states), attention_mask=mask, max_new_tokens=8, do_sample=False)
        for states, mask in ((whole, seen), (after, room))
    ]
    assert torch.equal(*written)
    assert len({tuple(row) for row in written[0].tolist()}) > 1


@torch.inference_mode()
def test_conditions_hide_what_they_say(t5):
    def states(prompt, rest, condition):
        layout = Layout.of([prompt], GIST, [rest], 0, t5.device)
        found, seen = encoded(t5, layout, condition)
        return {section: found[0][layout.sections[0] == section] for section in Section}, seen[0].tolist()

    for condition in GistCondition:
        base, seen = states([5, 6, 7], [8, 9], condition)
        prompt, rest = states([15, 16, 17], [8, 9], condition)[0], states([5, 6, 7], [18, 19], condition)[0]
        hides = condition is not GistCondition.POSITIVE
        assert seen == [0 if hides else 1] * 3 + [1] * 5
        assert torch.equal(base[Section.GIST], prompt[Section.GIST]) == (condition is GistCondition.NEGATIVE)
        assert torch.equal(base[Section.REST], prompt[Section.REST]) == (condition is GistCondition.NEGATIVE)
        assert torch.equal(base[Section.GIST], rest[Section.GIST]) == hides
        assert torch.equal(base[Section.PROMPT], rest[Section.PROMPT]) == hides


@torch.inference_mode()
def test_nothing_hidden_is_the_model_itself(t5, rows):
    layout = Layout.of(*rows[:1], GIST, rows[1], 0, t5.device)
    found, seen = encoded(t5, layout, GistCondition.POSITIVE)
    plain = t5.get_encoder()(input_ids=layout.ids, attention_mask=layout.mask).last_hidden_state
    torch.testing.assert_close(found[seen.bool()], plain[seen.bool()], rtol=1e-5, atol=1e-5)  # float32


def test_gradients_reach_the_prompt_by_the_gist_tokens(t5):
    layout = Layout.of([[5, 6, 7]], GIST, [[8, 9]], 0, t5.device)
    table = t5.get_input_embeddings().weight
    for condition, reaches in ((GistCondition.GIST, True), (GistCondition.NEGATIVE, False)):
        states, _ = encoded(t5, layout, condition)
        (found,) = torch.autograd.grad(states[0, -1].sum(), table)
        assert bool(found[5:8].abs().sum() > 0) == reaches


def test_gists_of_another_encoder_are_refused(t5, rows):
    prompts, rests = rows
    with pytest.raises(ModelError, match="of 2 layers; the encoder has 3"):
        encoded_after(t5, squeezed(t5, prompts, GIST, 0)[:, 1:], rests, 0)
    with pytest.raises(ModelError, match="no encoder that is a stack"):
        squeezed(tiny_model("llama"), prompts, GIST, 0)
