"""Which row has which strengths, by vLLM's own interfaces of both model runners; `test_runners.py` has the rest."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

from lmsteer import Mix, save_steer
from lmsteer.errors import SteerError, WrongBaseError
from lmsteer.model.head import HeadShard, HeadWeight
from lmsteer.serving.vllm import logits_processor, lora, validation
from lmsteer.serving.vllm.adapter_cache import adapters_folder
from lmsteer.serving.vllm.after_head import HeadPass
from lmsteer.serving.vllm.state import STATE, WorkerState
from tiny import random_steer


@pytest.fixture
def steers(llama, tmp_path, monkeypatch):
    """Steers of three forms in the registry, and a fresh state of the process."""
    found = {}
    for k, form in enumerate(("multiply", "add", "offset")):
        made = random_steer(llama, form, seed=k)
        found[form] = type(made)(form, made.factors, made.hidden_size, made.vocabulary, llama.card(form))
        save_steer(found[form], tmp_path / form)
    monkeypatch.setenv(validation.FOLDERS, str(tmp_path))
    validation.registry.cache_clear()
    monkeypatch.setattr(STATE, "steering", WorkerState().steering)
    yield found
    validation.registry.cache_clear()


@pytest.fixture
def head(llama):
    weight = llama.head.weight
    return HeadShard(weight, 0, len(weight), len(weight))


def first_runner():
    """The processor as the first model runner makes it."""
    return logits_processor.SteerLogitsProcessor(None, torch.device("cpu"), False)


def second_runner(mode="raw_logprobs"):
    """The processor as the second model runner makes it."""
    config = SimpleNamespace(model_config=SimpleNamespace(logprobs_mode=mode), speculative_config=None)
    return logits_processor.SteerLogitsProcessor(config, SimpleNamespace(max_num_reqs=8, device=torch.device("cpu")))


def params(steers=None):
    return SamplingParams(extra_args={"steers": steers} if steers else None)


def update(size, added=(), removed=(), moved=()):
    return BatchUpdate(size, removed, [(row, params(steers), None, []) for row, steers in added], moved)


def test_new_version_of_a_steer_is_used_by_later_requests_only(steers, head, llama, tmp_path):
    route, h = (
        first_runner(),
        torch.randn(2, head.weight.shape[1]),
    )
    route.update_state(update(1, added=[(0, "multiply=1")]))
    (former,) = STATE.steering.mix(h[:1], head).steers.values()
    save_steer(replace(steers["multiply"], factors=random_steer(llama, seed=9).factors), tmp_path / "multiply")
    route.update_state(update(2, added=[(1, "multiply=2")]))
    mix = STATE.steering.mix(h, head)
    assert len(mix.steers) == 2
    assert any(steer is former for steer in mix.steers.values())
    assert sorted(mix.strengths.sum(1).tolist()) == [1, 2]
    shutil.rmtree(tmp_path / "multiply")
    route.update_state(update(2, added=[(0, "add=1")]))  # running requests keep their version
    assert [len(row) for row in acting(h, head)] == [1, 1]


def test_deleted_steer_still_steers_accepted_requests(steers, head, tmp_path):
    route = first_runner()
    asked = params("multiply=1")
    route.validate_params(asked)
    shutil.rmtree(tmp_path / "multiply")
    with pytest.raises(ValueError, match="unknown steer"):
        route.validate_params(params("multiply=1"))
    route.update_state(BatchUpdate(1, (), [(0, asked, None, [])], ()))
    assert [*STATE.steering.mix(torch.randn(1, head.weight.shape[1]), head).steers] == ["multiply"]


def test_adapters_of_this_process_stay(steers, llama, tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lora, "_MAX_KEPT", 2)
    monkeypatch.setattr(lora, "_MAX_OWN", 4)
    monkeypatch.setattr(lora, "_own", set())
    (adapters_folder() / "of another process").mkdir(parents=True)
    named = HeadWeight("tiny", "lm_head", llama.head.weight)
    mixes = [Mix({"one": steers["multiply"]}, {"one": s}) for s in (1.0, 2.0, 3.0, 4.0, 1.0)]
    made = [lora.adapter(named, llama.model, mix) for mix in mixes]
    assert made[0] == made[4]
    assert all((folder / "adapter_config.json").is_file() for folder in made)
    with pytest.raises(SteerError, match="adapters for 4 strengths already"):
        lora.adapter(named, llama.model, mixes[0].with_strengths({"one": 5.0}))


def acting(h, head):
    """The strengths of each of the next rows."""
    mix = STATE.steering.mix(h, head)
    if mix is None:
        return None
    return [{name: s for name, s in zip(mix.steers, row.tolist(), strict=True) if s} for row in mix.strengths]


def test_added_removed_and_moved_rows_keep_their_strengths(steers, head):
    route, h = (
        first_runner(),
        torch.randn(3, head.weight.shape[1]),
    )
    route.update_state(update(3, added=[(0, "multiply=1"), (1, None), (2, "add=2")]))
    assert acting(h, head) == [{"multiply": 1}, {}, {"add": 2}]
    route.update_state(update(3, moved=[(0, 1, MoveDirectionality.SWAP)]))
    assert acting(h, head)[1] == {"multiply": 1}
    route.update_state(update(2, removed=[1], moved=[(2, 1, MoveDirectionality.UNIDIRECTIONAL)]))
    assert acting(h[:2], head) == [{}, {"add": 2}]
    route.update_state(None)
    assert acting(h[:2], head) == [{}, {"add": 2}]
    route.update_state(update(2, added=[(1, None)]))
    assert acting(h[:2], head) is None


def test_steer_of_another_head_is_refused(steers, head):
    route = first_runner()
    route.update_state(update(1, added=[(0, "multiply=1")]))
    other = HeadShard(head.weight + 1, 0, head.rows, head.rows)
    with pytest.raises(WrongBaseError, match="another than that of the model at hand"):
        acting(torch.randn(1, head.weight.shape[1]), other)


def test_part_of_the_head_is_enough_for_the_check(llama, steers, head):
    half = head.rows // 2
    for first, last in ((0, half), (half, head.rows)):
        HeadShard(head.weight[first:last], first, last, head.rows).check(steers["multiply"])
    with pytest.raises(WrongBaseError):
        HeadShard(head.weight[:half], half, head.rows, head.rows).check(steers["multiply"])


def test_second_runner_steers_the_logits(steers, head):
    """Slots are in another order than rows, one has left, and the strengths of all forms count."""
    route = second_runner()
    asked = {4: "multiply=1.5,offset=-2", 0: None, 2: "add=3,multiply=-1"}
    for slot, steers_asked in {2: "offset=9", **asked}.items():
        assert route.add_request(slot, params(steers_asked)) == bool(steers_asked)
    slots = [0, 4, 2, 4]
    h = torch.randn(len(slots), head.weight.shape[1])
    logits = h @ head.weight.T
    STATE.steering.remember(HeadPass(h, head, None, logits.clone(), lambda z: z, lambda part: part))
    mapping = torch.tensor(slots)
    context = LogitsContext(mapping, mapping, mapping.numpy(), mapping, mapping, mapping, mapping.numpy())
    found = route.apply(logits.clone(), context)
    strengths = {"multiply": [0, 1.5, -1, 1.5], "add": [0, 0, 3, 0], "offset": [0, -2, 0, -2]}
    mix = Mix(steers, strengths)
    expected = mix.steer_logits(mix.steer_hidden_states(h) @ head.weight.T)
    # float32: products in another order.
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(found[0], logits[0])


def test_steers_are_refused_if_there_are_none(monkeypatch):
    monkeypatch.delenv(validation.FOLDERS, raising=False)
    validation.registry.cache_clear()
    logits_processor.SteerLogitsProcessor.validate_params(params())
    with pytest.raises(ValueError, match="LMSTEER_STEERS is empty"):
        logits_processor.SteerLogitsProcessor.validate_params(params("sentiment=1"))


def test_missing_folders_are_refused_at_start(monkeypatch, tmp_path):
    monkeypatch.setenv(validation.FOLDERS, str(tmp_path / "nowhere"))
    validation.registry.cache_clear()
    with pytest.raises(SteerError, match="neither a folder nor an id of the Hub"):
        validation.registry()
    validation.registry.cache_clear()
