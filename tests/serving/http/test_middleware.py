"""Paths, methods, and pages of other origins."""

import pytest
from fastapi.testclient import TestClient

from lmsteer.errors import LMSteerError
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.run import ServerSettings, ServiceConfig, create_full_app, create_service

PAGE = "http://localhost:3000"
BODY = {"prompt": "It was", "temperature": 0, "max_tokens": 3}


@pytest.fixture(scope="module")
def open_client(llama, steers):
    """A client of a server that pages of one origin may use, and that wants a key."""
    service = create_service(llama, ServiceConfig(folders=[steers]))
    settings = ServerSettings(keys=["key"], body_bytes=1_000, page=False, origins=[PAGE])
    with TestClient(create_full_app(service, settings)) as client:
        yield client


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/v1/models/style@2", "/v1/steers"])
def test_head_is_answered_as_get_without_a_body(client, path):
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_of_a_path_that_is_not_there(client):
    assert client.head("/v1/models/nobody").status_code == 404
    assert client.head("/v1/completions").status_code == 405


@pytest.mark.parametrize("path", ["/v1/completions/", "//v1/completions", "/v1//completions//"])
def test_slashes_too_many_are_no_fault(client, path):
    answer = client.post(f"http://testserver{path}", json=BODY, follow_redirects=False)
    assert answer.status_code == 200


def test_list_of_models_may_have_a_slash(client):
    assert client.get("/v1/models/", follow_redirects=False).json()["object"] == "list"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/completions", "did you mean /v1/completions (the base URL of a client ends in /v1)?"),
        ("/chat/completions", "did you mean /v1/chat/completions"),
        ("/v1/v1/chat/completions", "did you mean /v1/chat/completions"),
        ("/api/v1/chat/completions", "did you mean /v1/chat/completions"),
        ("/v1/chat/completion", "did you mean /v1/chat/completions"),
        ("/v1/health", "did you mean /health?"),
        ("/v1/embeddings", "this server has /v1/completions, /v1/chat/completions, "),
        ("/v1/respons\u0115s", "there is no path /v1/respons\u0115s here"),
        ("/", "this server has"),
    ],
)
def test_path_that_is_not_there_is_told_with_the_one_that_was_meant(client, path, meant):
    answer = client.post(path, json=BODY)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    assert meant in answer.json()["error"]["message"]


def test_method_that_a_path_does_not_have_is_told_in_the_same_format(client):
    answer = client.get("/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json()["error"]["message"] == "GET is not possible at /v1/chat/completions: send POST."
    assert client.delete("/v1/models").json()["error"]["message"].endswith("send GET.")


def preflight(client, origin, headers="authorization,content-type,x-stainless-lang"):
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": headers}
    return client.options("/v1/chat/completions", headers=asked)


def test_pages_of_other_origins_may_use_the_server_if_it_was_started_so(open_client):
    allowed = preflight(open_client, PAGE)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert "x-stainless-lang" in allowed.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in allowed.headers
    assert preflight(open_client, "http://localhost:3001").status_code == 400


@pytest.mark.parametrize(
    ("body", "key", "status"),
    [
        (BODY, "key", 200),
        ({**BODY, "stream": True}, "key", 200),
        (BODY, "wrong", 401),
        ({**BODY, "n": 0}, "key", 400),
        ({**BODY, "prompt": "a" * 2_000}, "key", 413),
    ],
)
def test_every_answer_can_be_read_by_the_page(open_client, body, key, status):
    headers = {"origin": PAGE, "authorization": f"Bearer {key}"}
    answer = open_client.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "X-LMSteer-Steers" in answer.headers["access-control-expose-headers"]
    assert open_client.get("/health", headers=headers).headers["access-control-allow-origin"] == PAGE
    elsewhere = open_client.post("/v1/completions", json=body, headers={**headers, "origin": "http://elsewhere"})
    assert "access-control-allow-origin" not in elsewhere.headers


def test_fault_of_the_program_can_be_read_by_the_page(open_client, monkeypatch, caplog):
    monkeypatch.setattr(open_client.app.state.service, "completion", lambda _: 1 / 0)
    headers = {"origin": PAGE, "authorization": "Bearer key"}
    answer = open_client.post("/v1/completions", json=BODY, headers=headers)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "ZeroDivisionError" in caplog.text
    assert 'lmsteer_requests_total{path="/v1/completions",status="500"} 1.0' in open_client.get("/metrics").text


def test_by_default_no_page_of_another_origin_may_use_the_server(client):
    refused = preflight(client, PAGE)
    assert refused.status_code == 405
    assert "--allow-origin" in refused.json()["error"]["message"]
    answer = client.post("/v1/completions", json=BODY, headers={"origin": PAGE})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_all_origins_may_be_allowed(llama, steers):
    service = create_service(llama, ServiceConfig(folders=[steers]))
    with TestClient(create_app(service, origins=["*"])) as client:
        assert preflight(client, "http://anywhere").headers["access-control-allow-origin"] == "*"
        assert client.get("/health", headers={"origin": "null"}).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", ["*", PAGE, "https://chat.example", "app://obsidian.md", "http://[::1]:3000"])
def test_origin_is_accepted(origin):
    assert ServerSettings(origins=[origin]).origins == [origin]


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://localhost/", "http://A.example", "", "null", "http://*.a"]
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(LMSteerError, match="is not an origin: write it"):
        ServerSettings(origins=[PAGE, origin])
