"""Bulk: the prompts of a file are continued some at a time, into a file that grows; what is there already is kept.

A writer is given prompts and the number of the first of them, and gives a line for each, in the published format.
Samples hang on a prompt's number, so that a file is the same however it is cut into pieces, and after any stop.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lmsteer.errors import DataError, InterruptedWorkError
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.decoding import PromptPrefill
from lmsteer.generation.generate import continue_from, encode_prompts
from lmsteer.generation.partial_file import check_bulk_target, partial_of
from lmsteer.generation.published import as_published
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM
from lmsteer.steer.notation import StrengthSettings
from lmsteer.steer.steer import Steer
from lmsteer.util.files import exclusive, replace_file
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.progress import Progress, no_progress

Lines = Sequence[dict[str, Any]]
Writer = Callable[[Sequence[str], int], Lines]
# Prompts between two looks at the disk.
CHUNK = 256


@dataclass(frozen=True)
class BulkRequest:
    """What a bulk run generates.

    Attributes:
        model: name of the model, as the user gave it.
        prompts: prompts to continue.
        steers: steers by name.
        settings: strengths of the steers; each prompt is continued at each setting.
        config: how prompts are continued.
    """

    model: str
    prompts: Sequence[str]
    steers: Mapping[str, Steer]
    settings: StrengthSettings
    config: GenerationConfig

    def record(self, engine: str) -> dict[str, Any]:
        """What a partial file stores to recognise the same request; the batch size does not count."""
        return {
            "model": self.model,
            "engine": engine,
            "steers": {name: tensors_fingerprint(steer.factors) for name, steer in self.steers.items()},
            "settings": self.settings,
            "config": {name: value for name, value in asdict(self.config).items() if name != "batch_size"},
            "texts": hashlib.sha256("\0".join(self.prompts).encode()).hexdigest()[:32],
        }


def generate_to_file(
    lm: LM, request: BulkRequest, out: Path, *, resume: bool = False, progress: Progress = no_progress
) -> None:
    """Continue the prompts of a request into a JSONL file on this machine; see ``write_in_bulk``.

    Raises:
        DataError: a prompt cannot be continued, or ``write_in_bulk`` refuses the file.
        InterruptedWorkError: the user stopped the run; what was written is kept.
    """
    check_prompts(lm, request.prompts, request.config)
    write = writer_of(lm, request.steers, request.settings, request.config)
    write_in_bulk(write, request.prompts, out, request.record("transformers"), resume=resume, progress=progress)


def writer_of(
    lm: LM,
    steers: Mapping[str, Steer],
    settings: StrengthSettings,
    draws: GenerationConfig,
    progress: Progress = no_progress,
) -> Writer:
    """A writer on this machine."""

    @torch.inference_mode()
    def write(prompts: Sequence[str], first: int) -> Lines:
        starts = PromptPrefill(lm, encode_prompts(lm, prompts, draws.max_new_tokens, first))
        done = list(continue_from(lm, prompts, starts, steers, settings, draws, first_prompt=first, progress=progress))
        return as_published(done, len(settings) * draws.num_samples)

    return write


def check_prompts(lm: LM, prompts: Sequence[str], draws: GenerationConfig) -> None:
    """Refuse prompts of which one cannot be continued, before any work is done.

    Raises:
        DataError: one is empty or too long.
    """
    for first in range(0, len(prompts), CHUNK):
        encode_prompts(lm, prompts[first : first + CHUNK], draws.max_new_tokens, first)


def write_in_bulk(
    write: Writer,
    prompts: Sequence[str],
    out: Path,
    record: Mapping[str, Any],
    *,
    resume: bool = False,
    chunk: int = CHUNK,
    progress: Progress = no_progress,
) -> None:
    """Continue prompts into a JSONL file, a line each, in their order.

    Args:
        write: gives the lines of some prompts.
        prompts: all of them.
        out: file; it takes its place when it is whole, and till then grows as ``OUT.partial``.
        record: what is asked for, by which a partial file knows its own.
        resume: go on with a partial file.
        chunk: prompts at once.
        progress: what to tell of the work.

    Raises:
        DataError: a folder in place of the file, nothing to resume, a partial file that is not to be resumed or of
            something else, or a disk that does not take it, or another process that writes the same file.
        InterruptedWorkError: the user stopped it; what was written is kept.
    """
    partial = partial_of(out)
    head = json.dumps({"of": {**record, "prompts": len(prompts)}}, sort_keys=True) + "\n"
    try:
        with exclusive(out):
            check_bulk_target(out, resume=resume)
            done = _begun(partial, head) if resume else _begin(partial, head)
            with deferred_sigint() as check, progress("writing", len(prompts), done) as step:
                for first in range(done, len(prompts), chunk):
                    some = prompts[first : first + chunk]
                    _append(partial, write(some, first))
                    step(len(some), "")
                    check()
            _finish(partial, out, len(head.encode()))
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}.") from error
    except KeyboardInterrupt as error:
        raise InterruptedWorkError(
            f"stopped; what was written is in {partial}, and --resume goes on with it."
        ) from error


def _begin(partial: Path, head: str) -> int:
    partial.write_text(head, encoding="utf-8")
    return 0


def _begun(partial: Path, head: str) -> int:
    """Lines that are whole; what a kill has left of another one is cut off."""
    with partial.open("rb+") as file:
        if file.readline() != head.encode():
            raise DataError(f"{partial} is of another model, other prompts or other settings: remove it to begin anew.")
        done, end = 0, file.tell()
        for line in file:
            if line.endswith(b"\n"):
                done, end = done + 1, end + len(line)
        file.truncate(end)
    return done


def _append(partial: Path, lines: Lines) -> None:
    with partial.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _finish(partial: Path, out: Path, skip: int) -> None:
    """All but the head takes its place."""
    with replace_file(out) as aside, partial.open("rb") as source, aside.open("wb") as target:
        source.seek(skip)
        while block := source.read(1 << 20):
            target.write(block)
    partial.unlink()
