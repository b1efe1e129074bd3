"""A gist in place of its prompt: what follows gets what the masked forward pass over all of it gives (identity 6)."""

from __future__ import annotations

import pytest
import torch

from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.gist.compress import compress
from lmsteer.gist.config import GistCondition
from lmsteer.gist.forward import masked_hidden_states
from lmsteer.gist.generation import generate_from_gists, gist_prefill
from lmsteer.gist.layout import Layout, Section
from lmsteer.model.kv_cache import inputs_of, shortest_window
from tiny import FAMILIES, tiny_lm

KNOWN = sorted(set(FAMILIES) - {"bloom", "mamba"})
# Ragged, eight a batch.
PROMPTS = ["Negate it: ", "x", "Translate into Dutch, please.", "ab", "Sum up the text: ", "Hm?", "Rhyme!", "a b c d e"]
INPUTS = ["one two", "a", "the longest of the inputs", "bcd", "ef", "ghij", "k", "lmno p"]


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize("side", ["left", "right"])
def test_states_after_a_gist_are_those_of_the_masked_forward_pass(make_lm, adapter_of, family, side):
    lm = make_lm(family)
    adapter = adapter_of(lm, 3)
    prompts, inputs = lm.encode(PROMPTS), lm.encode(INPUTS, special=False)
    gists = compress(lm, adapter, prompts)
    with torch.inference_mode(), adapter.installed(lm):
        layout = Layout.of(prompts, adapter.ids(lm), inputs, lm.pad_id, lm.device, side)
        whole = masked_hidden_states(lm, layout)
        start = inputs_of(lm, gist_prefill(lm, adapter, gists, inputs).starts)
        start["input_ids"] = start["input_ids"][:, 3:]
        start["position_ids"] = start["position_ids"][:, 3:]
        cached = lm.before_head(**start)
    expected = whole[layout.sections == Section.SUFFIX]
    found = cached[start["attention_mask"][:, 3:].bool()]
    # float32: other shapes, other orders of sums
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("condition", GistCondition)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "gpt_neox"])
def test_controls_have_gists_too(make_lm, adapter_of, family, condition):
    """The positive control's is the whole cache; the negative one's stands where it would, and knows nothing."""
    lm = make_lm(family)
    adapter = adapter_of(lm, 2)
    prompts, inputs = lm.encode(PROMPTS), lm.encode(INPUTS, special=False)
    gists = compress(lm, adapter, prompts, condition=condition)
    with torch.inference_mode(), adapter.installed(lm):
        layout = Layout.of(prompts, adapter.ids(lm), inputs, lm.pad_id, lm.device)
        whole = masked_hidden_states(lm, layout, condition)
        start = inputs_of(lm, gist_prefill(lm, adapter, gists, inputs).starts)
        width = start["input_ids"].shape[1] - max(map(len, inputs))
        cached = lm.before_head(
            **{**start, "input_ids": start["input_ids"][:, width:], "position_ids": start["position_ids"][:, width:]}
        )
    found = cached[start["attention_mask"][:, width:].bool()]
    torch.testing.assert_close(found, whole[layout.sections == Section.SUFFIX], rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("family", KNOWN)
def test_greedy_text_is_that_of_the_masked_forward_pass_token_for_token(make_lm, adapter_of, family):
    greedy_text_is_exact(make_lm(family), adapter_of(make_lm(family), 2))


def greedy_text_is_exact(lm, adapter, tokens=6):
    prompts, inputs = lm.encode(PROMPTS), lm.encode(INPUTS, special=False)
    gists = compress(lm, adapter, prompts)
    greedy = GenerationConfig(max_new_tokens=tokens, sampling=SamplingConfig(temperature=0))
    found = [row.text for row in generate_from_gists(lm, adapter, gists, INPUTS, config=greedy)]
    rows, ended = [list(ids) for ids in inputs], [False] * len(inputs)
    with torch.inference_mode(), adapter.installed(lm):
        for _ in range(tokens):
            layout = Layout.of(prompts, adapter.ids(lm), rows, lm.pad_id, lm.device)
            last = masked_hidden_states(lm, layout)[range(len(rows)), layout.mask.sum(1) - 1]
            for number, token in enumerate(lm.head.logits(last).argmax(-1).tolist()):
                if not ended[number]:
                    rows[number].append(token)
                    ended[number] = token in lm.stop_ids
    written = [row[len(ids) :] for row, ids in zip(rows, inputs, strict=True)]
    expected = [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    assert found == expected
    assert len(set(found)) > 4


def test_long_text_keeps_its_positions(llama, adapter_of):
    greedy_text_is_exact(llama, adapter_of(llama, 2), tokens=20)


@pytest.mark.parametrize(
    ("family", "short"),
    [("mistral", {"sliding_window": 8}), ("gemma3_text", {"sliding_window": 8}), ("gpt_neo", {"window_size": 8})],
)
def test_text_is_exact_under_windows_shorter_than_it(monkeypatch, adapter_of, family, short):
    monkeypatch.setitem(FAMILIES, family, {**FAMILIES[family], **short})
    lm = tiny_lm(family)
    assert shortest_window(lm) == 8
    adapter = adapter_of(lm, 2)
    greedy_text_is_exact(lm, adapter)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_padding_between_gists_of_several_lengths_does_not_count_against_a_window(monkeypatch, adapter_of, family):
    """The positive control keeps whole prompts: in a batch their room is ragged, and windows count it."""
    monkeypatch.setitem(FAMILIES, family, {**FAMILIES[family], "sliding_window": 24})
    lm = tiny_lm(family)
    adapter, prompts = adapter_of(lm, 2), lm.encode(["a", "Translate it, please"])
    gists = compress(lm, adapter, prompts, condition=GistCondition.POSITIVE)
    greedy = GenerationConfig(max_new_tokens=6, sampling=SamplingConfig(temperature=0))
    found = [row.text for row in generate_from_gists(lm, adapter, gists, ["one two", "three"], config=greedy)]
    alone = [
        next(generate_from_gists(lm, adapter, [gist], [given], config=greedy)).text
        for gist, given in zip(gists, ["one two", "three"], strict=True)
    ]
    assert found == alone


def test_each_condition_hides_the_sections_it_names(llama, adapter_of):
    """Where a prompt cannot be seen, another prompt of the same length changes nothing; where it can, something."""
    adapter = adapter_of(llama)
    rest = llama.encode(["what follows"], special=False)

    def states(prompt, condition):
        layout = Layout.of(llama.encode([prompt]), adapter.ids(llama), rest, llama.pad_id, llama.device)
        found = masked_hidden_states(llama, layout, condition)[0]
        return {section: found[layout.sections[0] == section] for section in Section}

    with torch.inference_mode(), adapter.installed(llama):
        for condition in GistCondition:
            one, other = states("abc", condition), states("xyz", condition)
            for section in (Section.GIST, Section.SUFFIX):
                same = torch.equal(one[section], other[section])
                assert same == (condition is GistCondition.NEGATIVE)
        gist, plain = (states("abc", condition) for condition in (GistCondition.GIST, GistCondition.POSITIVE))
        assert torch.equal(gist[Section.GIST], plain[Section.GIST])
        assert not torch.allclose(gist[Section.SUFFIX], plain[Section.SUFFIX], atol=1e-3)


def test_the_suffix_depends_on_the_prompt_through_the_gist_alone(llama, adapter_of):
    """The gradient of what follows, to the prompt, goes through the gist tokens' keys and values and nowhere else."""
    adapter = adapter_of(llama)
    layout = Layout.of(llama.encode(["abc"]), adapter.ids(llama), [[5, 6, 7]], llama.pad_id, llama.device)
    with adapter.installed(llama):
        masked = masked_hidden_states(llama, layout)
        assert torch.isfinite(masked).all()
        base = llama.model.get_input_embeddings()
        seen: list[torch.Tensor] = []

        def keep(_, __, output):
            seen.append(output.detach().requires_grad_())
            return seen[-1]

        with base.register_forward_hook(keep):
            masked_hidden_states(llama, layout, GistCondition.NEGATIVE)[0, -1].sum().backward()
    is_prompt = layout.sections[0] == Section.PROMPT
    assert seen[0].grad[0, is_prompt].abs().max() == 0
    assert seen[0].grad[0, ~is_prompt].abs().max() > 0
