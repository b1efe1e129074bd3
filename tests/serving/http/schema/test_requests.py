"""Whatever the OpenAPI page lets one send, and what it does not: nothing of it breaks the server."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema_rs import validator_for
from pydantic import ValidationError
from schemathesis import GenerationMode

from lmsteer import save_steer
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.run import ServiceConfig, create_service
from lmsteer.serving.http.schema.ollama import OllamaChatRequest, OllamaGenerateRequest, Options, ShowRequest
from lmsteer.serving.http.schema.requests import AnalyseRequest, ChatRequest, CompletionRequest
from lmsteer.serving.http.schema.responses_api import ResponsesRequest
from tiny import random_steer, tiny_lm


@pytest.fixture
def api(tmp_path):
    lm, folder = tiny_lm("llama"), tmp_path / "steers"
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    save_steer(random_steer(lm), folder / "style")
    service = create_service(lm, ServiceConfig(max_model_len=64, timeout=2.0, folders=[folder]))
    yield schemathesis.openapi.from_asgi("/openapi.json", create_app(service, body_bytes=20_000))
    service.engine.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_breaks_the_server(api, mode, caplog):
    answered = {}
    # Paths without a body have no invalid requests.
    operations = api if mode is GenerationMode.POSITIVE else api.include(method="POST")
    for result in operations.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def check(case):
            answer = case.call()
            assert answer.status_code < 500, answer.text
            assert "a step failed" not in caplog.text
            answered.setdefault(case.operation.label, set()).add(answer.status_code)

        check()
    assert {200, 400} <= answered["POST /v1/completions"]


@pytest.mark.parametrize(
    "wrong", [{"prompt": [-1] * 2_000}, {"prompt": [[-1] * 2_000]}, {"steers": {f"{k}": [] for k in range(2_000)}}]
)
def test_long_lists_of_wrong_entries_give_few_errors(wrong):
    """An error for each would keep the server busy for seconds, and take a gigabyte."""
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"prompt": "a", **wrong})
    assert caught.value.error_count() < 10


VALUES = [
    *(None, True, False, 0, 0.0, 1, 1.0, -1, -1.0, 2.5, -2, 65, 3_000_000_000, "", "a", "none", "auto", "text", "50%"),
    *([], [1], [1.0], [-1], ["a"], ["a", 1], [[1]], [[]], [[1], "a"], ["text"], ["a"] * 17, "a" * 300),
    *({}, {"a": 1}, {"a": "50%"}, {"a": None}, {"type": "text"}, {"include_usage": False}, {"x": None}, {"x": 1}),
    *([{"type": "text", "text": "a"}], [{"role": "user", "content": "a", "name": "bob", "x": None}]),
    *([{"role": "user"}], [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}]),
    *([{"role": "assistant", "content": None}], [{"role": "assistant"}], [{"role": "tool", "content": "a"}]),
    *([{"role": "user", "content": [{"type": "image_url"}]}], [{"role": "user", "content": []}], [{"role": 5}]),
]
# What one field may be can depend on another, which the page says in words.
TOGETHER = [("top_logprobs", 1), ("max_tokens", 0)]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (CompletionRequest, {"prompt": "a"}),
        (ChatRequest, {"messages": [{"role": "user", "content": "a"}]}),
        (AnalyseRequest, {"texts": ["a"], "steers": ["style"]}),
        (ResponsesRequest, {"input": "a"}),
        (OllamaChatRequest, {}),
        (OllamaGenerateRequest, {}),
        (Options, {}),
        (ShowRequest, {}),
    ],
)
def test_openapi_page_accepts_just_what_the_server_accepts(body, fields):
    is_valid = validator_for(body.model_json_schema()).is_valid
    for name in [*body.model_fields, "unknown"]:
        for value in VALUES:
            sent = {**fields, name: value}
            try:
                body.model_validate(sent)
                accepted = True
            except ValidationError:
                accepted = False
            assert accepted == is_valid(sent) or (name, value) in TOGETHER, (name, value)
