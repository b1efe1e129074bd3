"""Any classifier of transformers as a scorer: the class that was named, on tiny random models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from lmsteer.errors import DataError, ModelError
from lmsteer.evaluation.scorers import hub, scorer
from tiny import tiny_tokenizer

THREE = ("bad", "neutral", "good")
TEXTS = ["abc", "a longer one, which exceeds the context of sixteen tokens", "", "ab"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "bert": {**SMALL, "max_position_embeddings": 16},
    "roberta": {**SMALL, "max_position_embeddings": 16},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "pad_token_id": None},
}
# Tokens that are read of sixteen positions: RoBERTa's begin at 2, and any other model might do so.
READ = 14


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def made(family: str = "bert", names: tuple[str, ...] = THREE, **settings) -> Path:
        folder = tmp_path_factory.mktemp("classifier") / f"{family}=tiny"
        torch.manual_seed(0)
        given = {**FAMILIES[family], "id2label": dict(enumerate(names)), **settings}
        config = AutoConfig.for_model(family, vocab_size=259, initializer_range=0.3, **given)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return made


@torch.no_grad()
def logits(folder: Path, text: str) -> torch.Tensor:
    """Of one text alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model(torch.tensor([tiny_tokenizer()(text)["input_ids"][:READ]])).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_probability_of_the_class_that_was_named(family, make):
    folder = make(family)
    by_class = [scorer(f"hf:{folder}={name}").scores(TEXTS) for name in THREE]
    for i, text in enumerate(TEXTS):
        if text:
            expected = logits(folder, text).softmax(-1).tolist()
            assert [scores[i] for scores in by_class] == pytest.approx(expected, abs=1e-5)
    assert [scores[2] for scores in by_class] == [0.5, 0.5, 0.5]  # no tokens, no verdict


def test_a_text_is_cut_where_the_tokenizer_says(make):
    folder = make()
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 3
    tokenizer.save_pretrained(folder)
    classifier = scorer(f"hf:{folder}=good")
    assert classifier.scores(["abc and more"]) == pytest.approx(classifier.scores(["abc"]))
    assert classifier.scores(["ab"]) != pytest.approx(classifier.scores(["abc"]), abs=1e-4)


def test_scores_do_not_depend_on_the_batch(make):
    classifier = scorer(f"hf:{make()}=good")
    assert classifier.scores(TEXTS[::-1])[::-1] == pytest.approx(classifier.scores(TEXTS), abs=1e-6)
    assert [classifier.scores([text])[0] for text in TEXTS] == pytest.approx(classifier.scores(TEXTS), abs=1e-6)
    assert classifier.scores([]) == []
    assert classifier.name.startswith("hf:")
    assert classifier.metrics == ()


def test_of_two_classes_the_second_need_not_be_named(make):
    folder = make(names=("NEGATIVE", "POSITIVE"))
    by_default, by_name, other = (scorer(f"hf:{folder}{end}").scores(TEXTS) for end in ("", "=POSITIVE", "=NEGATIVE"))
    assert by_default == by_name
    assert [a + b for a, b in zip(by_default, other, strict=True)] == pytest.approx([1] * len(TEXTS))


@pytest.mark.parametrize(
    ("names", "settings"), [(("toxic", "insult"), {"problem_type": "multi_label_classification"}), (("toxic",), {})]
)
def test_labels_that_exclude_nothing_have_probabilities_of_their_own(names, settings, make):
    folder = make(names=names, **settings)
    assert scorer(f"hf:{folder}=toxic").scores(["abc"])[0] == pytest.approx(float(logits(folder, "abc")[0].sigmoid()))
    with pytest.raises(DataError, match="one of toxic"):
        scorer(f"hf:{folder}")


def test_classes_that_are_not_there_are_refused(make):
    folder = make()
    for name in (f"hf:{folder}", f"hf:{folder}=great"):
        with pytest.raises(DataError, match="one of bad, neutral, good"):
            scorer(name)
    with pytest.raises(DataError, match="is a regression"):
        scorer(f"hf:{make(names=('score',), problem_type='regression')}=score")


def test_what_is_no_classifier_is_refused(make, tmp_path):
    with pytest.raises(ModelError, match="cannot load the classifier"):
        scorer(f"hf:{tmp_path}")
    AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=259, **FAMILIES["bert"])).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks 2 tensors of BertForSequenceClassification \(classifier.bias"):
        scorer(f"hf:{tmp_path}")


def test_a_damaged_classifier_is_refused(make):
    file = make() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot load the classifier"):
        scorer(f"hf:{file.parent}=good")


def test_a_classifier_goes_to_the_accelerator(make, monkeypatch):
    """The meta device stands in for one."""
    monkeypatch.setattr(hub, "accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(hub, "model_fingerprint", lambda model: str(model.device))
    folder = make()
    assert scorer(f"hf:{folder}=good").fingerprint == "meta"
    assert hub.Classifier(f"{folder}=good", torch.device("cpu")).fingerprint == "cpu"


@pytest.mark.parametrize("name", ["someone/a:b", "a b", "/nowhere/at/all", "./missing"])
def test_a_name_that_no_classifier_can_have_is_refused_in_words(name):
    with pytest.raises(ModelError, match=r"no such file or folder|names no model"):
        scorer(f"hf:{name}=good")
