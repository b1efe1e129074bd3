"""Bulk work through vLLM's offline class: files too large for one process, on as many devices as it is given."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmsteer.errors import LMSteerError
from lmsteer.generation.bulk import BulkRequest, Lines, Writer, write_in_bulk
from lmsteer.generation.config import GenerationConfig
from lmsteer.model.sources.resolve import resolve
from lmsteer.serving.vllm.validation import FOLDERS, KEY
from lmsteer.steer.files import save_steer
from lmsteer.steer.notation import StrengthSettings
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress


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
        request: what is generated.
        out: file; steers are put into a temporary folder beside it, which all of vLLM's processes must see.
        options: arguments of ``vllm.LLM``.
        resume: continue an interrupted run.
        progress: reports the work.

    Raises:
        DataError: ``write_in_bulk`` refuses the file.
        LMSteerError: vLLM is not installed, does not start with these options, or stops.
        InterruptedWorkError: the user stopped the run; what was written is kept.
    """
    location = str(resolve(request.model).location)
    with vllm_writer(location, request.steers, request.settings, request.config, out.parent, options) as write:
        write_in_bulk(write, request.prompts, out, request.record("vllm"), resume=resume, progress=progress)


@contextmanager
def vllm_writer(
    model: str,
    steers: Mapping[str, Steer],
    settings: StrengthSettings,
    draws: GenerationConfig,
    where: Path,
    options: Mapping[str, Any],
) -> Iterator[Writer]:
    """A writer that hands prompts to vLLM, a strength for each row.

    Args:
        model: folder or Hub id.
        steers: by name.
        settings: of the dial, each for every prompt.
        draws: samples, lengths, and what tokens are drawn from.
        where: on a disk that all of vLLM's processes see; steers lie there meanwhile, in a folder of their own.
        options: for ``vllm.LLM`` (``tensor_parallel_size``, ``distributed_executor_backend`` ...).

    Raises:
        LMSteerError: vLLM is not installed, or does not start so.
    """
    where.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".lmsteer-", dir=where.absolute()) as folder:
        yield _writer(model, steers, settings, draws, Path(folder), options)


def _writer(
    model: str,
    steers: Mapping[str, Steer],
    settings: StrengthSettings,
    draws: GenerationConfig,
    folder: Path,
    options: Mapping[str, Any],
) -> Writer:
    names = {name: f"s{k}" for k, name in enumerate(steers)}  # a steer may be named by its folder
    for name, steer in steers.items():
        save_steer(steer, folder / names[name])
    os.environ[FOLDERS] = str(folder)  # before vLLM is loaded, whose plugins look at it
    os.environ.setdefault("VLLM_RAY_EXTRA_ENV_VARS_TO_COPY", FOLDERS)
    try:
        from vllm import LLM, SamplingParams

        llm = LLM(model, **options)
    except ImportError as error:
        raise LMSteerError(f"the engine needs {error.name}: install vLLM, as its own pages say.") from error
    except Exception as error:  # as many kinds as there are options
        raise LMSteerError(f"vLLM does not start: {error}") from error

    def params(number: int, setting: Mapping[str, float], sample: int) -> SamplingParams:
        return SamplingParams(
            temperature=draws.sampling.temperature,
            top_p=draws.sampling.top_p,
            top_k=draws.sampling.top_k,
            max_tokens=draws.max_new_tokens,
            seed=_seed(draws.seed, number, sample),
            extra_args={KEY: ",".join(f"{names[name]}={s}" for name, s in setting.items())} if setting else None,
        )

    def write(prompts: Sequence[str], first: int) -> Lines:
        rows = [(i, setting, k) for i in range(len(prompts)) for setting in settings for k in range(draws.num_samples)]
        given = [params(first + i, setting, k) for i, setting, k in rows]
        try:
            outputs = llm.generate([prompts[i] for i, *_ in rows], given, use_tqdm=False)
        except Exception as error:  # Ctrl-C among them, which ends its processes first
            raise LMSteerError(
                f"vLLM stopped: {error}; what was written is kept, --resume goes on from there."
            ) from error
        told: list[list[dict[str, Any]]] = [[] for _ in prompts]
        for (i, setting, k), output in zip(rows, outputs, strict=True):
            told[i].append({"text": output.outputs[0].text, "strengths": dict(setting), "sample": k})
        return [{"prompt": {"text": prompt}, "generations": lines} for prompt, lines in zip(prompts, told, strict=True)]

    return write


def _seed(seed: int, number: int, sample: int) -> int:
    """The same at every strength, and in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number} {sample}".encode()).digest()[:4])
