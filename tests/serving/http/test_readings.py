"""What is known of each token, in the answers of all interfaces."""

import json

import pytest

from lmsteer import generate, load_steer
from lmsteer.generation.config import GenerationConfig, Limits

STEERS = {"style": 2.0, "other": -1.0}
ASKED = {"seed": 1, "steers": STEERS, "readings": True, "kl": 0.5}
PIECES = {"completions": {"prompt": "It was"}, "chat/completions": {"messages": [{"role": "user", "content": "Hi"}]}}
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"


@pytest.fixture(autouse=True)
def _chats(llama, monkeypatch):
    monkeypatch.setattr(llama.tokenizer, "chat_template", TEMPLATE)


def events(answer):
    """The objects of a stream of events."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def assert_alike(found, expected):
    """Readings that are the same but for rounding: rows of other batches are summed in another order."""
    assert [each["text"] for each in found] == [each["text"] for each in expected]
    for one, other in zip(found, expected, strict=True):
        for name in ("logprob", "unsteered_logprob", "kl", "evidence", "total_evidence"):
            assert one[name] == pytest.approx(other[name], abs=1e-4)


def test_readings_are_those_of_generate(llama, steers, client):
    config = GenerationConfig(2, 6, seed=1, limits=Limits(kl=0.5), readings=True)
    found_steers = {name: load_steer(steers / name) for name in STEERS}
    expected = [*generate(llama, ["It was"], found_steers, [STEERS], config)]
    body = {"prompt": "It was", "max_tokens": 6, "n": 2, **ASKED}
    choices = client.post("/v1/completions", json=body).json()["choices"]
    for choice, continuation in zip(choices, expected, strict=True):
        assert_alike(choice["readings"], [each.to_json() for each in continuation.readings])
    assert choices[0]["readings"][0].keys() == expected[0].readings[0].to_json().keys()
    without = client.post("/v1/completions", json={**body, "readings": False}).json()["choices"]
    assert [each["text"] for each in without] == [each["text"] for each in choices]
    assert not any("readings" in each for each in without)


@pytest.mark.parametrize("path", sorted(PIECES))
def test_a_stream_has_the_readings_of_the_whole_answer(client, path):
    body = {**PIECES[path], "max_tokens": 6, **ASKED}
    whole = client.post(f"/v1/{path}", json=body).json()["choices"][0]
    pieces = [each["choices"][0] for each in events(client.post(f"/v1/{path}", json={**body, "stream": True}))]
    assert_alike([reading for piece in pieces for reading in piece["readings"]], whole["readings"])
    texts = "".join(each["text"] for each in whole["readings"])
    assert texts == (whole["text"] if path == "completions" else whole["message"]["content"])


def test_the_other_interfaces_have_them_as_well(client):
    said = PIECES["chat/completions"]
    expected = client.post("/v1/chat/completions", json={**said, "max_tokens": 6, **ASKED}).json()
    expected = expected["choices"][0]["readings"]
    body = {"input": "Hi", "max_output_tokens": 6, **ASKED}
    whole = client.post("/v1/responses", json=body).json()
    assert_alike(whole["output"][0]["content"][0]["readings"], expected)
    deltas = [each for each in events(client.post("/v1/responses", json={**body, "stream": True})) if "delta" in each]
    assert_alike([reading for each in deltas for reading in each["readings"]], expected)
    options = {"options": {"num_predict": 6, **ASKED}}
    assert_alike(client.post("/api/chat", json={**said, **options, "stream": False}).json()["readings"], expected)
    lines = [json.loads(line) for line in client.post("/api/chat", json={**said, **options}).text.splitlines()]
    assert_alike([reading for line in lines for reading in line.get("readings", ())], expected)
    plain = {**ASKED, "readings": False}
    whole = client.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 6, **plain}).json()
    assert "readings" not in whole["output"][0]["content"][0]


def test_readings_of_a_prompt_alone_are_refused(client):
    body = {"prompt": "It was", "max_tokens": 0, "echo": True, "readings": True}
    answer = client.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "readings")
