"""The texts of a contrast, which the model writes itself: after the instruction of each end, on varied subjects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lmsteer.errors import DataError
from lmsteer.fitting.contrast.config import ContrastConfig
from lmsteer.fitting.contrast.prompts import ContrastPrompts, Ids
from lmsteer.fitting.run import Checkpointer
from lmsteer.generation.config import SamplingConfig
from lmsteer.generation.generate import not_finite
from lmsteer.generation.row import Row, row_noise
from lmsteer.generation.writing import NotFiniteError, write
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.util.files import write_file
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.records import parse_json
from lmsteer.util.run import Run, kept_in, resumable

# Texts that are written at once.
_BATCH = 32
_SAMPLING = SamplingConfig(top_p=0.9)
# The texts so far, in the folder of an interrupted fit, and seconds between two times that they are saved.
_FILE, _SAVE_EVERY = "texts.json", 5.0


@dataclass(frozen=True)
class ContrastText:
    """A text that the model wrote.

    Attributes:
        subject: number of its subject, from 0.
        prompts: the prompts for its subject.
        end: +1 or -1, the end that it was written for.
        ids: its token ids without the prompt; the last one is an end-of-text token if the text ended by itself, so that
            a steer learns when to end.
    """

    subject: int
    prompts: ContrastPrompts
    end: int
    ids: Ids


@dataclass(frozen=True)
class KeptTexts:
    """The texts that a fit has written so far, on disk, so that an interrupted fit writes the others only.

    Attributes:
        run: the folder, and what must be the same for the texts to be used.
    """

    run: Run

    def open(self, *, resume: bool, vocabulary: int) -> dict[int, Ids]:
        """Begin the folder anew, or resume it: the ids of the texts that are there, by their number.

        Args:
            resume: whether to resume it.
            vocabulary: V; every id is below it.

        Raises:
            DataError: the folder holds something else, another fit, or a damaged file.
        """
        if not resume:
            self.remove()
        self.run.open()
        file = self.run.folder / _FILE
        try:
            kept = parse_json(file.read_text(encoding="utf-8")) if file.exists() else {}
            return {int(number): [range(vocabulary)[token] for token in ids] for number, ids in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise DataError(f"{file} is damaged: {error}. Remove {self.run.folder}.") from error

    @contextmanager
    def until_done(self, *, resume: bool) -> Iterator[None]:
        """Keep the texts if a ``with`` block is interrupted, and remove them if it ends or fails for good.

        Args:
            resume: whether to resume; then what was there before may be of another fit, and a failure leaves it.
        """
        had_state = self.run.folder.exists()
        try:
            with resumable(lambda: kept_in(self.run.folder, "The texts so far are")):
                yield
        except (DataError, NotFiniteError):  # the same description will fail again
            if not (resume and had_state):
                self.remove()
            raise
        self.remove()

    def remove(self) -> None:
        """Remove the folder, if there is one."""
        if self.run.path.exists():
            shutil.rmtree(self.run.folder, ignore_errors=True)

    def save(self, written: Mapping[int, Ids]) -> None:
        """Replace the texts that are kept."""
        write_file(self.run.folder / _FILE, json.dumps({number: [*ids] for number, ids in written.items()}))


@torch.inference_mode()
def write_texts(
    lm: LM,
    prompts: Sequence[ContrastPrompts],
    config: ContrastConfig,
    progress: Progress = no_progress,
    kept: KeptTexts | None = None,
) -> list[ContrastText]:
    """Let the model write texts for both ends of a contrast.

    Args:
        lm: the model, unsteered.
        prompts: the prompts for each subject; the texts take turns on the subjects.
        config: number of texts for each end, their length in tokens (a text that ends by itself is shorter), the seed,
            and whether to resume.
        progress: reports the texts.
        kept: keeps the texts as they are written; None for nowhere.

    Raises:
        DataError: the model writes nothing: all texts end at once; or what is kept cannot be resumed.
        NotFiniteError: the model's logits are not finite numbers.
    """
    planned = [(k % len(prompts), end, k // len(prompts)) for k in range(config.texts) for end in (1, -1)]
    before = [prompts[subject].positive if end > 0 else prompts[subject].negative for subject, end, _ in planned]
    written = kept.open(resume=config.resume, vocabulary=lm.codec.rows) if kept else {}
    missing = [i for i in range(len(planned)) if i not in written]
    rows = [
        Row(Start(before[i]), row_noise(config.seed, i, planned[i][-1], config.new_tokens), sampling=_SAMPLING)
        for i in missing
    ]
    checkpointer = Checkpointer(lambda: kept.save(written) if kept else None, _SAVE_EVERY)
    with progress("writing texts", len(planned), len(written)) as step:
        try:
            for ended in write(lm, rows, _BATCH):
                if any(text.failed for text in ended):
                    raise not_finite(lm, "a text under a description", "")
                written |= {missing[text.row]: text.ids for text in ended}
                checkpointer.step()
                step(len(ended), "")
        finally:
            checkpointer.save()
    texts = [
        ContrastText(subject, prompts[subject], end, written[i])
        for i, (subject, end, _) in enumerate(planned)
        if set(written[i]) - set(lm.stop_ids)
    ]
    if not texts:
        raise DataError(f"{lm.name} writes nothing when it is asked for a text: all texts end at once.")
    return texts


def taken_over(
    lm: LM, prompts: Sequence[ContrastPrompts], teacher: LM, texts: Sequence[ContrastText], new_tokens: int
) -> list[ContrastText]:
    """The texts that another model wrote, in the tokens and after the prompts of this one; without their ends.

    Args:
        lm: the model that the texts are for.
        prompts: its prompts for each subject.
        teacher: the model that wrote the texts.
        texts: the texts.
        new_tokens: longer texts are cut to this many tokens.

    Raises:
        DataError: a text has a token that the model cannot read.
    """
    encoded = lm.codec.encode([teacher.codec.decode(text.ids) for text in texts], special=False, literal=True)
    return [
        ContrastText(text.subject, prompts[text.subject], text.end, ids[:new_tokens])
        for text, ids in zip(texts, encoded, strict=True)
        if ids
    ]
