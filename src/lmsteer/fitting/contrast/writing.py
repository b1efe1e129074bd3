"""The texts of a contrast, which the model writes itself: after the instruction of each end, on varied subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lmsteer.errors import DataError
from lmsteer.fitting.contrast.prompts import ContrastPrompts, Ids
from lmsteer.generation.config import SamplingConfig
from lmsteer.generation.generate import not_finite
from lmsteer.generation.row import Row, row_noise
from lmsteer.generation.writing import write
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.util.progress import Progress

# Texts that are written at once.
_BATCH = 32
_SAMPLING = SamplingConfig(top_p=0.9)


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


@torch.inference_mode()
def write_texts(
    lm: LM, prompts: Sequence[ContrastPrompts], count: int, new_tokens: int, seed: int, progress: Progress
) -> list[ContrastText]:
    """Let the model write texts for both ends of a contrast.

    Args:
        lm: the model, unsteered.
        prompts: the prompts for each subject; the texts take turns on the subjects.
        count: number of texts for each end.
        new_tokens: the length of a text in tokens; a text that ends earlier is shorter.
        seed: seed of the random numbers.
        progress: reports the texts.

    Raises:
        DataError: the model writes nothing: all texts end at once.
        NotFiniteError: the model's logits are not finite numbers.
    """
    planned = [(k % len(prompts), end, k // len(prompts)) for k in range(count) for end in (1, -1)]
    before = [prompts[subject].positive if end > 0 else prompts[subject].negative for subject, end, _ in planned]
    noise = (row_noise(seed, i, sample, new_tokens) for i, (*_, sample) in enumerate(planned))
    rows = [Row(Start(ids), own, sampling=_SAMPLING) for ids, own in zip(before, noise, strict=True)]
    written = dict[int, Ids]()
    with progress("writing texts", len(planned), 0) as step:
        for ended in write(lm, rows, _BATCH):
            if any(text.failed for text in ended):
                raise not_finite(lm, "a text under a description", "", {})
            written |= {text.row: text.ids for text in ended}
            step(len(ended), "")
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
