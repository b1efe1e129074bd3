"""Bulk generation: the prompts of a file are continued chunk by chunk, into a file that an interrupted run resumes.

A writer maps a chunk of prompts to output records in the published format; it also gets the number of the chunk's first
prompt, on which samples depend. So the file is the same however it is divided into chunks, and after any interruption.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmsteer.data.chats import Prompt
from lmsteer.generation.config import GenerationConfig, record_of
from lmsteer.generation.generate import continue_from, encode_prompts
from lmsteer.generation.partial_file import Lines, PartialFile
from lmsteer.generation.prefill import Prefill
from lmsteer.generation.published import as_published
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM
from lmsteer.model.thinking import begins_thinking
from lmsteer.steer.notation import StrengthSettings
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths, parts_of, strengths_json
from lmsteer.util.files import exclusive, writing
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.run import resumable

Writer = Callable[[Sequence[Prompt], int], Lines]
# Prompts per chunk: after each, the file is forced to the disk and Ctrl-C is let through.
CHUNK = 256


@dataclass(frozen=True)
class BulkRequest:
    """What a bulk run generates.

    Attributes:
        model: the name of the model, as the user gave it.
        prompts: the prompts to continue.
        steers: the steers, by name.
        settings: the strengths of the steers; each prompt is continued at each setting.
        config: how prompts are continued.
    """

    model: str
    prompts: Sequence[Prompt]
    steers: Mapping[str, Steer]
    settings: StrengthSettings
    config: GenerationConfig

    def record(self, engine: str) -> dict[str, Any]:
        """What must be the same for an interrupted run to be resumed; the batch size need not be."""
        return {
            "model": self.model,
            "engine": engine,
            "steers": {name: tensors_fingerprint(steer.factors) for name, steer in self.steers.items()},
            "settings": [*map(strengths_json, self.settings)],
            "config": {name: value for name, value in record_of(self.config).items() if name != "batch_size"},
            "prompts": hashlib.sha256("\0".join(map(_distinct, self.prompts)).encode()).hexdigest()[:32],
        }


def _distinct(prompt: Prompt) -> str:
    """A prompt as a text that is another one for each prompt."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt.to_json())


def generate_to_file(
    lm: LM, request: BulkRequest, out: Path, *, resume: bool = False, progress: Progress = no_progress
) -> None:
    """Continue the prompts of a request into a JSONL file on this machine; see ``write_in_bulk``.

    Raises:
        DataError: a prompt cannot be continued, or ``write_in_bulk`` refuses the file.
        InterruptedWorkError: the user stopped the run; what was written is kept.
        ModelError: the weights of the model are split over processes.
    """
    lm.check_in_one_process("generation into a file")
    check_prompts(lm, request.prompts, request.config, request.settings)
    write = writer_of(lm, request.steers, request.settings, request.config)
    write_in_bulk(write, request.prompts, out, request.record("transformers"), resume=resume, progress=progress)


def writer_of(
    lm: LM,
    steers: Mapping[str, Steer],
    settings: StrengthSettings,
    config: GenerationConfig,
    progress: Progress = no_progress,
) -> Writer:
    """A writer that generates with this model.

    Args:
        lm: the model.
        steers: the steers, by name.
        settings: the strengths of the steers; each prompt is continued at each setting.
        config: how prompts are continued.
        progress: reports how far a chunk is.
    """

    def write(prompts: Sequence[Prompt], first_prompt: int) -> Lines:
        prefill = Prefill.of_ids(encode_prompts(lm, prompts, config.max_new_tokens, first_prompt))
        continuations = continue_from(
            lm, prompts, prefill, steers, settings, config, first_prompt=first_prompt, progress=progress
        )
        return as_published(list(continuations), len(settings) * config.num_samples)

    return write


def check_prompts(
    lm: LM,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    settings: Sequence[Strengths] = (),
) -> None:
    """Refuse prompts before any work is done, if one of them cannot be continued.

    Raises:
        DataError: a prompt is empty or too long, or lacks the part of an answer that a strength acts in.
    """
    for prompt in prompts:
        begins_thinking(lm, prompt, parts_of(settings))
    for first in range(0, len(prompts), CHUNK):
        encode_prompts(lm, prompts[first : first + CHUNK], config.max_new_tokens, first)


def write_in_bulk(
    write: Writer,
    prompts: Sequence[Prompt],
    out: Path,
    record: Mapping[str, Any],
    *,
    resume: bool = False,
    chunk: int = CHUNK,
    progress: Progress = no_progress,
) -> None:
    """Continue prompts into a JSONL file, one line per prompt, in their order.

    Args:
        write: generates the lines of a chunk of prompts.
        prompts: all prompts.
        out: the file. Until it is complete it grows as ``OUT.partial``.
        record: the configuration of the run; a partial file with another one is not resumed.
        resume: whether to continue a partial file.
        chunk: the number of prompts per chunk.
        progress: reports how far the work is.

    Raises:
        DataError: another process writes the file, there is nothing to resume, or the partial file is of another run
            or is there although it is not to be resumed.
        OutputError: the file cannot be written; the lines so far are kept.
        InterruptedWorkError: the user stopped the run; what was written is kept.
    """
    file = PartialFile(out, record)
    kept = f"The lines so far are kept in {file.path}. The same command with --resume continues from there."
    with exclusive(out):
        with writing(out):
            done = file.open(resume=resume)
        with resumable(kept), writing(out):
            with deferred_sigint() as check, progress("writing", len(prompts), done) as step:
                for first in range(done, len(prompts), chunk):
                    part = prompts[first : first + chunk]
                    file.append(write(part, first))
                    step(len(part), "")
                    check()
            file.complete()
