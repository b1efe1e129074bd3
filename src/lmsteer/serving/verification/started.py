"""The server of another engine, started with a steer for the time of a check: vLLM, or llama-server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lmsteer.errors import ModelError
from lmsteer.export.gguf import export_gguf_base
from lmsteer.export.gguf_base import GGUFBase
from lmsteer.export.gguf_lora import export_gguf_lora
from lmsteer.model.lm import LM
from lmsteer.model.sources.pypi import gguf_of
from lmsteer.model.sources.resolve import resolve
from lmsteer.serving.verification.client import JsonClient, RefusedError, ServerError
from lmsteer.serving.vllm.validation import FOLDERS
from lmsteer.steer.files import save_steer
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer

# What the steer is called there.
STEER = "steer"
# Seconds. A server that has not answered by then is taken for stuck; a large model loads for minutes.
_PATIENCE, _PAUSE, _FAREWELL = 1800.0, 0.5, 30.0
# The status of a server that loads its model.
_LOADING = 503
# Bytes of its last words that are repeated.
_SAID = 2000


@contextmanager
def vllm_server(steer: Steer, model: str, options: Sequence[str]) -> Iterator[str]:
    """The URL of vLLM with lmsteer's plugin and a steer named ``STEER``, within a ``with`` block.

    Args:
        steer: the steer.
        model: name, path or Hub id of the model.
        options: options of ``vllm serve``, such as ``--dtype float32``.

    Raises:
        ModelError: vLLM is not installed, or ends before it answers.
        SteerError: the steer acts inside the model.
    """
    program = _program("vllm", "install vLLM into this environment, as its documentation describes")
    with tempfile.TemporaryDirectory() as folder:
        steer.check_head_alone("a strength in a request to vLLM")
        save_steer(steer, Path(folder) / STEER)
        port = _free_port()
        command = [program, "serve", str(resolve(model).location), *options]
        with _running(command, {FOLDERS: folder}, port) as url:
            yield url


@contextmanager
def llama_server(lm: LM, steer: Steer, model: str, options: Sequence[str]) -> Iterator[str]:
    """The URL of llama-server with a steer as an adapter named ``STEER``, within a ``with`` block.

    Args:
        lm: the model.
        steer: the steer.
        model: a GGUF file of the model, or the name of a packaged one.
        options: options of llama-server, such as ``-c 4096``.

    Raises:
        ModelError: llama-server is not found, or ends before it answers; or there is no GGUF file of the model.
        SteerError: no GGUF adapter does what the steer does.
        WrongBaseError: the steer belongs to another base.
    """
    program = _program("llama-server", "install llama.cpp, or put its folder into PATH")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base, port = stack.enter_context(gguf_of(model)), _free_port()
        if GGUFBase.open(base).is_tied and steer.rank:
            base = export_gguf_base(base, folder / "base.gguf")
        adapter = export_gguf_lora(lm, Mix({STEER: steer}, {STEER: 1.0}), base, folder / f"{STEER}.gguf")
        command = [program, "-m", str(base), "--lora-scaled", f"{adapter}:0", "--parallel", "4", "-c", "4096"]
        # Its cache of prompts takes those of one strength for those of another.
        command += ["--no-cache-prompt", "--cache-ram", "0"]
        yield stack.enter_context(_running([*command, *options], {}, port))


def _program(name: str, advice: str) -> str:
    """The path of a program: beside this Python, or in PATH.

    Raises:
        ModelError: there is none.
    """
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ModelError(f"the program {name} is not found: {advice}.")
    return found


def _free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str], port: int) -> Iterator[str]:
    """The URL of a server that runs on a port within a ``with`` block, once it answers.

    Raises:
        ModelError: it ends before it answers, or does not answer for half an hour.
    """
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        # A session of its own, so that all of its processes end with it and Ctrl-C reaches this process first.
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            client, deadline = JsonClient(url, None, _PAUSE * 10), time.monotonic() + _PATIENCE
            while not _answers(client):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(-min(log.seek(0, os.SEEK_END), _SAID), os.SEEK_END)
                    said = log.read().decode(errors="replace").strip()
                    raise ModelError(f"{Path(command[0]).name} does not answer. Its last words:\n{said}")
                time.sleep(_PAUSE)
            yield url
        finally:
            _end(server)


def _answers(client: JsonClient) -> bool:
    """Whether a server has loaded its model.

    Raises:
        RefusedError: it answers, and refuses to say so: it asks for a key.
    """
    try:
        client.get("/v1/models")
    except RefusedError as error:
        if error.status != _LOADING:
            raise
        return False
    except ServerError:
        return False
    return True


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server with a request, and then what is left of it and of its processes by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_FAREWELL)
