"""Gradients at sites are the slopes of the log-likelihood in the strength of a steer there."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from lmsteer.errors import ModelError
from lmsteer.model.batching import pad
from lmsteer.model.inside import gradients_at, observed
from lmsteer.reading.encoded_text import own_tokens
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.steer.sites import all_sites, find_site
from tiny import FAMILIES, inner_steer

TEXTS = ["The cat sat", "A much longer text, to be padded"]


def likelihood(lm):
    return lambda h, targets: [lm.head.residuals(h, targets)[0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_slopes_of_the_likelihood(make_lm, family):
    lm = make_lm(family)
    ids = lm.encode(TEXTS)
    # Mamba's dt_proj is never called: its weight is taken without it.
    sites = [site for site in all_sites(lm.model).values() if "dt_proj" not in site.name]
    rows = gradients_at(lm, ids, own_tokens(ids), sites, likelihood(lm))
    step = 2e-3
    for k, site in enumerate(sites):
        steer = inner_steer(lm, [site.name], seed=k)
        (a, b), (x, (g,)) = steer.inner[site.name], rows[site.name]
        assert (x.shape, g.shape) == ((len(g), site.inputs), (sum(map(len, ids)) - 2, site.outputs))
        found = float(((x @ a) * (g @ b)).sum())
        low, high = (sum(float(own[0, j].double().sum()) for own in each) for each, j in _at(lm, ids, steer, step))
        # float32, a difference over 4e-3 of sums of some hundred nats.
        assert found == pytest.approx((high - low) / (2 * step), rel=2e-2, abs=0.05), site.name


def _at(lm, ids, steer, step):
    read = steered_log_likelihoods(lm, ids, [steer], [-step, step])
    return [(read, 0), (read, 1)]


def test_several_objectives_have_a_gradient_each(llama):
    ids, sites = llama.encode(TEXTS), [find_site(llama.model, "layers.0")]

    def both(h, targets):
        (r,) = likelihood(llama)(h, targets)
        return [r, -2 * r]

    _, (one, other) = gradients_at(llama, ids, own_tokens(ids), sites, both)["layers.0"]
    torch.testing.assert_close(other, -2 * one)


def test_tokens_that_do_not_count_leave_no_row(llama):
    ids, sites = llama.encode(TEXTS), [find_site(llama.model, "layers.1")]
    own = own_tokens(ids)
    own[3:] = False
    x, (g,) = gradients_at(llama, ids, own, sites, likelihood(llama))["layers.1"]
    assert len(x) == len(g) == 3


def test_a_site_that_is_not_called_once_is_refused(llama, make_lm):
    lm = make_lm("mamba")
    ids, sites = lm.encode(TEXTS), [find_site(lm.model, "layers.0.mixer.dt_proj")]
    with pytest.raises(ModelError, match=r"called layers\.0\.mixer\.dt_proj 0 times"):
        gradients_at(lm, ids, own_tokens(ids), sites, likelihood(lm))
    padded, _ = pad(llama.encode(["ab"]), 0, llama.device)
    twice = ExitStack()
    twice.enter_context(observed([find_site(llama.model, "layers.0")]))
    for _ in range(2):
        llama.model(input_ids=padded)
    with pytest.raises(ModelError, match="2 times"):
        twice.close()


def test_a_layer_without_a_gradient_is_refused(llama, monkeypatch):
    ids, site = llama.encode(TEXTS), find_site(llama.model, "layers.0")
    after = find_site(llama.model, "layers.1.mlp.down_proj").module
    real = type(after).forward
    monkeypatch.setattr(after, "forward", lambda x: real(after, x.detach()))
    stream = find_site(llama.model, "layers.1.self_attn.o_proj").module
    real_attention = type(stream).forward
    monkeypatch.setattr(stream, "forward", lambda x: real_attention(stream, x.detach()))
    norm = llama.model.model.norm
    real_norm = type(norm).forward
    monkeypatch.setattr(norm, "forward", lambda x: real_norm(norm, x.detach()))
    with pytest.raises(ModelError, match=r"no gradient reaches layers\.0"):
        gradients_at(llama, ids, own_tokens(ids), [site], likelihood(llama))
