"""generate writes what the Python call gives."""

from __future__ import annotations

import json
from pathlib import Path


def test_generate_writes_a_file_and_reads_one(run, tmp_path):
    Path("prompts.txt").write_text("abc\nxyz\n")
    assert run("generate", "--file", "prompts.txt", "--out", "o.jsonl")[0] == 0
    assert len(Path("o.jsonl").read_text().splitlines()) == 2


def test_a_stream_is_what_generate_gives(run):
    status, out, _ = run("generate", "abc", "--stream", "--max-new-tokens", "9")
    assert status == 0
    status, whole, _ = run("generate", "abc", "--json", "--max-new-tokens", "9")
    assert out == "abc" + json.loads(whole)["generations"][0]["text"] + "\n"
    for more in (["xyz"], ["--n", "2"], ["--json"]):
        status, _, err = run("generate", "abc", "--stream", *more)
        assert status == 2
        assert "one continuation" in err
