"""Models over several devices, and on a GPU: the same numbers as on one CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import lmsteer
from lmsteer.baselines.activations import Activations, difference_of_means
from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.embeddings import Embeddings
from lmsteer.baselines.full import FullBaseline
from lmsteer.baselines.lora import LoRABaseline
from lmsteer.data.instructions import Instruction
from lmsteer.errors import ModelError
from lmsteer.fitting import run
from lmsteer.fitting.fit import FitConfig
from lmsteer.fitting.gradient import GradientConfig
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.unconditional import sample_unconditional
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.compress import compress
from lmsteer.gist.config import GistCondition
from lmsteer.gist.examples import encode_examples
from lmsteer.gist.forward import output_loss
from lmsteer.gist.generation import generate_from_gists
from lmsteer.gist.lookup import GistCard
from lmsteer.model.batching import pad
from lmsteer.model.kv_cache import Start, inputs_of, prefill, slice_kv, stack_kv
from lmsteer.model.layers import layer_devices
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRA, body_layers, from_tensors, to_tensors
from lmsteer.reading.verify import verify
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import model_layers
from lmsteer.util.provenance import provenance_of
from pretended import FIRST, HOST, SECOND, execute_on, move, pretended_devices
from tiny import random_steer, styled, tiny_lm, tiny_model, tiny_tokenizer

TEXTS = ["A quick test.", "Something else entirely", "x!"]
CONFIG = GenerationConfig(num_samples=2, max_new_tokens=5, score=True)


def test_devices_that_are_pretended_refuse_to_be_mixed():
    with pretended_devices():
        x = torch.arange(3, device=FIRST)
        assert (x.device, (x + 1).device, x.to(SECOND).device, x.cpu().device) == (FIRST, FIRST, SECOND, HOST)
        assert (x.to(SECOND) + x.to(SECOND)).tolist() == [0, 2, 4]
        assert torch.tensor([1], device=SECOND).device == SECOND
        for other in (x.to(SECOND), x.cpu()):
            with pytest.raises(RuntimeError, match="expected all tensors on one device"):
                x + other


@pytest.fixture(params=["tied", "untied"])
def two_devices(request) -> Iterator[tuple[LM, LM]]:
    """A model over two devices, as accelerate splits it, and the same one on one.

    A head that is tied to the input embedding is on the first device, behind layers on the second.
    """
    tied = request.param == "tied"
    one, model = (tiny_model("llama", tie_word_embeddings=tied) for _ in range(2))
    with pretended_devices():
        for part, device in (
            (model.model.embed_tokens, FIRST),
            (model.model.layers[0], FIRST),
            (model.model.layers[1], SECOND),
            (model.model.norm, SECOND),
            (model.lm_head, FIRST if tied else SECOND),
        ):
            move(part, device)
            execute_on(part, device)
        move(model, FIRST)
        if tied:
            model.lm_head.weight = model.model.embed_tokens.weight
        execute_on(model, FIRST, returns=FIRST)
        yield LM(model, tiny_tokenizer(), "two"), LM(one, tiny_tokenizer(), "one")


def test_hidden_states_and_likelihoods_are_on_the_heads_device(two_devices):
    two, one = two_devices
    assert layer_devices(two) == [FIRST, SECOND]
    assert two.device == FIRST
    assert two.fingerprint == one.fingerprint
    encoded = two.encode(TEXTS)
    ids, mask = pad(encoded, 0, two.device)
    h = two.hidden_states(ids, mask)
    assert h.device == two.head.device
    torch.testing.assert_close(h.cpu(), one.hidden_states(ids.cpu(), mask.cpu()))
    found, expected = (lm.head.residuals(*lm.predicting(encoded)) for lm in (two, one))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)
    h, y = one.predicting(encoded)  # rows and targets may come from elsewhere
    torch.testing.assert_close(two.head.log_likelihood(h, y).cpu(), expected[1])


@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
def test_a_steered_model_over_two_devices_writes_and_scores_the_same(two_devices, form):
    two, one = two_devices
    steers = {"s": random_steer(one, form)}
    for strengths in (-2.0, 2.0):
        texts = [list(generate(lm, ["ab", "abc"], steers, [{"s": strengths}], CONFIG)) for lm in (two, one)]
        assert [row.text for row in texts[0]] == [row.text for row in texts[1]]
        assert [row.log_p for row in texts[0]] == pytest.approx([row.log_p for row in texts[1]], abs=1e-4)


def test_text_that_a_model_over_two_devices_samples_is_the_same(two_devices):
    (h, drawn), (expected_h, expected) = (sample_unconditional(lm, texts=3, tokens=5, seed=0) for lm in two_devices)
    assert drawn.tolist() == expected.tolist()
    torch.testing.assert_close(h.cpu(), expected_h)


def random_tensors(shapes, size=0.2):
    drawn = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=drawn) * size for name, shape in shapes.items()}


def random_lora(lm):
    factors = to_tensors(LoRA(lm, body_layers(lm), 2, seed=0).factors())
    return random_tensors({name: factor.shape for name, factor in factors.items()})


@torch.inference_mode()
def test_loras_changed_weights_and_embeddings_follow_their_layers(two_devices):
    two, one = two_devices
    weights = {name: parameter.shape for name, parameter in one.model.named_parameters()}
    ids, strengths = one.encode(TEXTS), [1.0, -0.5, 2.0]
    for kind, tensors in (
        (LoRABaseline, random_lora(one)),
        (FullBaseline, random_tensors(weights, 0.05)),
        (Embeddings, random_tensors({"change": one.head.weight.shape})),
        (Activations, random_tensors({"direction.0": (32,), "direction.1": (32,)})),
    ):
        baseline = kind(BaselineCard(method=kind.__name__, **provenance_of(one)), tensors)
        expected = baseline.log_likelihoods(one, ids, strengths)
        torch.testing.assert_close(baseline.log_likelihoods(two, ids, strengths), expected)
        assert not torch.allclose(expected, baseline.log_likelihoods(one, ids, [0.0] * 3), atol=1e-2)
    card = BaselineCard(method="activations", **provenance_of(one))
    directions = [difference_of_means(lm, styled(8), card, layer=1).tensors["direction.1"] for lm in (two, one)]
    torch.testing.assert_close(directions[0].cpu(), directions[1])


@torch.inference_mode()
def test_gists_over_two_devices_are_those_on_one(two_devices):
    two, one = two_devices
    embeddings = random_tensors({"embeddings": (2, one.hidden_size)})["embeddings"]
    adapter = GistAdapter(embeddings, from_tensors(random_lora(one)), GistCard(**provenance_of(one), tokens=2))
    (found,), (expected,) = (compress(lm, adapter, lm.encode(["a prompt"])) for lm in (two, one))
    for ours, theirs in zip(found.keys + found.values, expected.keys + expected.values, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)
    ours, theirs = (list(generate_from_gists(lm, adapter, [expected], ["ab"], config=CONFIG)) for lm in (two, one))
    assert [row.text for row in ours] == [row.text for row in theirs]
    examples = encode_examples(one, [Instruction("say a", "", "a"), Instruction("say b", "c", "b")], 2)
    losses = []
    for lm in (two, one):
        with adapter.installed(lm):
            losses.append(output_loss(lm, adapter.ids(lm), examples, GistCondition.GIST))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_keys_and_values_are_stacked_on_the_device_of_their_layer(two_devices):
    two, one = two_devices
    ids, mask = pad(two.encode(TEXTS), 0, two.device, "left")
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = prefill(two, ids, mask, positions)
    rows = [slice_kv(cache, row, int(length)) for row, length in enumerate(mask.sum(1).tolist())]
    carried = [type(row)(*(tuple(part.cpu() for part in parts) for parts in row)) for row in rows]  # as from a file
    for kept in (rows, carried):
        stacked, room = stack_kv(two, kept)
        assert [layer.keys.device for layer in stacked.layers] == [FIRST, SECOND]
        assert torch.equal(room.cpu(), mask.cpu())
        begun = inputs_of(two, [Start([5, 6], row, row.tokens) for row in kept])
        unread = {name: begun[name][:, room.shape[1] :] for name in ("input_ids", "position_ids")}
        logits = two.model(**{**begun, **unread}).logits[:, -1].cpu()
        for row, text in enumerate(one.encode(TEXTS)):
            whole = one.model(input_ids=torch.tensor([[*text, 5, 6]])).logits[0, -1]
            torch.testing.assert_close(logits[row], whole, rtol=1e-4, atol=1e-5)


def test_offloaded_weights_are_refused_in_words():
    for name in ("model.layers.1.mlp.up_proj", "lm_head"):
        model = tiny_model("llama")
        model.get_submodule(name).weight = torch.nn.Parameter(torch.empty(2, 2, device="meta"))
        with pytest.raises(ModelError, match=rf"1 weights of 'away' are offloaded \({name}.weight is one\)"):
            LM(model, tiny_tokenizer(), "away")


def test_a_packed_head_is_refused_in_words():
    model = tiny_model("llama")
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(259, 16, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match="load the model with its head unquantised"):
        LM(model, tiny_tokenizer(), "packed")


def test_logits_that_are_not_finite_are_refused_in_words():
    model = tiny_model("llama")
    model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(ModelError, match="logits that are not finite"):
        LM(model, tiny_tokenizer(), "broken")


def test_the_same_base_in_another_form_is_taken_on_the_users_word(llama, tmp_path):
    other = tiny_lm("llama")
    other.model.model.norm.weight.data += 0.5  # what quantisation would do to the fingerprint
    other.model.save_pretrained(tmp_path)
    other.tokenizer.save_pretrained(tmp_path)
    steer = random_steer(llama)
    with pytest.raises(lmsteer.errors.WrongBaseError):
        lmsteer.load(tmp_path).check_base(Mix({"s": steer}, {"s": 1.0}))
    known = lmsteer.load(tmp_path, base_fingerprint=steer.card.base_fingerprint)
    known.check_base(Mix({"s": steer}, {"s": 1.0}))
    assert known.card("new").base_fingerprint == llama.fingerprint


def test_a_model_goes_to_the_accelerator_unless_told_otherwise(llama, tmp_path, monkeypatch):
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    asked = []

    def from_pretrained(*_, **options):
        asked.append(options.get("device_map"))
        return tiny_model("llama"), {"missing_keys": (), "mismatched_keys": (), "unexpected_keys": ()}

    monkeypatch.setattr("lmsteer.model.loading.accelerator", lambda: torch.device("xpu", 1))
    monkeypatch.setattr("lmsteer.model.loading.AutoModelForCausalLM.from_pretrained", from_pretrained)
    lmsteer.load(tmp_path)
    lmsteer.load(tmp_path, device_map="auto")
    assert asked == ["xpu:1", "auto"]


def test_a_model_without_a_list_of_layers_is_refused(llama, monkeypatch):
    monkeypatch.setattr(llama.model.config, "num_hidden_layers", 7)
    with pytest.raises(ModelError, match="no list of its 7 layers"):
        model_layers(llama.model)


@pytest.fixture
def checkpoint(tmp_path):
    lm = tiny_lm("llama")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.gpu
def test_a_gpu_holds_the_model_and_gives_the_cpus_numbers(checkpoint):
    gpu, cpu = lmsteer.load(checkpoint), lmsteer.load(checkpoint, device_map="cpu")
    assert gpu.device.type == "cuda"
    assert gpu.fingerprint == cpu.fingerprint
    steer = random_steer(cpu)
    assert verify(gpu, steer, strength=2.0).acts
    steered = [list(generate(lm, ["ab"], {"s": steer}, [{"s": 2.0}], CONFIG)) for lm in (gpu, cpu)]
    assert [row.text for row in steered[0]] == [row.text for row in steered[1]]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [FitConfig(), FitConfig(sites=("layers.0",)), FitConfig("gradient", gradient=GradientConfig(steps=20, rank=8))],
    ids=["head", "inside", "gradient"],
)
def test_a_gpu_fits_the_cpus_steer(checkpoint, tmp_path, monkeypatch, dtype, config):
    # What is reported on the way is computed, too.
    monkeypatch.setattr(run.HeldOutReporter.__init__, "__defaults__", (0.0,))
    texts = styled(240)  # fewer would be fitted in another way
    fitted = (
        lmsteer.fit(
            lmsteer.load(checkpoint, dtype=dtype, device_map=device),
            texts,
            name="s",
            out=tmp_path / device,
            config=config,
        ).steer
        for device in ("cuda:0", "cpu")
    )
    found = [
        steer.factors["layers.0.A"] @ steer.factors["layers.0.B"].T if steer.sites else steer.matrix()
        for steer in fitted
    ]
    one, other = (matrix.flatten() for matrix in found)
    assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) > 0.98


@pytest.mark.gpu
def test_a_model_over_two_gpus_steers_as_on_one(checkpoint):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    split = {
        "model.embed_tokens": 0,
        "model.rotary_emb": 0,
        "model.layers.0": 0,
        "model.layers.1": 1,
        "model.norm": 1,
        "lm_head": 0,
    }
    two, one = lmsteer.load(checkpoint, device_map=split), lmsteer.load(checkpoint, device_map="cuda:0")
    assert [device.index for device in layer_devices(two)] == [0, 1]
    steer = random_steer(one)
    assert verify(two, steer, strength=2.0).acts
    texts = [[row.text for row in generate(lm, ["ab"], {"s": steer}, [{"s": 2.0}], CONFIG)] for lm in (two, one)]
    assert texts[0] == texts[1]
