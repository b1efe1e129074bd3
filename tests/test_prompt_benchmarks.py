"""What the benchmarks of prompts measure with: contrasted tokens, states after prompts, imitation, loops."""

from __future__ import annotations

import pytest
import torch

from benchmarks.contrast import Asked, contexts
from benchmarks.prompted import Answers
from benchmarks.written import SCORERS, Writer, is_looping, result_of
from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.evaluation.conditions import BaselineCondition, Condition, Prefixed, Steered, Unsteered
from lmsteer.evaluation.ensembles import Ensemble
from lmsteer.generation.config import GenerationConfig
from lmsteer.steer.mix import Mix
from lmsteer.util.progress import no_progress
from lmsteer.util.provenance import provenance_of
from tiny import inner_steer, random_steer, tiny_lm

PROMPTS = ["The cat sat", "A very long prompt, this", "B"]
CONFIG = GenerationConfig(num_samples=3, max_new_tokens=8, batch_size=9)
PREFIXED = Prefixed("p", "p", 1.0, "glad: ", Unsteered())


@pytest.fixture(scope="module")
def lm():
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def instructed(lm):
    return lm.encode(["glad: ", "very sad: "], special=False)


def written(lm, condition: Condition) -> list[str]:
    return condition.generate(lm, PROMPTS, condition.prefill(lm, PROMPTS, CONFIG.max_new_tokens), CONFIG)


def test_contrasted_tokens_without_a_contrast_are_unsteered(lm, instructed):
    plain = written(lm, Unsteered())

    def contrasted(strength, instructed):
        return written(lm, Ensemble("c", "c", strength, contexts("token", strength, instructed)))

    assert contrasted(0.0, instructed) == plain
    assert contrasted(1.0, [instructed[0]] * 2) == plain
    assert contrasted(2.0, instructed) != plain


def test_an_instruction_that_is_read_once_is_a_prefix(lm, instructed):
    assert written(lm, Asked("a", "a", 1.0, instructed)) == written(lm, PREFIXED)
    guided = Ensemble("g", "g", 1.0, contexts("guidance", 1.0, instructed))  # at 1 it is the instruction alone
    assert written(lm, guided) == written(lm, PREFIXED)


def test_states_are_those_that_predict_the_texts(lm):
    texts = lm.encode(["hello there", "x yz", "abc"], special=False)
    answers = Answers(lm, PROMPTS, texts)
    own = [
        lm.hidden_states(torch.tensor([[*prompt, *text]]), torch.ones(1, len(prompt) + len(text)))[0]
        for prompt, text in zip(lm.encode(PROMPTS), texts, strict=True)
    ]
    expected = torch.cat([h[-len(text) - 1 : -1] for h, text in zip(own, texts, strict=True)])
    plain = answers.states(Unsteered())
    assert torch.allclose(plain, expected, atol=1e-5)  # float32 rounds to 1e-6
    steer = random_steer(lm)
    steered = answers.states(Steered("s", "s", 2.0, {"s": steer}, {"s": 2.0}))
    assert torch.allclose(steered, plain + 2 * plain @ steer.matrix(), atol=1e-4)
    inside = inner_steer(lm, ["layers.0"])
    found = answers.states(Steered("s", "s", 2.0, {"s": inside}, {"s": 2.0}))
    read = [
        lm.predicting([[*prompt, *text]], Mix({"s": inside}, {"s": 2.0}))[0][-len(text) :]
        for prompt, text in zip(lm.encode(PROMPTS), texts, strict=True)
    ]
    assert torch.allclose(found, torch.cat(read), atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_a_lora_learns_to_imitate_a_prompt(lm):
    answers = Answers(lm, PROMPTS, lm.encode(["hello there", "x yz", "abc"], special=False))
    wanted = answers.states(PREFIXED)
    trainer = LoRATrainer(lm, "all")
    answers.teach(trainer, wanted, 20, 3, no_progress)
    made = BaselineCondition("l", "l", 1.0, trainer.baseline(BaselineCard(method="lora", **provenance_of(lm))))
    assert answers.divergence(wanted, wanted) == pytest.approx(0, abs=1e-6)
    assert (
        answers.divergence(wanted, answers.states(made)) < answers.divergence(wanted, answers.states(Unsteered())) / 2
    )


def test_continuations_are_kept(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(Writer, "_scorers", {name: _Even() for name in SCORERS})
    writer = Writer(lm, PROMPTS, CONFIG, tmp_path)
    figures = writer.figures(Unsteered())
    assert result_of(figures).continuations == 9
    assert figures["positive"][SCORERS[0]]["mean"] == 1
    monkeypatch.setattr(Unsteered, "continuations", None)
    assert writer.figures(Unsteered()) == figures


class _Even:
    """A scorer that finds everything positive."""

    def scores(self, texts):
        return [0.9 for _ in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("sail sail sail", True), ("to be or not to be or not", True), ("sail, sail and sail", False), ("", False)],
)
def test_loops(text, expected):
    assert is_looping(text) == expected
