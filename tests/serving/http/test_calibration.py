"""Calibrations over HTTP: the range of `lmsteer calibrate`, in pieces between the steps of running requests."""

import asyncio
import json
from dataclasses import replace
from threading import Event

import pytest

from lmsteer import load_steer
from lmsteer.errors import LMSteerError
from lmsteer.evaluation.protocol import CALIBRATION
from lmsteer.evaluation.safe_range import calibrate
from lmsteer.serving.engine.requests import Request
from lmsteer.serving.http.calibration import Calibrations, CancelledError
from lmsteer.serving.http.errors import RequestError
from lmsteer.serving.http.schema.calibration import CalibrateRequest

BODY = {"steer": "style", "prompts": ["The cat", "It", "x"], "max_tokens": 4}


@pytest.fixture
def service(client):
    return client.app.state.service


def test_the_range_and_its_curve_are_those_of_calibrate(client, llama, steers):
    answer = client.post("/v1/calibrate", json={**BODY, "max_perplexity_ratio": 1.3, "seed": 2})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    protocol = replace(CALIBRATION, max_new_tokens=4, seed=2)
    steer = load_steer(steers / "style")
    expected = calibrate(llama, steer, BODY["prompts"], max_perplexity_ratio=1.3, protocol=protocol)
    assert found["safe_range"] == [expected.low, expected.high]
    assert [trial["strength"] for trial in found["curve"]] == [trial.strength for trial in expected.trials]
    perplexities = [trial["perplexity"] for trial in found["curve"]]
    assert perplexities == pytest.approx([trial.perplexity for trial in expected.trials], rel=1e-3)
    assert load_steer(steers / "style").card == steer.card  # nothing is saved


def test_running_requests_and_other_jobs_have_their_turns(service, monkeypatch):
    """A request and a job that come during the second piece are answered long before the last."""
    events, call = [], service.engine.call

    def counted(piece):
        events.append("piece")
        if events.count("piece") == 2:
            request = Request([5, 6, 7], max_new_tokens=3)
            service.engine.submit([request], lambda _, chunk: events.append(chunk.finish or "token"))
            call(lambda: events.append("job"))
        return call(piece)

    monkeypatch.setattr(service.engine, "call", counted)
    Calibrations(service).run(CalibrateRequest(**BODY), Event())
    assert events.count("piece") > 10
    assert events.index("job") < 5
    assert "piece" in events[events.index("length") :]


def test_a_calibration_that_nobody_waits_for_ends_after_its_piece(service, monkeypatch):
    pieces, cancelled, call = [], Event(), service.engine.call

    def counted(piece):
        pieces.append(piece)
        if len(pieces) == 2:
            cancelled.set()
        return call(piece)

    monkeypatch.setattr(service.engine, "call", counted)
    with pytest.raises(CancelledError):
        Calibrations(service).run(CalibrateRequest(**BODY), cancelled)
    assert len(pieces) == 2


def test_a_client_that_hangs_up_ends_its_calibration(client, service, monkeypatch):
    scope = {"type": "http", "method": "POST", "path": "/v1/calibrate", "headers": [], "query_string": b"", "asgi": {}}
    bodies = [json.dumps(BODY).encode()]
    sent, errors, run = [], [], Calibrations.run
    began, ended, go_on = Event(), Event(), Event()

    def watched(*arguments):
        began.set()
        try:
            return run(*arguments)
        except LMSteerError as error:
            errors.append(error)
            raise
        finally:
            ended.set()

    async def ask():
        async def receive():
            if bodies:
                return {"type": "http.request", "body": bodies.pop()}
            await asyncio.to_thread(began.wait, 30)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await client.app(scope, receive, send)

    monkeypatch.setattr(Calibrations, "run", watched)
    service.engine.call(lambda: go_on.wait(30))  # before the first piece
    asyncio.run(ask())
    go_on.set()
    assert ended.wait(30)
    assert sent[0]["status"] == 499
    assert [type(error) for error in errors] == [CancelledError]
    assert client.post("/v1/calibrate", json=BODY).status_code == 200


def test_one_steer_is_calibrated_at_a_time(client, service, monkeypatch):
    calibrations, find = Calibrations(service), service.steer

    def find_meanwhile(name, param):
        with pytest.raises(LMSteerError, match="another steer is being calibrated"):
            calibrations.run(CalibrateRequest(**BODY), Event())
        return find(name, param)

    monkeypatch.setattr(service, "steer", find_meanwhile)
    assert calibrations.run(CalibrateRequest(**BODY), Event()).steer == "style"


@pytest.mark.parametrize(
    ("fields", "status", "param", "message"),
    [
        ({"steer": "nobody"}, 404, "steer", "unknown steer 'nobody'"),
        ({"prompts": []}, 400, "prompts", "at least 1"),
        ({"prompts": [""]}, 400, "prompts.0", "at least 1 character"),
        ({"prompts": ["x", "a" * 2000]}, 400, "prompts", "prompt 2"),
        ({"max_perplexity_ratio": 1}, 400, "max_perplexity_ratio", "must be more than 1"),
        ({"max_tokens": 1000}, 400, "max_tokens", "must be at most 256"),
        ({"target": 0.9}, 400, "target", "target"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_by_name(client, fields, status, param, message):
    answer = client.post("/v1/calibrate", json={**BODY, **fields})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert message in error["message"]


def test_new_tokens_that_leave_no_room_for_a_prompt_are_refused(service, monkeypatch):
    monkeypatch.setattr(service, "limits", replace(service.limits, max_model_len=4))
    with pytest.raises(RequestError, match="max_tokens is 4, but a prompt and its new text have 4 tokens at most"):
        Calibrations(service).run(CalibrateRequest(**BODY), Event())
