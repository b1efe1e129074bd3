"""Completions that repeat their prompt, with its log-likelihoods: how evaluation harnesses score texts."""

import json

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from lmsteer import load_steer
from lmsteer.model.lm import LM
from lmsteer.reading.likelihood import steered_log_likelihoods
from tiny import tiny_tokenizer

# float32 sums in another order, over two layers.
TOLERANCE = 1e-4
# What lm-eval's local-completions sends with each batch of prompts.
SCORED = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
PROMPTS = ["It was", "a", "the naïve 😀 café, by far", "a"]


def ask(client, **body):
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def check_lines(choice):
    """The lists of a choice's log-likelihoods fit together, and its tokens make its text."""
    lines, text = choice["logprobs"], choice["text"]
    assert len({len(line) for line in lines.values()}) == 1
    assert "".join(lines["tokens"]).removesuffix("</s>") == text
    assert all(text.startswith(token, at) for token, at in zip(lines["tokens"], lines["text_offset"], strict=True))
    assert lines["token_logprobs"][0] is None
    assert lines["top_logprobs"][0] is None


@pytest.mark.parametrize("as_ids", [False, True], ids=["texts", "ids"])
def test_prompts_have_the_log_likelihoods_that_the_commands_read(client, llama, steers, as_ids):
    ids, steer = llama.encode(PROMPTS), load_steer(steers / "style")
    found = ask(client, prompt=ids if as_ids else PROMPTS, steers={"style": 1.5}, **SCORED)
    expected = steered_log_likelihoods(llama, ids, [steer], [1.5])
    for choice, prompt, line in zip(found["choices"], PROMPTS, expected, strict=True):
        check_lines(choice)
        assert choice["text"].startswith(prompt)
        # The last token is the new one, which harnesses drop.
        assert choice["logprobs"]["token_logprobs"][1:-1] == pytest.approx(line[0, 0].tolist(), abs=TOLERANCE)
    assert found["usage"]["prompt_tokens"] == sum(map(len, ids))


def test_likeliest_tokens_tell_whether_a_continuation_is_greedy(client, llama):
    (ids,) = llama.encode(["It was"])
    start = len(ids)
    for _ in range(5):
        logits = llama.model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    greedy, other = (
        ask(client, prompt=prompt, **{**SCORED, "logprobs": 3})["choices"][0]["logprobs"]
        for prompt in (ids, [*ids[:start], int(logits.argmin()), 5])
    )
    for i in range(start, len(ids)):
        top = greedy["top_logprobs"][i]
        assert greedy["token_logprobs"][i] == max(top.values()) == top[greedy["tokens"][i]]
    assert other["token_logprobs"][start] < max(other["top_logprobs"][start].values())


def test_the_new_text_is_that_of_a_request_without_echo(client):
    body = {"prompt": ["It was", "a"], "max_tokens": 7, "n": 2, "seed": 5, "steers": "style=1", "logprobs": 2}
    plain, echoed = ask(client, **body)["choices"], ask(client, echo=True, **body)["choices"]
    silent = ask(client, echo=True, **{**body, "logprobs": None})["choices"]
    for one, other, third, prompt in zip(plain, echoed, silent, ["It was"] * 2 + ["a"] * 2, strict=True):
        assert prompt + one["text"] == other["text"] == third["text"]
        check_lines(other)
        assert other["logprobs"]["token_logprobs"][len(prompt) :] == pytest.approx(one["logprobs"]["token_logprobs"])
        assert one["logprobs"]["text_offset"][0] == 0
        assert third["logprobs"] is None


@pytest.mark.parametrize("echo", [False, True])
def test_tokens_are_named_by_their_ids_where_a_request_asks_for_it(client, llama, echo):
    body = {
        "prompt": "It was",
        "steers": {"style": 1.5},
        "logprobs": 3,
        "max_tokens": 5,
        "temperature": 0,
        "echo": echo,
    }
    texts, ids = (
        ask(client, return_tokens_as_token_ids=as_ids, **body)["choices"][0]["logprobs"] for as_ids in (False, True)
    )
    found = [int(name.removeprefix("token_id:")) for name in ids["tokens"]]
    assert llama.codec.decode(found) == "".join(texts["tokens"])
    for token, log_p, top in [*zip(found, ids["token_logprobs"], ids["top_logprobs"], strict=True)][echo:]:
        assert len(top) == 3
        assert top.get(f"token_id:{token}", log_p) == log_p
    for name in ("token_logprobs", "text_offset"):
        assert ids[name] == texts[name]


def test_no_new_tokens(client):
    found = ask(client, prompt=["It was", "é"], **{**SCORED, "max_tokens": 0})
    for choice, prompt in zip(found["choices"], ["It was", "é"], strict=True):
        check_lines(choice)
        assert (choice["text"], choice["finish_reason"]) == (prompt, "length")
        assert len(choice["logprobs"]["tokens"]) == len(prompt.encode())
    assert (found["usage"]["completion_tokens"], found["steered_tokens"]) == (0, 0)
    assert ask(client, prompt="It was", max_tokens=0, echo=True)["choices"][0]["text"] == "It was"


@pytest.mark.parametrize("tokens", [0, 1, 6])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_stream_has_the_lines_of_the_whole_response(client, tokens, logprobs):
    body = {"prompt": ["the naïve", "a"], "steers": "style=1", "max_tokens": tokens, "logprobs": logprobs, "seed": 1}
    whole = ask(client, echo=True, **body)["choices"]
    stream = client.post("/v1/completions", json={**body, "echo": True, "stream": True}).text
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    for choice in whole:
        parts = [each for event in events for each in event["choices"] if each["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        if logprobs is None:
            assert all(part["logprobs"] is None for part in parts)
        else:
            joined = {
                name: [value for part in parts for value in part["logprobs"][name]] for name in parts[0]["logprobs"]
            }
            assert joined == choice["logprobs"]


def test_a_special_token_at_the_beginning_is_no_part_of_the_text(serving, llama, steers):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    lm = LM(llama.model, tokenizer, "starts")
    with serving(lm, steers) as client:
        (choice,) = ask(client, prompt="It was", **SCORED)["choices"]
    lines = choice["logprobs"]
    assert choice["text"].startswith("It was")
    assert lines["tokens"][:3] == ["<s>", "I", "t"]
    assert lines["text_offset"][:3] == [0, 0, 1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": 0}, "echo"),
        ({"max_tokens": 0, "echo": False}, "echo"),
        ({"max_tokens": -2, "echo": True}, "max_tokens"),
        ({"prompt": "a" * 2048, "echo": True, "max_tokens": 1}, "context"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, body, message):
    answer = client.post("/v1/completions", json={"prompt": "It was", **body})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"] + str(answer.json()["error"]["param"])
