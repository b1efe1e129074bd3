"""fit makes steers, and keeps what was gathered when stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from lmsteer.fitting import activation_cache
from tiny import styled


def test_names_that_look_like_markup_are_printed_as_they_are(run):
    status, out, _ = run("fit", "letters.jsonl", "--name", "[old]", "--out", "a[/b]")
    assert status == 0
    assert "[old]" in out
    assert "a[/b]" in out


def test_few_texts_are_said_to_be_few(run):
    Path("few.jsonl").write_text("\n".join(json.dumps({"text": t.text, "label": t.label}) for t in styled(120)))
    assert "which is few" in run("fit", "few.jsonl", "--name", "few")[1]
    assert "which is few" not in run("fit", "letters.jsonl", "--name", "many")[1]


def test_one_sided_parts_are_kept_and_fitted_together(run):
    texts = styled(240)
    for name, label in (("early", 1.0), ("late", -1.0)):
        rows = [json.dumps({"text": t.text, "label": t.label}) for t in texts if t.label == label]
        Path(f"{name}.jsonl").write_text("\n".join(rows))
    status, _, err = run("fit", "early.jsonl", "--name", "l", "--save-statistics", "stats")
    assert status == 2
    assert "both ends" in err
    assert run("fit", "late.jsonl", "--name", "l", "--statistics", "stats")[0] == 0


def test_ctrl_c_keeps_what_was_gathered_and_says_how_to_resume(run, monkeypatch):
    real, batches = activation_cache.compute_rows, 0

    def interrupted(*args):
        nonlocal batches
        batches += 1
        if batches == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(activation_cache, "compute_rows", interrupted)
    status, _, err = run("fit", "letters.jsonl", "--name", "x")
    assert status == 130
    assert "--resume" in " ".join(err.split())
    assert batches == 2
    assert json.loads(Path("steers/x.partial/statistics.json").read_text())["batches"] == 2


def test_ctrl_c_before_the_first_batch_says_that_nothing_is_kept(run, monkeypatch):
    def interrupted(lm):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmsteer.fitting.fit_closed_form.fisher_factors", interrupted)
    status, _, err = run("fit", "letters.jsonl", "--name", "x")
    assert status == 130
    assert "Nothing is kept" in " ".join(err.split())
    assert not Path("steers/x.partial").exists()
