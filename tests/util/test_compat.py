"""What lmsteer uses beyond documented interfaces still exists and does what is expected of it."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from lmsteer.util.compat import untied
from tiny import tiny_model


def test_untied_head_is_saved_as_a_tensor_of_its_own(tmp_path):
    model = tiny_model("gpt2")
    keys = model._tied_weights_keys
    assert model.config.tie_word_embeddings
    with untied(model):
        model.get_output_embeddings().weight = nn.Parameter(model.get_input_embeddings().weight.detach() + 1)
        model.save_pretrained(tmp_path)
    assert model.config.tie_word_embeddings
    assert model._tied_weights_keys == keys
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    difference = saved.get_output_embeddings().weight - saved.get_input_embeddings().weight
    torch.testing.assert_close(difference, torch.ones_like(difference))
