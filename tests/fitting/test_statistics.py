"""Statistics: sums that merge, extend and resume to the same fit, whatever the order."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import OutputError, StatisticsError, WrongBaseError
from lmsteer.fitting import statistics as module
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.statistics import Statistics, gather_statistics, load_statistics
from lmsteer.reading import splits as kept
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows, from_int64_pair, to_int64_pair
from lmsteer.reading.splits import held_out_of
from lmsteer.util.files import replace_folder

LONGEST = 50  # tokens; more than any text below has


def labelled(count: int, seed: int = 0) -> list[LabelledText]:
    rng = random.Random(seed)
    words = ["good", "bad", "fine", "cat", "dog", "rain", "sun"]
    return [
        LabelledText(" ".join(rng.choices(words, k=rng.randint(1, 6))) + f" {seed}-{i}", rng.choice([-1.0, 0.5, 1.0]))
        for i in range(count)
    ]


def gathered(lm, texts) -> Statistics:
    return gather_statistics(HiddenStates(lm, encode_labelled(lm, texts)), texts, Statistics.empty(lm))


def assert_same_rows(one: LabelledRows, other: LabelledRows) -> None:
    """The same texts, each with its rows side by side and in reading order."""
    (index, _), (others, _) = one.texts(), other.texts()
    assert len(torch.unique_consecutive(index)) == len(torch.unique(index))
    here, there = one[index.argsort(stable=True)], other[others.argsort(stable=True)]
    assert torch.equal(here.digest, there.digest)
    assert torch.equal(here.target, there.target)
    torch.testing.assert_close(here.h, there.h, rtol=1e-3, atol=1e-4)  # float32, padded to other lengths


def assert_same(one: Statistics, other: Statistics) -> None:
    assert one.fingerprint == other.fingerprint
    assert one.counts.texts == other.counts.texts
    assert_same_rows(one.held_out, other.held_out)
    assert_same_rows(LabelledRows.join(one.sample), LabelledRows.join(other.sample))
    for name, total in one.sums.items():
        # float32 rows of other batch sizes, summed in another order in float64.
        torch.testing.assert_close(total, other.sums[name], rtol=1e-4, atol=1e-3)


def test_sums_are_what_they_say(llama):
    texts = labelled(30)
    found = gathered(llama, texts)
    chosen = set(held_out_of(texts, encode_labelled(llama, texts)))
    others = [text for i, text in enumerate(texts) if i not in chosen]
    assert 0 < len(chosen) < len(texts)
    assert found.counts.texts == len(others)
    rows = list(gather_rows(llama, others, encode_labelled(llama, others)))
    h = torch.cat([r.h[~r.is_end] for r in rows]).double()
    r = torch.cat([r.r[~r.is_end] for r in rows]).double()
    s = torch.cat([r.label[~r.is_end] for r in rows]).double()
    torch.testing.assert_close(found.sums["G"], torch.einsum("n,ni,nj->ij", s, h, r), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.sums["D"], h.T @ r, rtol=1e-4, atol=1e-3)
    assert found.counts.ends == len(others)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 40), st.randoms())
def test_merged_statistics_are_those_of_all_texts_at_once(llama, cut, rng):
    texts = labelled(40)
    whole = gathered(llama, texts)
    rng.shuffle(texts)
    assert_same(gathered(llama, texts[:cut]).merge(gathered(llama, texts[cut:])), whole)


@pytest.mark.parametrize("limit", [20, 60])
def test_a_limit_on_held_out_rows_keeps_merging_exact(llama, monkeypatch, limit):
    monkeypatch.setattr(kept, "HELD_OUT_ROWS", limit)
    texts = labelled(80)
    whole = gathered(llama, texts)
    assert limit <= len(whole.held_out) < limit + LONGEST
    assert_same(gathered(llama, texts[:33]).merge(gathered(llama, texts[33:])), whole)
    chosen = held_out_of(texts, encode_labelled(llama, texts))
    digests = {from_int64_pair(*words) for words in whole.held_out.digest.tolist()}
    assert {texts[i].digest for i in chosen} == digests


@pytest.mark.parametrize("limit", [20, 60])
def test_the_sample_is_of_the_texts_in_the_sums(llama, monkeypatch, limit):
    monkeypatch.setattr(kept, "SAMPLE_ROWS", limit)
    texts = labelled(80)
    whole = gathered(llama, texts)
    for cut in (10, 33, 70):
        assert_same(gathered(llama, texts[:cut]).merge(gathered(llama, texts[cut:])), whole)
    sample = LabelledRows.join(whole.sample)
    assert limit <= len(sample) < limit + LONGEST
    assert not set(map(tuple, sample.digest.tolist())) & set(map(tuple, whole.held_out.digest.tolist()))


def test_a_sample_is_kept_in_blocks_of_some_size_and_bounded_in_bytes(llama, monkeypatch):
    monkeypatch.setattr(kept, "_BLOCK_ROWS", 40)
    texts = labelled(200)
    whole = gathered(llama, texts)
    sizes = [len(block) for block in whole.sample]
    assert all(one + other > 40 for one, other in itertools.pairwise(sizes))
    monkeypatch.setattr(kept, "_SAMPLE_BYTES", 60 * 8 * llama.hidden_size)
    bounded = gathered(llama, texts)
    assert 60 <= sum(map(len, bounded.sample)) < 60 + LONGEST < sum(sizes)


@given(st.integers(0, (1 << 128) - 1), st.integers(0, (1 << 128) - 1))
def test_digests_keep_their_value_and_order_as_two_words(a, b):
    assert from_int64_pair(*to_int64_pair(a)) == a
    assert (to_int64_pair(a) < to_int64_pair(b)) == (a < b)


def test_statistics_come_back_from_disk(llama, tmp_path):
    found = gathered(llama, labelled(20))
    loaded, record = load_statistics(found.save(tmp_path / "s", note=1))
    assert record["note"] == 1
    assert loaded.counts == found.counts
    assert loaded.fingerprint == found.fingerprint
    assert all(torch.equal(loaded.sums[name], total) for name, total in found.sums.items())
    assert torch.equal(LabelledRows.join(loaded.sample).h, LabelledRows.join(found.sample).h)
    assert torch.equal(loaded.held_out.h, found.held_out.h)


def test_statistics_of_another_model_are_refused(make_lm):
    one, other = gathered(make_lm("llama"), labelled(3)), gathered(make_lm("qwen3"), labelled(3))
    with pytest.raises(WrongBaseError, match="tiny-llama"):
        one.merge(other)


def test_damaged_statistics_are_told(llama, tmp_path):
    with pytest.raises(StatisticsError, match="no complete statistics in"):
        load_statistics(tmp_path)
    folder = Statistics.empty(llama).save(tmp_path / "old", format=1)
    with pytest.raises(StatisticsError, match="another version"):
        load_statistics(folder)
    folder = Statistics.empty(llama).save(tmp_path / "s")
    (folder / "statistics.json").write_text("{")
    with pytest.raises(StatisticsError, match="are damaged"):
        load_statistics(folder)
    folder = gathered(llama, labelled(5)).save(tmp_path / "cut")
    block = folder / "sample-0000.safetensors"
    block.write_bytes(block.read_bytes()[:-1])
    with pytest.raises(StatisticsError, match="are damaged"):
        load_statistics(folder)
    block.unlink()
    with pytest.raises(StatisticsError, match="missing"):
        load_statistics(folder)


def test_a_full_disk_is_told_and_the_old_statistics_survive(llama, tmp_path, monkeypatch):
    found = gathered(llama, labelled(5))
    found.save(tmp_path / "s")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OutputError, match=r"No space left on device \(.* MB are free\)"):
        Statistics.empty(llama).save(tmp_path / "s")
    assert load_statistics(tmp_path / "s")[0].counts == found.counts


def test_statistics_do_not_replace_other_things(llama, tmp_path):
    found = gathered(llama, labelled(5))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    for target in (tmp_path / "taken", tmp_path / "taken" / "thesis.txt"):
        with pytest.raises(StatisticsError, match="holds no set of statistics"):
            found.save(target)
    found.save(tmp_path / "s")
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(StatisticsError, match=r"holds notes.txt beside its set of statistics"):
        found.save(tmp_path / "s")
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "years of work"


def test_a_folder_written_aside_vanishes_on_failure(tmp_path):
    def fail() -> None:
        with replace_folder(tmp_path / "x") as aside:
            (aside / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_extended_fit_counts_every_text(llama):
    first, more = labelled(20), labelled(15, seed=1)
    extended = gather_statistics(HiddenStates(llama, encode_labelled(llama, more)), more, gathered(llama, first))
    assert_same(extended, gathered(llama, first + more))
    assert extended.texts == 35
    assert dataclasses.asdict(extended.counts)["tokens"] > 0
