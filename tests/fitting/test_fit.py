"""fit: end to end on a tiny model, interrupted, resumed, extended."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import pytest
import torch

from lmsteer.data.labelled import LabelledSource, LabelledText
from lmsteer.errors import DataError, InterruptedWorkError, WrongBaseError
from lmsteer.fitting import activation_cache as store_module
from lmsteer.fitting import fit_gradient as module
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.gradient import GradientConfig
from lmsteer.fitting.run import Checkpointer, HeldOutReporter
from lmsteer.steer.files import load_steer
from lmsteer.util.distributed import Processes
from tiny import styled

TEXTS = styled(240)
SETTINGS = GradientConfig(steps=8, batch_size=8, rank=4, epsilon=0.1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_a_fit_is_saved_with_its_card_and_reads_its_texts(llama, tmp_path):
    done = fit(llama, TEXTS, name="letters", label="early letters", source=LabelledSource("styled"))
    card = load_steer(tmp_path / "steers" / "letters").card
    assert card == done.steer.card
    assert (card.label, card.data["texts"], card.data["source"]["path"]) == ("early letters", 240, "styled")
    assert card.fit["method"] == "closed-form"
    assert done.held_out.log_likelihood_gain > 0.1
    assert done.held_out.sign_accuracy > 0.9
    assert card.held_out == done.held_out.to_json()
    assert sorted(p.name for p in (tmp_path / "steers").iterdir()) == ["letters"]


def test_merged_and_extended_statistics_give_the_fit_of_all_texts(llama):
    whole = fit(llama, TEXTS, name="whole")
    fit(llama, TEXTS[::2], name="a", config=FitConfig(save_statistics="stats/a"))
    fit(llama, TEXTS[1::2], name="b", config=FitConfig(save_statistics="stats/b"))
    merged = fit(llama, name="m", config=FitConfig(statistics=["stats/a", "stats/b"]))
    extended = fit(llama, TEXTS[1::2], name="e", config=FitConfig(statistics=["stats/a"]))
    for other in (merged, extended):
        assert other.steer.card.data["fingerprint"] == whole.steer.card.data["fingerprint"]
        assert other.steer.card.data["texts"] == 240
        # The same sums in another order, then two solves in float64.
        torch.testing.assert_close(other.steer.matrix(), whole.steer.matrix(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["closed-form", "gradient"])
def test_an_interrupted_fit_goes_on_to_the_same_steer(llama, tmp_path, monkeypatch, method):
    whole = fit(llama, TEXTS, name="whole", config=FitConfig(method, gradient=SETTINGS))
    calls = 0
    real = {"closed-form": store_module.compute_rows, "gradient": module.train}[method]

    def stopped(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if method == "gradient":
            training, store, head, count, after = args

            def after_step(number: int, loss: float) -> None:
                after(number, loss)
                if number == 3:
                    raise KeyboardInterrupt

            return real(training, store, head, count, after_step)
        if calls > 1:
            raise KeyboardInterrupt
        return real(*args, **options)

    where = (store_module, "compute_rows") if method == "closed-form" else (module, "train")
    with monkeypatch.context() as patch:
        patch.setattr(*where, stopped)
        with pytest.raises(InterruptedWorkError, match="--resume"):
            fit(llama, TEXTS, name="s", config=FitConfig(method, gradient=SETTINGS))
    assert (tmp_path / "steers" / "s.partial").exists()
    with pytest.raises(DataError, match="another set of texts"):
        fit(llama, TEXTS[1:], name="s", config=FitConfig(method, gradient=SETTINGS, resume=True))
    assert (tmp_path / "steers" / "s.partial").exists()
    resumed = fit(llama, TEXTS, name="s", config=FitConfig(method, gradient=SETTINGS, resume=True))
    torch.testing.assert_close(resumed.steer.matrix(), whole.steer.matrix(), rtol=1e-3, atol=1e-4)
    assert not (tmp_path / "steers" / "s.partial").exists()


def test_the_gradient_method_saves_its_domain_steer(llama, tmp_path):
    done = fit(llama, TEXTS, name="g", config=FitConfig("gradient", gradient=dataclasses.replace(SETTINGS, steps=80)))
    assert load_steer(tmp_path / "steers" / "g-domain").card.name == "g-domain"
    assert done.held_out.log_likelihood_gain > 0.1


def test_labels_0_and_1_are_warned_of_where_no_source_tells(llama):
    texts = [dataclasses.replace(text, label=max(text.label, 0.0)) for text in TEXTS[::30]]
    with pytest.warns(UserWarning, match="go from 0 to 1, which is half of the dimension"):
        fit(llama, texts, name="x")
    fit(llama, texts, name="y", source=LabelledSource("x", label_map={"no": 0.0, "yes": 1.0}))


def test_what_no_steer_can_be_fitted_on_is_refused(llama, make_lm, tmp_path):
    with pytest.raises(DataError, match="nothing to fit"):
        fit(llama, name="x")
    with pytest.raises(DataError, match="needs at least two"):
        fit(llama, [LabelledText("one", 1.0)], name="x")
    with pytest.raises(DataError, match="every label"):
        fit(llama, [LabelledText(str(i), 1.0) for i in range(9)], name="x")
    long = [LabelledText("a" * 3000, 1.0), LabelledText("b", -1.0)]
    with pytest.raises(DataError, match="longer than the model's context"):
        fit(llama, long, name="x")
    fit(llama, TEXTS, name="x", config=FitConfig(save_statistics="stats"))
    with pytest.raises(WrongBaseError, match="statistics was fitted on 'tiny-llama'"):
        fit(make_lm("qwen3"), name="y", config=FitConfig(statistics=["stats"]))
    assert not (tmp_path / "steers" / "y").exists()


def test_long_texts_are_cut_when_asked(llama):
    done = fit(llama, [*TEXTS, LabelledText("abc " * 900, 1.0)], name="x", config=FitConfig(max_tokens=64))
    assert done.steer.card.fit["max_tokens"] == 64


def test_of_several_processes_only_the_first_solves_and_the_others_read_its_steer(llama, tmp_path, monkeypatch):
    alone = fit(llama, TEXTS, name="s", out=tmp_path / "s")
    monkeypatch.setattr(Processes, "wait_for_everyone", lambda self: None)
    monkeypatch.setattr(Processes, "main_process_first", lambda self: nullcontext())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the second process solved")

    monkeypatch.setattr("lmsteer.fitting.fit_closed_form.solve", refuse)
    second = fit(llama, TEXTS, name="s", out=tmp_path / "s", config=FitConfig(processes=Processes(1, 2)))
    assert all(torch.equal(second.steer.factors[name], factor) for name, factor in alone.steer.factors.items())
    assert second.held_out.to_json() == alone.held_out.to_json()
    assert second.statistics is None


def test_settings_that_do_not_go_together_are_refused(llama, tmp_path):
    for config, message in (
        (FitConfig("newton"), "closed-form or gradient"),
        (FitConfig(rank=33), "from 1 to the model's hidden size, 32"),
        (FitConfig("gradient", save_statistics=tmp_path), "closed form only"),
        (FitConfig("gradient", processes=Processes(0, 2)), "for one process"),
        (FitConfig(cache_activations=True, processes=Processes(0, 2)), "for one process"),
    ):
        with pytest.raises(DataError, match=message):
            fit(llama, TEXTS, name="x", config=config)


def test_checkpoints_and_reports_come_when_they_are_due(monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr("lmsteer.fitting.run.time.monotonic", lambda: now[0])
    checkpointer = Checkpointer(lambda: saved.append(now[0]), every=60)
    reporter = HeldOutReporter(lambda: f"at {now[0]:g}", every=10)
    messages = []
    for now[0] in (5.0, 11.0, 20.0, 61.0, 90.0):
        checkpointer.step()
        messages.append(reporter.message())
    assert saved == [61.0]
    assert messages == ["", "at 11", "at 11", "at 61", "at 90"]
    reporter.renew()
    assert reporter.latest == "at 90"
