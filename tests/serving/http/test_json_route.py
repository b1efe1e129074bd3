"""Bodies are read as JSON whatever type they are said to have; others are refused with the reason."""

import asyncio
import gzip
import json

import pytest

FIELDS = {"prompt": "It was", "temperature": 0, "max_tokens": 3}
JSON = json.dumps(FIELDS).encode()


def post(client, content, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/completions", content=content, headers=headers)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/vnd.api+json",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",  # what curl -d says
        "application/octet-stream",
        "nonsense",
    ],
)
def test_json_is_read_whatever_its_type(client, kind):
    assert post(client, JSON, content_type=kind).json()["choices"][0]["text"]


def test_json_without_a_type_is_read(client):
    answer = post(client, JSON)
    assert "content-type" not in answer.request.headers
    assert answer.status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_every_encoding_of_json(client, encoding):
    asked = json.dumps({**FIELDS, "prompt": "schön"}, ensure_ascii=False).encode(encoding)
    plainly = client.post("/v1/completions", json={**FIELDS, "prompt": "schön"}).json()
    assert post(client, asked, content_type="application/json").json()["choices"] == plainly["choices"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"prompt=It+was&max_tokens=3", {"content_type": "application/x-www-form-urlencoded"}, 415, "is a form"),
        (b"--x\r\n\r\n--x--", {"content_type": "multipart/form-data; boundary=x"}, 415, "is a form"),
        (b'{"prompt": ', {"content_type": "application/x-www-form-urlencoded"}, 400, "not valid JSON"),
        (
            gzip.compress(JSON, mtime=0),
            {"content_encoding": "gzip", "content_type": "application/json"},
            415,
            "compressed (gzip)",
        ),
        (JSON, {"origin": "http://elsewhere.example", "content_type": "text/plain"}, 415, "Content-Type"),
        (JSON, {"origin": "null"}, 415, "Content-Type"),
        (b"", {}, 400, "the body is empty"),
    ],
)
def test_other_bodies_are_refused_with_the_reason(client, content, headers, status, message):
    answer = post(client, content, **headers)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["", "Identity"])
def test_body_that_is_not_compressed_may_say_so(client, encoding):
    assert post(client, JSON, content_encoding=encoding).status_code == 200


def test_client_that_hangs_up_within_its_body_is_no_fault_of_the_server(client, caplog):
    received = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent = []

    async def receive():
        return next(received)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 499
    assert not caplog.records
