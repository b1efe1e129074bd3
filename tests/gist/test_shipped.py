"""The adapter that ships: small, with a whole card, and of use on the default model."""

from __future__ import annotations

import pytest

from lmsteer.data.instructions import Instruction
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.gist.adapter import find_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.config import GistCondition
from lmsteer.gist.examples import encode_examples, input_text, prompt_ids
from lmsteer.gist.forward import output_loss
from lmsteer.gist.generation import generate_from_gists
from lmsteer.gist.lookup import SHIPPED_FOLDER

PAIRS = {
    "Write the opposite of the given word.": [("hot", "cold"), ("early", "late")],
    "Write the first letter of the word.": [("garden", "g"), ("house", "h")],
    "Convert the word to its plural form.": [("house", "houses"), ("garden", "gardens")],
}


def test_the_shipped_adapter_is_small_and_its_card_is_complete():
    sizes = [file.stat().st_size for file in (SHIPPED_FOLDER / "gist-1").iterdir()]
    assert sum(sizes) < 10_000_000
    card = find_adapter("gist-1").card
    assert card.tokens == 1
    assert card.data["licence"] == "Apache-2.0"
    assert {"seen", "unseen", "human"} == card.held_out["test"].keys()
    assert all(figures["loss"] > 0 for figures in card.held_out["test"].values())


@pytest.mark.model
def test_a_compressed_prompt_does_more_than_none(smollm2):
    adapter = find_adapter("gist-1")
    rows = [Instruction(prompt, given, wanted) for prompt, pairs in PAIRS.items() for given, wanted in pairs]
    examples = encode_examples(smollm2, rows, adapter.card.tokens)
    with adapter.installed(smollm2):
        compressed, none = (
            output_loss(smollm2, adapter.ids(smollm2), examples, condition)
            for condition in (GistCondition.GIST, GistCondition.NEGATIVE)
        )
    assert compressed < none - 1  # nats a token


@pytest.mark.model
def test_gists_of_different_prompts_are_followed_in_one_batch(smollm2):
    adapter, greedy = find_adapter("gist-1"), GenerationConfig(max_new_tokens=8, sampling=SamplingConfig(temperature=0))
    gists = compress(smollm2, adapter, prompt_ids(smollm2, [*PAIRS]))
    pairs = [pairs[0] for pairs in PAIRS.values()]
    rows = generate_from_gists(smollm2, adapter, gists, [input_text(given) for given, _ in pairs], config=greedy)
    assert [row.text.strip() for row in rows] == [wanted for _, wanted in pairs]
