"""cache lists what is kept and clears it."""

from __future__ import annotations

import json


def test_the_cache_is_listed_and_cleared(run):
    run("fit", "letters.jsonl", "--name", "letters", "--store")
    listed = json.loads(run("cache", "--json", model=False)[1])
    assert {entry["kind"] for entry in listed} == {"states", "curvature"}
    assert "240 texts" in run("cache", model=False)[1]
    assert run("cache", "--clear", "all", "--json", model=False)[0] == 0
    assert json.loads(run("cache", "--json", model=False)[1]) == []
    status, _, err = run("cache", "--clear", "everything", model=False)
    assert status == 2
    assert "states" in err
