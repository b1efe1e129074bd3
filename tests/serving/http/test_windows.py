"""Windows and holds over HTTP: the texts of generate in every interface, and what is refused."""

from __future__ import annotations

import pytest

from lmsteer import save_steer
from lmsteer.data.chats import Chat
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import generate
from lmsteer.steer.notation import parse_strengths
from tiny import THINKING, chat_lm, random_steer, read_steer

TOKENS, SEED = 8, 3


@pytest.fixture(scope="module")
def lm():
    return chat_lm(THINKING, ["<think>"])


@pytest.fixture(scope="module")
def steers(lm):
    return {"style": read_steer(lm), "unread": random_steer(lm, name="unread")}


@pytest.fixture(scope="module")
def client(serving, lm, steers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    for name, steer in steers.items():
        save_steer(steer, folder / name)
    with serving(lm, folder) as client:
        yield client


def expected(lm, steers, prompt, strengths, holds):
    """The text of generate for notations."""
    cards, settings = parse_strengths(strengths, lambda name: steers[name].card, holds)
    config = GenerationConfig(1, TOKENS, SamplingConfig(1.0), SEED)
    return [row.text for row in generate(lm, [prompt], {name: steers[name] for name in cards}, settings, config)]


SAMPLED = {"top_p": 1.0, "seed": SEED}
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("fields", "strengths", "holds", "shown", "steered"),
    [
        ({"steers": {"style": "3@2.."}}, ["style=3@2.."], [], {"style": "3@2.."}, 6),
        ({"model": "style@3@rise..4"}, ["style=3@rise..4"], [], {"style": "3@rise..4"}, 7),
        ({"hold": {"style": 0.9}}, [], ["style=0.9"], {"style": "hold 0.9"}, 8),
        ({"steers": "unread=2@..3", "hold": "style=0.2@max4@5.."}, ["unread=2@..3"], ["style=0.2@max4@5.."], None, 6),
    ],
)
def test_the_text_is_that_of_generate(client, lm, steers, fields, strengths, holds, shown, steered):
    body = {"prompt": "It was", "max_tokens": TOKENS, **SAMPLED, **fields}
    answer = client.post("/v1/completions", json=body).json()
    assert [answer["choices"][0]["text"]] == expected(lm, steers, "It was", strengths, holds)
    assert answer["steered_tokens"] == steered
    assert answer["steers"] == (shown or {"unread": "2@..3", "style": "hold 0.2@max4@5.."})


def test_every_interface_steers_the_parts_of_answers(client, lm, steers):
    (text,) = expected(lm, steers, Chat.of_user("hello"), ["style=5@thinking"], [])
    (other,) = expected(lm, steers, Chat.of_user("hello"), ["style=5@answer"], [])
    assert text != other
    wanted = {"steers": {"style": "5@thinking"}, **SAMPLED}
    chat = client.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": TOKENS, **wanted}).json()
    responses = client.post("/v1/responses", json={"input": "hello", "max_output_tokens": TOKENS, **wanted}).json()
    options = {"num_predict": TOKENS, **wanted}
    ollama = client.post("/api/chat", json={"messages": MESSAGES, "stream": False, "options": options}).json()
    named = {"messages": MESSAGES, "max_tokens": TOKENS, "model": "style@5@thinking", **SAMPLED}
    in_name = client.post("/v1/chat/completions", json=named).json()
    assert chat["choices"][0]["message"]["content"] == in_name["choices"][0]["message"]["content"] == text
    assert responses["output"][0]["content"][0]["text"] == ollama["message"]["content"] == text
    assert responses["steers"] == ollama["steers"] == {"style": "5@thinking"}
    assert chat["steered_tokens"] == TOKENS


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"steers": {"style": "3@soon"}}, "steers", "style=3@soon: unknown window 'soon'"),
        ({"steers": {"style": "3@10..5"}}, "steers", "holds no token"),
        ({"steers": {"style": "3@-1.."}}, "steers", "unknown window"),
        ({"model": "style@3@soon"}, "steers", "unknown window 'soon'"),
        ({"steers": {"style": "3@2.."}}, None, "style=3@2.. never acts"),
        ({"steers": {"style": "3@answer"}}, "steers", "act on the answers of chats"),
        ({"hold": {"style": 1.5}}, "hold", "above 0 and below 1"),
        ({"hold": {"style": "high"}}, "hold", "cannot read the hold"),
        ({"hold": {"unread": 0.8}}, "hold", "steer 'unread' has no reader"),
        ({"hold": {"nobody": 0.8}}, "hold", "unknown steer 'nobody'"),
        ({"hold": {"style": 0.8}, "steers": {"style": 1}}, "steers", "it is held and has a strength as well"),
        ({"steers": {"style": "3@2.."}, "echo": True, "logprobs": 0}, "steers", "leave out a window"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client, fields, param, message):
    refused = client.post("/v1/completions", json={"prompt": "It was", "max_tokens": 2, **fields})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert message in refused.json()["error"]["message"]
