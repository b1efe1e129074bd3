"""Servers that are started for a check: what they are given, that they end, and what is said if they do not answer."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path

import pytest
import torch

from lmsteer.errors import ModelError
from lmsteer.serving.verification import started
from lmsteer.serving.verification.client import JsonClient
from lmsteer.steer.files import load_steer
from tiny import own_steer

# Answers as a server of OpenAI's API, and writes down how it was started.
STAND_IN = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": "tiny", "owned_by": "vllm"}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

print("loading", flush=True)
record = {"arguments": sys.argv[1:], "steers": os.environ.get("LMSTEER_STEERS"), "pid": os.getpid()}
open(os.environ["RECORD"], "w").write(json.dumps(record))
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of a name into PATH."""

    def put(name, code):
        (tmp_path / "code.py").write_text(code)
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {tmp_path / "code.py"} "$@"\n')
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
        monkeypatch.setenv("RECORD", str(tmp_path / "record.json"))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
        return tmp_path / "record.json"

    return put


def model_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_vllm_has_the_steer_and_ends_with_the_block(llama, program, tmp_path):
    file = program("vllm", STAND_IN)
    model_folder(tmp_path)
    steer = own_steer(llama, name="own")
    with started.vllm_server(steer, str(tmp_path / "model"), ["--dtype", "float32"]) as url:
        record = json.loads(file.read_text())
        assert JsonClient(url, None, 5.0).get("/v1/models")["data"][0]["id"] == "tiny"
        assert record["arguments"][:2] == ["serve", str(tmp_path / "model")]
        assert record["arguments"][2:6] == ["--dtype", "float32", "--host", "127.0.0.1"]
        kept = load_steer(Path(record["steers"]) / started.STEER)
        assert torch.equal(kept.factors["A"], steer.factors["A"])
        assert is_running(record["pid"])
    deadline = time.monotonic() + 10
    while is_running(record["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(record["pid"])
    assert not Path(record["steers"]).exists()


def test_llama_server_has_the_steer_at_scale_0(program, tiny_gguf):
    from lmsteer.model.loading import load

    file, lm = program("llama-server", STAND_IN), load(str(tiny_gguf))
    with started.llama_server(lm, own_steer(lm, name="own"), str(tiny_gguf), ["-c", "64"]):
        arguments = json.loads(file.read_text())["arguments"]
        adapter = arguments[arguments.index("--lora-scaled") + 1]
        assert Path(adapter.removesuffix(":0")).name == f"{started.STEER}.gguf"
        assert Path(adapter.removesuffix(":0")).is_file()
        assert Path(arguments[arguments.index("-m") + 1]).is_file()
        assert arguments[-6:-4] == ["-c", "64"]
        assert "--no-cache-prompt" in arguments


def test_a_server_that_ends_has_the_last_word(llama, program, tmp_path):
    program("vllm", "raise SystemExit('no memory for the model')")
    model_folder(tmp_path)
    with (
        pytest.raises(ModelError, match=r"vllm does not answer\. Its last words:\nno memory for the model"),
        started.vllm_server(own_steer(llama), str(tmp_path / "model"), []),
    ):
        pass


def test_a_program_that_is_not_installed_is_named(llama, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ModelError, match="the program vllm is not found: install vLLM"):
        started.vllm_server(own_steer(llama), "model", []).__enter__()
    with pytest.raises(ModelError, match="the program llama-server is not found"):
        started.llama_server(llama, own_steer(llama), "model.gguf", []).__enter__()
