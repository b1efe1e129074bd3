"""generate writes what the Python call gives."""

from __future__ import annotations

import json
from pathlib import Path


def test_generate_writes_a_file_and_reads_one(run, tmp_path):
    Path("prompts.txt").write_text("abc\nxyz\n")
    assert run("generate", "--prompts", "prompts.txt", "--out", "o.jsonl")[0] == 0
    assert len(Path("o.jsonl").read_text().splitlines()) == 2


def test_a_stream_is_what_generate_gives(run):
    status, out, _ = run("generate", "abc", "--stream", "--max-new-tokens", "9")
    assert status == 0
    status, whole, _ = run("generate", "abc", "--json", "--max-new-tokens", "9")
    assert out == "abc" + json.loads(whole)["generations"][0]["text"] + "\n"
    for more in (["xyz"], ["--num-samples", "2"], ["--json"]):
        status, _, err = run("generate", "abc", "--stream", *more)
        assert status == 2
        assert "one continuation" in err


def test_a_stop_string_ends_the_text(run):
    greedy = ["generate", "The movie was", "--temperature", "0", "--max-new-tokens", "12", "--json"]
    (whole,) = json.loads(run(*greedy)[1])["generations"]
    stop = whole["text"][2:4]
    assert len(stop) == 2
    status, out, _ = run(*greedy, "--stop", stop)
    assert status == 0
    assert json.loads(out)["generations"][0]["text"] == whole["text"].split(stop)[0]
    assert "a stop string is empty" in run(*greedy, "--stop", "")[2]


def test_readings_stand_in_json_and_in_a_table(run):
    options = ("--max-new-tokens", "3", "--readings")
    status, out, _ = run("generate", "abc", *options, "--json")
    (generation,) = json.loads(out)["generations"]
    assert status == 0
    assert "".join(each["text"] for each in generation["readings"]) == generation["text"]
    assert {each["kl"] for each in generation["readings"]} == {0}
    status, out, _ = run("generate", "abc", *options)
    assert status == 0
    assert "unsteered" in out
    assert f"{generation['readings'][0]['logprob']:.2f}" in out


def test_what_does_not_go_together_is_refused(run):
    for options, message in (
        (["--engine", "vllm"], "name it with --out"),
        (["--engine", "magic"], "'transformers', 'vllm'"),
        (["--resume"], "name it with --out"),
        (["--engine-options", "{}"], "add --engine vllm"),
        (["--engine", "vllm", "--out", "o.jsonl", "--batch-size", "8"], "leave it out"),
        (["--resume", "--out", "o.jsonl"], "nothing to resume"),
        (["--engine", "vllm", "--out", "o.jsonl", "--engine-options", "{"], "not JSON"),
        (["--engine", "vllm", "--out", "o.jsonl", "--fresh", "8", "--steer", "sentiment=3"], "--fresh does not apply"),
        (["--engine", "vllm", "--out", "o.jsonl", "--plausible", "0.1"], "--plausible limits steers in vLLM"),
        (["--kl", "1"], "--kl limits steers: name one with --steer"),
        (["--steer", "sentiment=1", "--plausible", "1"], "plausible must be at least 0 and below 1; it is 1"),
        (["--steer", "sentiment=1", "--kl", "0"], "kl must be above 0; it is 0"),
        (["--steer", "sentiment=1", "--fresh", "-1"], "--fresh"),
        (["--engine", "vllm", "--out", "o.jsonl", "--engine-options", "[]"], "JSON object"),
        (["--engine", "vllm", "--out", "o.jsonl", "--readings"], "--readings does not apply to vLLM"),
        (["--stream", "--readings"], "--readings does not apply to --stream"),
        (["--engine", "vllm", "--out", "o.jsonl", "--steer", "sentiment=3@answer"], "sentiment=3@answer: --engine"),
        (["--engine", "vllm", "--out", "o.jsonl", "--hold", "sentiment=0.8"], "leave out the hold"),
        (["--steer", "sentiment=3@soon"], "unknown window 'soon': write @10.."),
        (["--steer", "sentiment=3@10..5"], "holds no token"),
        (["--hold", "sentiment=1"], "above 0 and below 1"),
        (["--hold", "sentiment=0.8", "--steer", "sentiment=1"], "held"),
    ):
        status, _, err = run("generate", "abc", *options)
        assert status == 2
        assert message in err
    assert run("generate", "--out", "o.jsonl")[0] == 2


def test_a_stopped_file_is_resumed_and_another_one_refused(run):
    assert run("generate", "abc", "xyz", "--out", "o.jsonl")[0] == 0
    written = Path("o.jsonl").read_text()
    Path("o.jsonl.partial").write_text('{"config": {"model": "another"}}\n')
    status, _, err = run("generate", "abc", "xyz", "--out", "o.jsonl", "--resume")
    assert status == 2
    assert "remove it" in err
    assert Path("o.jsonl").read_text() == written
