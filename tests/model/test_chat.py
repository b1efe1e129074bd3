"""Answers of chats in tokens: the prompt is what the model is given when it answers, for every way to write a turn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmsteer.data.chats import Chat
from lmsteer.errors import DataError
from lmsteer.model.chat import encode_answer, encode_chat
from tiny import chat_lm, tiny_tokenizer

TURNS = "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
CHATML = TURNS + PROMPT
TRIMMED = CHATML.replace("m.content", "m.content | trim")
# As some models with thoughts write a last answer.
THINKING = CHATML.replace(
    "\n{{ m.content }}", "\n{% if m.role == 'assistant' and loop.last %}<think></think>\n{% endif %}{{ m.content }}"
)
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize(
    ("template", "answer", "own", "is_ended"),
    [
        (CHATML, "Fine.", "Fine.<|end|>", True),
        (CHATML, " Fine.\n", " Fine.\n<|end|>", True),
        (TRIMMED, " Fine.\n", "Fine.<|end|>", True),
        (THINKING, "Fine.", "Fine.<|end|>", True),
        (SPACED, "Fine.", "Fine. </s>", True),
        (NO_END, "Fine.", "Fine.", False),
        (CHATML, "<|end|> a", "<|end|> a<|end|>", True),
        (CHATML, "\uf8fe \ue000", "\uf8fe \ue000<|end|>", True),
    ],
)
def test_the_tokens_of_an_answer_follow_those_of_its_prompt(template, answer, own, is_ended):
    lm = chat_lm(template)
    chat = Chat.of_user("How <|turn|> are you? ", "Be \ue001.")
    found = encode_answer(lm.codec, chat, answer)
    assert found.whole[: len(found.prompt)] == found.prompt
    assert lm.codec.decode(found.whole[len(found.prompt) :], skip_special=False) == own
    assert found.is_ended is is_ended
    given = encode_chat(lm.codec, chat)
    assert found.prompt[: len(given)] == given
    specials = [token for token in found.whole if token in lm.codec.special_tokens]
    assert len(specials) == {CHATML: 6, TRIMMED: 6, THINKING: 6, SPACED: 2, NO_END: 0}[template]


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("{% for", "{{ messages | length }}{% for"),  # the past is written otherwise
        CHATML.replace("{{ m.content }}", "{{ m.content[:0] }}"),  # the answer is not there
        CHATML.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}"),  # twice
    ],
)
def test_a_template_whose_answers_cannot_be_told_from_their_prompts_is_refused(template):
    with pytest.raises(DataError, match=r"the chat template of tiny-llama writes the answer 'Fine\.' otherwise"):
        encode_answer(chat_lm(template).codec, Chat.of_user("Well?"), "Fine.")


def test_a_model_without_a_template_is_refused(llama):
    with pytest.raises(DataError, match="tiny-llama has no chat template"):
        encode_answer(replace(llama, tokenizer=tiny_tokenizer()).codec, Chat.of_user("Well?"), "Fine.")
