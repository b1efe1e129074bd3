"""cache lists what is kept, and clears it."""

from __future__ import annotations

import json
from pathlib import Path

from lmsteer.export.peft import export_lora
from lmsteer.serving.vllm.adapter_cache import adapters_folder
from lmsteer.steer.mix import Mix
from tiny import random_steer, tiny_lm


def test_the_cache_is_listed_and_cleared(run):
    run("fit", "letters.jsonl", "--name", "letters", "--cache-activations")
    lm = tiny_lm("llama")
    export_lora(lm, Mix({"style": random_steer(lm)}, {"style": 2.0}), adapters_folder() / "written")
    listed = json.loads(run("cache", "--json", model=False)[1])
    assert {entry["kind"] for entry in listed} == {"states", "fisher", "adapters"}
    assert "240 texts" in run("cache", model=False)[1]
    (removed,) = json.loads(run("cache", "--clear", "adapters", "--json", model=False)[1])
    assert Path(removed["path"]).name == "written"
    assert not Path(removed["path"]).exists()
    assert run("cache", "--clear", "all", "--json", model=False)[0] == 0
    assert json.loads(run("cache", "--json", model=False)[1]) == []
    status, _, err = run("cache", "--clear", "everything", model=False)
    assert status == 2
    assert "states" in err
