"""Whatever the OpenAPI page lets one send, and what it does not: nothing of it breaks the server."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError
from schemathesis import GenerationMode

from lmsteer import save_steer
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.run import ServiceConfig, create_service
from lmsteer.serving.http.schema.requests import CompletionRequest
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
        @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
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
