"""A file of many prompts is the same however it is cut into pieces, and after any stop."""

import json

import pytest

from lmsteer import generate
from lmsteer.errors import DataError, InterruptedWorkError
from lmsteer.generation.bulk import check_prompts, write_in_bulk, writer_of
from lmsteer.generation.config import GenerationConfig
from tiny import random_steer

PROMPTS = [f"line {k % 5} of it" for k in range(11)]
RECORD = {"model": "tiny"}


@pytest.fixture
def writer(llama):
    settings = [{"style": -1.0}, {"style": 2.0}]
    return writer_of(llama, {"style": random_steer(llama)}, settings, GenerationConfig(2, 6, seed=4))


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_pieces_make_the_file_that_generate_gives(llama, writer, tmp_path):
    write_in_bulk(writer, PROMPTS, tmp_path / "a.jsonl", RECORD, chunk=4)
    write_in_bulk(writer, PROMPTS, tmp_path / "sub" / "b.jsonl", RECORD, chunk=100)
    assert lines_of(tmp_path / "a.jsonl") == lines_of(tmp_path / "sub" / "b.jsonl")
    settings = [{"style": -1.0}, {"style": 2.0}]
    whole = list(generate(llama, PROMPTS, {"style": random_steer(llama)}, settings, GenerationConfig(2, 6, seed=4)))
    told = [each["text"] for line in lines_of(tmp_path / "a.jsonl") for each in line["generations"]]
    assert told == [each.text for each in whole]
    assert [line["prompt"]["text"] for line in lines_of(tmp_path / "a.jsonl")] == PROMPTS
    assert not list(tmp_path.glob("*.partial"))


def test_a_killed_run_goes_on_where_it_was(writer, tmp_path):
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


def test_what_cannot_be_written_is_told_before_anything_is(llama, writer, tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        write_in_bulk(writer, PROMPTS, tmp_path, RECORD)
    with pytest.raises(DataError, match="prompt 300 is empty"):
        check_prompts(llama, [*["a"] * 299, "", "a"], GenerationConfig())
    assert not list(tmp_path.iterdir())


def test_a_partial_file_of_something_else_is_refused(writer, tmp_path):
    out = tmp_path / "o.jsonl"
    with pytest.raises(DataError, match="nothing to resume"):
        write_in_bulk(writer, PROMPTS, out, RECORD, resume=True)
    (tmp_path / "o.jsonl.partial").write_text('{"of": {}}\n')
    with pytest.raises(DataError, match="continue it with --resume, or remove it"):
        write_in_bulk(writer, PROMPTS, out, RECORD)
    assert (tmp_path / "o.jsonl.partial").read_text() == '{"of": {}}\n'
    with pytest.raises(DataError, match="remove it"):
        write_in_bulk(writer, PROMPTS, out, RECORD, resume=True)
    with pytest.raises(DataError, match="cannot write"):
        write_in_bulk(writer, PROMPTS, tmp_path / "o.jsonl.partial" / "x.jsonl", RECORD)
