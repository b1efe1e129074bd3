"""Models whose layers run on rows are told from those that run them in another place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmsteer.errors import ModelError
from lmsteer.model.row_layers import check_rows
from tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_models_run_rows_first(make_lm, family):
    check_rows(make_lm(family))


def test_a_model_that_runs_tokens_first_is_refused(llama):
    other = replace(llama, model=tiny_model("llama"))
    layer = other.model.model.layers[0].self_attn.q_proj
    layer.register_forward_pre_hook(lambda _, args: (args[0].transpose(0, 1),))
    with pytest.raises(ModelError, match=r"gives its layers \(5, 3, 32\) for 3 rows of 5 tokens"):
        check_rows(other)
