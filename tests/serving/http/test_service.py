from threading import Event

import pytest

from lmsteer import save_steer
from lmsteer.serving.engine.engine import EngineConfig
from lmsteer.serving.engine.jobs import BusyError
from lmsteer.serving.http import service
from lmsteer.serving.http.errors import RequestError
from lmsteer.serving.http.run import ServiceConfig, create_service
from lmsteer.serving.http.schema.requests import AnalyseRequest
from tiny import random_steer


def test_texts_of_a_refused_request_are_not_analysed(llama, tmp_path, monkeypatch):
    save_steer(random_steer(llama, name="style"), tmp_path / "style")
    read, entered, go = [], Event(), Event()
    monkeypatch.setattr(service, "analyse", lambda lm, texts, *_, **__: read.extend(texts))
    served = create_service(llama, ServiceConfig(folders=[tmp_path], engine=EngineConfig(max_queue=2)))
    try:
        held = served.engine.call(lambda: (entered.set(), go.wait(30)))
        assert entered.wait(30)
        served.engine.call(lambda: None)
        with pytest.raises(BusyError):
            served.analyse(AnalyseRequest(texts=["one", "two"], steers=["style"]))
        go.set()
        held.result(30)
        served.engine.call(lambda: None).result(30)
        assert read == []
    finally:
        go.set()
        served.engine.close()


def test_more_texts_than_can_wait_are_refused_for_good(llama, tmp_path):
    save_steer(random_steer(llama, name="style"), tmp_path / "style")
    served = create_service(llama, ServiceConfig(folders=[tmp_path], engine=EngineConfig(max_queue=0)))
    try:
        (reading,) = served.analyse(AnalyseRequest(texts=["one"], steers=["style"]))
        assert reading.result(30).text == "one"
        with pytest.raises(RequestError, match="2 texts are too many: at most 1 can wait"):
            served.analyse(AnalyseRequest(texts=["one", "two"], steers=["style"]))
    finally:
        served.engine.close()
