"""push shares a steer, and what it cannot share ends in one line and status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hub_server import TOKEN
from lmsteer.steer.files import save_steer
from tiny import own_steer, tiny_lm


def test_a_steer_is_pushed_and_used_by_its_id(run, hub, lm, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    status, out, _ = run("push", "one", "org/one", "--base-model", "org/tiny", "--license", "mit", model=False)
    sha = hub.repositories["org/one"].refs["main"]
    assert (status, out.split()[0]) == (0, f"hf://org/one@{sha}")
    status, out, _ = run("push", "one", "org/one", "--base-model", "org/tiny", "--json", model=False)
    assert json.loads(out)["id"] == f"hf://org/one@{hub.repositories['org/one'].refs['main']}"
    status, out, _ = run("generate", "abc", "--steer", "org/one=1", "--max-new-tokens", "2", "--json")
    assert (status, "org/one" in out) == (0, True)
    status, _, _ = run("mix", f"org/one@{sha}=1", "two=1", "--out", "steers/both")
    assert status == 0
    saved = json.loads(Path("steers/both/steer.json").read_text())
    assert [part.get("origin") for part in saved["card"]["fit"]["of"]] == [f"hf://org/one@{sha}", None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["push", "one", "org/one"], "which is no Hub id: say with --base-model"),
        (["push", "one", "one", "--base-model", "org/tiny"], "is no name of a repository"),
        (["push", "nobody", "org/one", "--base-model", "org/tiny"], "unknown steer 'nobody'"),
        (["push", "one", "org/one", "--base-model", "org/tiny"], "the Hub does not know who you are"),
        (["generate", "x", "--steer", "org/missing=1"], "the Hub has no such repository, or a private one"),
        (["generate", "x", "--steer", "hf://one=1"], "is no id of the Hub"),
        (["generate", "x", "--steer", "org/foreign=1"], "was fitted on 'tiny-gpt2'"),
        (["generate", "x", "--steer", "org/pickle=1"], "holds pytorch_model.bin, which no steer has"),
        (["verify", "org/model"], "hf://org/model holds no steer"),
        (["analyse", "x", "--steer", "hf://org/model@v1"], "has no revision 'v1'"),
    ],
)
def test_what_the_hub_does_not_have_or_take_ends_in_status_2(run, hub, lm, tmp_path, line, message):
    hub.add("org/model", **{"config.json": b"{}"})
    for name, others in (("org/foreign", {}), ("org/pickle", {"pytorch_model.bin": b""})):
        hub.add(name, save_steer(own_steer(tiny_lm("gpt2")), tmp_path / "made"), **others)
    before = sorted(Path().rglob("steer*"))
    status, out, err = run(*line, model=line[0] != "push")
    assert (status, out) == (2, "")
    assert message in err
    assert set(hub.repositories) == {"org/model", "org/foreign", "org/pickle"}
    fetched = [file for file in Path().rglob("steer*") if "snapshots" not in file.parts]
    assert sorted(fetched) == before  # nothing is written but what the Hub's cache keeps
