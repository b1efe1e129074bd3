"""A file of many prompts is the same however it is divided into chunks, and after any interruption."""

import json
from dataclasses import replace

import pytest

from lmsteer import generate
from lmsteer.errors import DataError, InterruptedWorkError, OutputError
from lmsteer.generation.bulk import BulkRequest, check_prompts, generate_to_file, write_in_bulk, writer_of
from lmsteer.generation.config import GenerationConfig, Limits
from lmsteer.util.run import differing_settings
from tiny import random_steer

PROMPTS = [f"line {k % 5} of it" for k in range(11)]
RECORD = {"model": "tiny"}


@pytest.fixture
def writer(llama):
    settings = [{"style": -1.0}, {"style": 2.0}]
    return writer_of(llama, {"style": random_steer(llama)}, settings, GenerationConfig(2, 6, seed=4))


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_chunks_of_any_size_make_the_file_that_generate_gives(llama, writer, tmp_path):
    write_in_bulk(writer, PROMPTS, tmp_path / "a.jsonl", RECORD, chunk=4)
    write_in_bulk(writer, PROMPTS, tmp_path / "sub" / "b.jsonl", RECORD, chunk=100)
    assert lines_of(tmp_path / "a.jsonl") == lines_of(tmp_path / "sub" / "b.jsonl")
    settings = [{"style": -1.0}, {"style": 2.0}]
    whole = list(generate(llama, PROMPTS, {"style": random_steer(llama)}, settings, GenerationConfig(2, 6, seed=4)))
    texts = [each["text"] for line in lines_of(tmp_path / "a.jsonl") for each in line["generations"]]
    assert texts == [each.text for each in whole]
    assert [line["prompt"]["text"] for line in lines_of(tmp_path / "a.jsonl")] == PROMPTS
    assert not list(tmp_path.glob("*.partial"))


def test_a_killed_run_is_resumed_where_it_stopped(writer, tmp_path):
    write_in_bulk(writer, PROMPTS, tmp_path / "whole.jsonl", RECORD, chunk=3)
    out, calls = tmp_path / "o.jsonl", []

    def killed(prompts, first):
        calls.append(first)
        if first >= 6:
            raise KeyboardInterrupt
        return writer(prompts, first)

    with pytest.raises(InterruptedWorkError, match="--resume"):
        write_in_bulk(killed, PROMPTS, out, RECORD, chunk=3)
    assert not out.exists()
    partial = tmp_path / "o.jsonl.partial"
    partial.write_bytes(partial.read_bytes() + b'{"prompt": {"te')  # a line that the kill cut short
    calls.clear()
    write_in_bulk(lambda p, first: calls.append(first) or writer(p, first), PROMPTS, out, RECORD, resume=True, chunk=3)
    assert calls == [6, 9]
    assert lines_of(out) == lines_of(tmp_path / "whole.jsonl")


def test_bad_prompts_and_targets_are_refused_before_any_work(llama, writer, tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        write_in_bulk(writer, PROMPTS, tmp_path, RECORD)
    with pytest.raises(DataError, match="prompt 300 is empty"):
        check_prompts(llama, [*["a"] * 299, "", "a"], GenerationConfig())
    assert not list(tmp_path.iterdir())


def test_a_partial_file_of_something_else_is_refused(writer, tmp_path):
    out = tmp_path / "o.jsonl"
    with pytest.raises(DataError, match="nothing to resume"):
        write_in_bulk(writer, PROMPTS, out, RECORD, resume=True)
    (tmp_path / "o.jsonl.partial").write_text('{"config": {"model": "another"}}\n')
    with pytest.raises(DataError, match="continue it with --resume, or remove it"):
        write_in_bulk(writer, PROMPTS, out, RECORD)
    assert (tmp_path / "o.jsonl.partial").read_text() == '{"config": {"model": "another"}}\n'
    with pytest.raises(DataError, match="is of a run with another model: remove it"):
        write_in_bulk(writer, PROMPTS, out, RECORD, resume=True)
    for damaged in ("", "{}", "[]", '{"config": 3}', "no JSON"):
        (tmp_path / "o.jsonl.partial").write_text(f"{damaged}\n")
        with pytest.raises(DataError, match="is damaged: remove it"):
            write_in_bulk(writer, PROMPTS, out, RECORD, resume=True)
    with pytest.raises(OutputError, match="cannot write"):
        write_in_bulk(writer, PROMPTS, tmp_path / "o.jsonl.partial" / "x.jsonl", RECORD)


def test_a_request_is_recognised_by_all_but_its_batch_size(llama):
    request = BulkRequest("tiny", PROMPTS, {"style": random_steer(llama)}, [{"style": 1.0}], GenerationConfig())
    record = request.record("transformers")
    assert replace(request, config=GenerationConfig(batch_size=3)).record("transformers") == record
    for other in (
        replace(request, prompts=PROMPTS[1:]),
        replace(request, config=GenerationConfig(seed=1)),
        replace(request, config=GenerationConfig(limits=Limits(kl=1.0))),
        replace(request, settings=[{"style": 2.0}]),
        replace(request, steers={"style": random_steer(llama, seed=1)}),
        replace(request, model="another"),
    ):
        assert len(differing_settings(other.record("transformers"), record)) == 1


def test_a_request_is_generated_into_a_file(llama, tmp_path):
    request = BulkRequest("tiny", PROMPTS, {}, [{}], GenerationConfig(2, 3))
    generate_to_file(llama, request, tmp_path / "o.jsonl")
    assert [len(line["generations"]) for line in lines_of(tmp_path / "o.jsonl")] == [2] * len(PROMPTS)
    with pytest.raises(DataError, match="prompt 1 is empty"):
        generate_to_file(llama, replace(request, prompts=[""]), tmp_path / "p.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]
