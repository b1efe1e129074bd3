"""The main job on the real default model: fit, read, generate, verify."""

from __future__ import annotations

import pytest

from lmsteer.data.labelled import LabelledText, read_labelled, sample_texts
from lmsteer.data.starter import starter_texts
from lmsteer.demo.run import run as run_demo
from lmsteer.evaluation.scorers import Vader
from lmsteer.evaluation.strength_curve import strength_curve
from lmsteer.fitting.fit import Fit, fit
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.model.lm import LM
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.held_out import measure_held_out
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.verify import verify

pytestmark = pytest.mark.model


def test_the_starter_steer_reads_is_proved_and_moves_text_both_ways(smollm2, tmp_path):
    texts = starter_texts("sentiment")[:350]  # half of them
    fitted = fit(smollm2, texts, name="sentiment", out=tmp_path / "s")
    _check_reading(fitted)
    _check_proof(smollm2, fitted, texts)
    _check_writing(smollm2, fitted)


def _check_reading(fitted: Fit) -> None:
    assert fitted.held_out.texts > 30
    assert fitted.held_out.sign_accuracy >= 0.8
    assert fitted.held_out.log_likelihood_gain >= 0.02
    assert fitted.held_out.log_likelihood_gain_without_eos > 0


def _check_proof(lm: LM, fitted: Fit, texts: list[LabelledText]) -> None:
    done = verify(lm, fitted.steer, texts)
    assert done.acts, done.checks
    assert done.held_out is not None
    assert done.held_out.sign_accuracy == pytest.approx(fitted.held_out.sign_accuracy)


def _check_writing(lm: LM, fitted: Fit) -> None:
    prompts = ["The weather this morning", "My first week at the office was", "We watched the film and", "The house is"]
    settings = [{"sentiment": s} for s in (-6.0, 0.0, 6.0)]
    rows = list(generate(lm, prompts, {"sentiment": fitted.steer}, settings, GenerationConfig(8, 20, score=True)))
    low, base, high = strength_curve(rows, "sentiment", Vader())
    assert low.positive_share < base.positive_share < high.positive_share
    assert high.positive_share > 0.85
    assert high.perplexity < 3 * base.perplexity


@pytest.mark.slow
def test_formality_fits_too(smollm2, tmp_path):
    done = fit(smollm2, sample_texts(starter_texts("formality"), 200, 0), name="formality", out=tmp_path / "f")
    assert done.held_out.sign_accuracy > 0.7
    assert done.held_out.log_likelihood_gain > 0


@pytest.mark.slow
def test_a_quick_demo_writes_one_self_contained_page(tmp_path):
    done = run_demo("smollm2", tmp_path / "demo", quick=True)
    page = done.report.read_text(encoding="utf-8")
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/svg+xml;base64,") == 2
    assert (tmp_path / "demo" / "sentiment" / "steer.json").is_file()


@pytest.mark.slow
def test_steer_fitted_on_sst5_reads_sst2(shared, smollm2, tmp_path):
    train = sample_texts(read_labelled(shared / "sst5_train.jsonl.gz"), 2000, seed=0)
    fitted = fit(smollm2, train, name="sst", out=tmp_path / "sst")
    dev = read_labelled(shared / "sst2_dev.jsonl.gz")
    rows = LabelledRows.join(list(gather_rows(smollm2, dev, encode_labelled(smollm2, dev))))
    metrics = measure_held_out(smollm2, rows, fitted.steer)
    assert metrics.sign_accuracy >= 0.8
    assert metrics.log_likelihood_gain >= 0.02
