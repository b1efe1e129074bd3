"""The activation cache gives the rows that the model gives, whatever happened to its files, and keeps its limit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmsteer.errors import ModelError, StatisticsError
from lmsteer.fitting import activation_cache as module
from lmsteer.fitting.activation_cache import HiddenStates, open_activation_cache
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.gradient import TextRows
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.util.disk_cache import clear, entries
from tiny import styled

TEXTS = styled(300)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def ids(llama) -> list[list[int]]:
    return encode_labelled(llama, TEXTS)


def stored(lm, ids) -> tuple[HiddenStates, list[Path]]:
    folder = open_activation_cache(lm, ids)
    states = HiddenStates(lm, ids, folder)
    for number in range(len(states.batches)):
        states.states(number)
    return states, sorted(folder.glob("*.safetensors"))


def forbid_the_model(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(module, "compute_rows", refuse)


def test_what_is_read_is_what_was_kept(llama, ids, monkeypatch):
    plain = HiddenStates(llama, ids)
    fresh = [plain.rows(number, TEXTS) for number in range(len(plain.batches))]
    states, files = stored(llama, ids)
    assert len(files) == len(fresh) > 1
    forbid_the_model(monkeypatch)
    for number, rows in enumerate(fresh):
        assert all(torch.equal(value, vars(rows)[name]) for name, value in vars(states.rows(number, TEXTS)).items())


def test_the_order_of_texts_does_not_matter(llama, ids, monkeypatch):
    forwards, _ = stored(llama, ids)
    forbid_the_model(monkeypatch)
    backwards = HiddenStates(llama, ids[::-1], open_activation_cache(llama, ids[::-1]))
    for number in range(len(forwards.batches)):
        assert torch.equal(forwards.rows(number, TEXTS).digest, backwards.rows(number, TEXTS[::-1]).digest)


@pytest.mark.parametrize("harm", ["cut", "emptied", "gone", "swapped"])
def test_a_harmed_file_is_computed_again_and_only_that(llama, ids, monkeypatch, harm):
    _, files = stored(llama, ids)
    expected = HiddenStates(llama, ids).states(0)
    content = files[0].read_bytes()
    if harm == "gone":
        files[0].unlink()
    else:
        other = files[1].read_bytes()
        files[0].write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "swapped": other}[harm])
    calls, real = [], module.compute_rows
    monkeypatch.setattr(module, "compute_rows", lambda *args: calls.append(1) or real(*args))
    again = HiddenStates(llama, ids, files[0].parent)
    assert all(torch.equal(value, vars(expected)[name]) for name, value in vars(again.states(0)).items())
    again.states(1)
    assert len(calls) == 1
    assert files[0].stat().st_size == len(content)  # mended on disk, too


def test_ids_of_other_texts_have_another_cache_in_whatever_order(llama, ids):
    assert open_activation_cache(llama, ids) == open_activation_cache(llama, ids[::-1])
    assert open_activation_cache(llama, ids) != open_activation_cache(llama, ids[1:])
    assert open_activation_cache(llama, [[1, 2], [3]]) != open_activation_cache(llama, [[1], [2, 3]])


def test_another_model_has_another_store(llama, make_lm, ids):
    assert open_activation_cache(llama, ids) != open_activation_cache(make_lm("qwen2"), ids)


def test_a_fit_from_the_store_is_the_fit_and_another_labelling_runs_no_model(llama, monkeypatch):
    plain = fit(llama, TEXTS, name="plain")
    first = fit(llama, TEXTS, name="first", config=FitConfig(cache_activations=True))
    assert torch.equal(first.steer.matrix(), plain.steer.matrix())
    forbid_the_model(monkeypatch)
    again = fit(llama, TEXTS, name="again", config=FitConfig(cache_activations=True))
    assert torch.equal(again.steer.matrix(), plain.steer.matrix())  # identity 5, bit for bit
    reversed_labels = [replace(text, label=-text.label) for text in TEXTS]
    other = fit(llama, reversed_labels, name="reversed_labels", config=FitConfig(cache_activations=True))
    assert float((other.steer.matrix() * plain.steer.matrix()).sum()) < 0


def test_stores_are_bounded(llama, ids, monkeypatch, capsys):
    _, files = stored(llama, ids)
    size = sum(file.stat().st_size for file in files)
    monkeypatch.setenv("LMSTEER_STORE_GB", str(size * 0.5e-9))
    with pytest.raises(StatisticsError, match="LMSTEER_STORE_GB"):
        open_activation_cache(llama, ids)
    monkeypatch.setenv("LMSTEER_STORE_GB", str(size * 1.5e-9))
    os.utime(files[0].parent / "states.json", (0, 0))
    more = encode_labelled(llama, styled(300, seed=1))
    second = open_activation_cache(llama, more)
    assert "unused for longest" in capsys.readouterr().err
    assert [entry.path for entry in entries() if entry.kind == "states"] == [second]


def test_a_full_disk_does_not_stop_a_fit(llama, ids, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    folder = open_activation_cache(llama, ids)
    monkeypatch.setattr(module, "save_file", full)
    states = HiddenStates(llama, ids, folder)
    assert len(states.states(0).target) == len(HiddenStates(llama, ids).states(0).target)
    states.states(1)
    assert capsys.readouterr().err.count("continuing without") == 1
    assert [file.name for file in folder.iterdir()] == ["states.json"]


def test_a_store_cleared_while_in_use_stays_cleared(llama, ids):
    folder = open_activation_cache(llama, ids)
    states = HiddenStates(llama, ids, folder)
    states.states(0)
    clear("states")
    assert len(states.states(1).target) > 0
    assert not folder.exists()


def test_a_limit_that_is_no_number_is_refused(llama, ids, monkeypatch):
    monkeypatch.setenv("LMSTEER_STORE_GB", "10GB")
    with pytest.raises(StatisticsError, match="number of gigabytes"):
        open_activation_cache(llama, ids)


def test_single_texts_come_from_the_store_or_are_run_alone(llama, ids, monkeypatch):
    wanted, runs, real = [3, 40, 250], [], module.compute_rows
    monkeypatch.setattr(module, "compute_rows", lambda lm, some: runs.append(len(some)) or real(lm, some))
    alone = TextRows(HiddenStates(llama, ids), TEXTS).rows(wanted)
    assert runs == [3]
    _, files = stored(llama, ids)
    forbid_the_model(monkeypatch)
    kept = TextRows(HiddenStates(llama, ids, files[0].parent), TEXTS).rows(wanted)
    assert torch.equal(kept.target, alone.target)
    assert torch.equal(kept.digest, alone.digest)
    torch.testing.assert_close(kept.h, alone.h, rtol=1e-4, atol=1e-5)  # float32, another batch


def test_the_cache_is_listed_and_cleared(llama, ids):
    stored(llama, ids)
    (entry,) = entries()
    assert entry.kind == "states"
    assert entry.contents.startswith("300 texts")
    assert entry.size > 4 * 2 * 32 * sum(len(text) - 1 for text in ids)
    with pytest.raises(ModelError, match="kind 'everything'"):
        clear("everything")
    assert clear("models") == []
    assert clear("all") == [entry]
    assert entries() == []
