"""Bulk files through the real vLLM. `make test-vllm` runs this."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

pytestmark = pytest.mark.model
PROMPTS = ("The movie was", "My neighbour's new dog is", "Dear customer,", "I have to say that the food")


def test_bulk_work_through_vllm_is_what_this_machine_writes(tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    options = json.dumps({"dtype": "float32", "enforce_eager": True, "max_model_len": 128})
    command = [sys.executable, "-m", "lmsteer", "generate", "--prompts", "prompts.txt", "--steer", "sentiment=-4,4"]
    command += ["--temperature", "0", "--max-new-tokens", "8"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    for engine in (["--engine", "vllm", "--engine-options", options, "--out", "v.jsonl"], ["--out", "own.jsonl"]):
        done = subprocess.run([*command, *engine], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "v.jsonl").read_text() == (tmp_path / "own.jsonl").read_text()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["own.jsonl", "prompts.txt", "v.jsonl"]
