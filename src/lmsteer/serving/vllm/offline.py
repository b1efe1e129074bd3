"""Bulk generation with vLLM's offline class, for files too large for one process, on several devices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmsteer.data.chats import Chat, Prompt
from lmsteer.errors import LMSteerError, SteerError
from lmsteer.generation.bulk import BulkRequest, Writer, write_in_bulk
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.partial_file import Lines
from lmsteer.generation.published import published_prompt
from lmsteer.model.chat import encode_chat
from lmsteer.model.codec import Codec
from lmsteer.model.sources.resolve import resolve
from lmsteer.serving.vllm.validation import FOLDERS, KEY, registry
from lmsteer.steer.files import save_steer
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths, check_counted, strengths_json
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.seeds import stable_seed

# Set by this module.
_VARIABLES = (FOLDERS, "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY")


def generate_to_file(
    request: BulkRequest,
    out: Path,
    options: Mapping[str, Any],
    *,
    resume: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Continue the prompts of a request into a JSONL file with vLLM; see ``write_in_bulk``.

    Args:
        request: what to generate.
        out: the file. The steers are saved in a temporary folder beside it; all of vLLM's processes must see that disk.
        options: arguments of ``vllm.LLM``.
        resume: continue an interrupted run.
        progress: reports the work.

    Raises:
        DataError: ``write_in_bulk`` refuses the file.
        LMSteerError: vLLM is not installed, does not start with these options, or stops.
        SteerError: a strength acts in one part of an answer, a reading is to be held, or the limit ``fresh`` is on.
        InterruptedWorkError: the user stopped the run; what was written is kept.
    """
    location = str(resolve(request.model).location)
    for setting in request.settings:
        check_counted(setting, "vLLM")
    if request.config.limits.fresh:
        raise SteerError("'fresh' is a limit that lmsteer's own engine has; in vLLM, leave it out.")
    with vllm_writer(location, request.steers, request.settings, request.config, out.parent, options) as write:
        write_in_bulk(write, request.prompts, out, request.record("vllm"), resume=resume, progress=progress)


@contextmanager
def vllm_writer(
    model: str,
    steers: Mapping[str, Steer],
    settings: Sequence[Strengths],
    config: GenerationConfig,
    parent: Path,
    options: Mapping[str, Any],
) -> Iterator[Writer]:
    """A writer that generates with vLLM, each row at its own strengths, within a ``with`` block.

    Args:
        model: folder or Hub id of the model.
        steers: steers by name.
        settings: the settings of the strengths, each used for every prompt.
        config: how prompts are continued; of the limits ``plausible`` and ``kl``.
        parent: a folder on a disk that all of vLLM's processes share; the steers are saved in a temporary folder there.
        options: arguments of ``vllm.LLM`` (``tensor_parallel_size``, ``distributed_executor_backend`` ...).

    Raises:
        LMSteerError: vLLM is not installed, or does not start with these options.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".lmsteer-", dir=parent.absolute()) as folder, _restored_environment():
        names = {name: f"s{k}" for k, name in enumerate(steers)}  # a steer's own name may be a path
        for name, steer in steers.items():
            save_steer(steer, Path(folder) / names[name])
        os.environ[FOLDERS] = folder  # before vLLM is imported, since its plugins read it
        os.environ.setdefault("VLLM_RAY_EXTRA_ENV_VARS_TO_COPY", FOLDERS)
        yield _writer(model, names, settings, config, options)


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Restore the environment variables at the end, and forget the steers that were loaded by them."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    registry.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        registry.cache_clear()


def _writer(
    model: str,
    names: Mapping[str, str],
    settings: Sequence[Strengths],
    config: GenerationConfig,
    options: Mapping[str, Any],
) -> Writer:
    try:
        from vllm import LLM, SamplingParams

        llm = LLM(model, **options)
    except ImportError as error:
        raise LMSteerError(f"this engine needs {error.name}: install vLLM as its documentation describes.") from error
    except Exception as error:  # vLLM raises exceptions of many kinds for wrong options
        raise LMSteerError(f"vLLM does not start: {error}") from error

    def params(prompt: int, strengths: Strengths, sample: int) -> SamplingParams:
        notation = {KEY: ",".join(f"{names[name]}={s}" for name, s in strengths.items()), **config.limits.on}
        return SamplingParams(
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            top_k=config.sampling.top_k,
            max_tokens=config.max_new_tokens,
            stop=list(config.stop),
            seed=stable_seed(config.seed, prompt, sample),  # the same at all strengths
            extra_args=notation if strengths else None,
        )

    def encoded(chat: Chat) -> list[int]:
        tokenizer = llm.get_tokenizer()
        return encode_chat(Codec(tokenizer, len(tokenizer), model), chat)

    def write(prompts: Sequence[Prompt], first: int) -> Lines:
        given = [prompt if isinstance(prompt, str) else {"prompt_token_ids": encoded(prompt)} for prompt in prompts]
        rows = [(i, setting, k) for i in range(len(prompts)) for setting in settings for k in range(config.num_samples)]
        sampling_params = [params(first + i, setting, k) for i, setting, k in rows]
        try:
            outputs = llm.generate([given[i] for i, *_ in rows], sampling_params, use_tqdm=False)
        except Exception as error:  # among others of Ctrl-C, which stops vLLM's processes first
            raise LMSteerError(f"vLLM stopped: {error}. The lines so far are kept; continue with --resume.") from error
        generations: list[list[dict[str, Any]]] = [[] for _ in prompts]
        for (i, setting, k), output in zip(rows, outputs, strict=True):
            generations[i].append({"text": output.outputs[0].text, "strengths": strengths_json(setting), "sample": k})
        return [
            {"prompt": published_prompt(prompt), "generations": lines}
            for prompt, lines in zip(prompts, generations, strict=True)
        ]

    return write
