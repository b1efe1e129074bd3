"""Statistics of a stream: those of all texts at once, in constant memory, and resumed where they were stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest
import torch

from lmsteer.data.labelled import LabelledSource, LabelledText
from lmsteer.errors import DataError, StatisticsError, WrongBaseError
from lmsteer.fitting import activation_cache
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.gather import gather
from lmsteer.fitting.statistics import Statistics, gather_statistics, load_statistics
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.hidden_rows import compute_rows
from lmsteer.reading.rows import LabelledRows
from tiny import styled

TEXTS = styled(240)


def windows(texts: Sequence[LabelledText] = TEXTS, size: int = 50) -> Iterator[Sequence[LabelledText]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def assert_same(one: Statistics, other: Statistics) -> None:
    assert (one.fingerprint, one.texts, one.counts.tokens) == (other.fingerprint, other.texts, other.counts.tokens)
    for name, total in one.sums.items():
        # float32 rows of other batches, added up in another order.
        torch.testing.assert_close(total, other.sums[name], rtol=1e-4, atol=1e-3)
    held_out = (each.held_out.digest.unique(dim=0) for each in (one, other))
    sample = (LabelledRows.join(each.sample).digest.unique(dim=0) for each in (one, other))
    assert torch.equal(*held_out)
    assert torch.equal(*sample)


def test_statistics_of_a_stream_are_those_of_all_its_texts(llama, tmp_path):
    found = gather(llama, windows(), tmp_path / "stats")
    states = HiddenStates(llama, encode_labelled(llama, TEXTS))
    assert_same(found, gather_statistics(states, TEXTS, Statistics.empty(llama)))
    assert_same(load_statistics(tmp_path / "stats")[0], found)
    fitted = fit(llama, name="s", out=tmp_path / "s", config=FitConfig(statistics=[tmp_path / "stats"]))
    assert fitted.held_out.sign_accuracy > 0.9


def test_a_stream_that_breaks_off_is_resumed(llama, tmp_path):
    def broken() -> Iterator[Sequence[LabelledText]]:
        yield from list(windows())[:2]
        raise DataError("the network is gone")

    with pytest.raises(DataError, match="the network is gone"):
        gather(llama, broken(), tmp_path / "stats")
    assert load_statistics(tmp_path / "stats")[0].texts == 100
    with pytest.raises(StatisticsError, match="holds statistics already"):
        gather(llama, windows(), tmp_path / "stats")
    resumed = gather(llama, windows(), tmp_path / "stats", resume=True)
    assert_same(resumed, gather(llama, windows(), tmp_path / "whole"))
    again = gather(llama, windows(), tmp_path / "stats", resume=True)  # nothing is left to read
    assert_same(again, resumed)


def test_a_window_that_fails_is_in_no_statistics(llama, tmp_path, monkeypatch):
    """Of the third window one batch is read, and the second fails: what is kept has two windows."""
    monkeypatch.setattr(activation_cache, "tokens_per_batch", lambda device: 600)
    batches = [len(HiddenStates(llama, encode_labelled(llama, window)).batches) for window in windows()]
    assert batches[2] > 1
    left = iter(range(sum(batches[:2]) + 1))

    def failing(lm, ids):
        if next(left, None) is None:
            raise DataError("out of memory")
        return compute_rows(lm, ids)

    with monkeypatch.context() as patch:
        patch.setattr(activation_cache, "compute_rows", failing)
        with pytest.raises(DataError, match="out of memory"):
            gather(llama, windows(), tmp_path / "stats")
    assert load_statistics(tmp_path / "stats")[0].texts == 100
    assert_same(gather(llama, windows(), tmp_path / "stats", resume=True), gather(llama, windows(), tmp_path / "whole"))


def test_a_stream_without_texts_is_refused_and_leaves_nothing(llama, tmp_path):
    with pytest.raises(DataError, match="no texts"):
        gather(llama, [], tmp_path / "stats")
    assert not (tmp_path / "stats").exists()


def test_windows_that_cannot_be_read_and_texts_that_are_long_are_no_errors(llama, tmp_path, capsys):
    long = [LabelledText("a" * 3 * llama.max_length, 1.0)]
    found = gather(llama, [[LabelledText("", 1.0)], *windows(), long], tmp_path / "stats")
    assert found.texts == 241
    assert "1 of 1 texts are left out" in capsys.readouterr().err


def test_another_stream_is_not_resumed(llama, make_lm, tmp_path):
    gather(llama, list(windows())[:2], tmp_path / "stats")
    other = list(reversed(TEXTS))
    with pytest.raises(StatisticsError, match="are of another stream: its texts differ"):
        gather(llama, windows(other), tmp_path / "stats", resume=True)
    with pytest.raises(StatisticsError, match="its max tokens differ"):
        gather(llama, windows(), tmp_path / "stats", max_tokens=9, resume=True)
    with pytest.raises(StatisticsError, match="its windows, texts differ"):
        gather(llama, list(windows())[:1], tmp_path / "stats", resume=True)
    with pytest.raises(WrongBaseError):
        gather(make_lm("qwen2"), windows(), tmp_path / "stats", resume=True)
    assert load_statistics(tmp_path / "stats")[0].texts == 100


def test_a_folder_of_something_else_is_left_alone(llama, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StatisticsError):
        gather(llama, windows(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_source_is_read_in_windows(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text.text, "label": text.label}) + "\n" for text in TEXTS))
    source = LabelledSource(str(file))
    found = list(source.windows(100))
    assert [len(window) for window in found] == [100, 100, 40]
    assert [text for window in found for text in window] == source.read()
    with pytest.raises(DataError, match="a limit draws from all texts"):
        next(LabelledSource(str(file), limit=5).windows(100))
