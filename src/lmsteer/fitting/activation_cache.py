"""The activation cache: hidden states and residuals of texts, kept on disk for the next fit on the same texts.

They do not depend on labels: with the cache, a fit to other labels runs the model on the held-out texts alone, for the
Platt scaling. The cache of a set of texts is a folder of memory-mapped files, one for each batch, named by the model
and the ids of the texts. A file is written aside and renamed, and compared with the ids when it is read. A file that is
missing, cut short or of other texts is computed again, and only that file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import StatisticsError
from lmsteer.fitting.cache_kind import ACTIVATION_RECORD, ACTIVATIONS_FOLDER
from lmsteer.model.batching import tokens_per_batch
from lmsteer.model.lm import LM
from lmsteer.reading.encode_labelled import distinct_ids
from lmsteer.reading.encoded_text import count_predicted, first_predicted
from lmsteer.reading.hidden_rows import compute_rows, text_batches
from lmsteer.reading.rows import HiddenRows, LabelledRows
from lmsteer.util.disk_cache import cache_dir, size_of
from lmsteer.util.files import replace_file
from lmsteer.util.progress import notice

# Raised whenever the rows change, so that the files of an older version are not read.
_FORMAT = 2
# The most that all activation caches together may take, in GB, unless the environment variable LMSTEER_STORE_GB is set.
_LIMIT_GB = 8.0


class HiddenStates:
    """Hidden states and residuals of texts, batch by batch: from the activation cache, or from the model.

    Args:
        lm: the frozen model.
        ids: the ids of the texts, as ``encode_labelled`` gives them.
        folder: the folder of the cache; None keeps nothing.
    """

    def __init__(self, lm: LM, ids: Sequence[Sequence[int]], folder: Path | None = None) -> None:
        self.batches = text_batches(ids, tokens_per_batch(lm.device))
        self._lm, self._ids, self._folder = lm, ids, folder

    def states(self, number: int) -> HiddenRows:
        """The rows of one batch."""
        ids = [self._ids[i] for i in self.batches[number]]
        if self._folder is None:
            return compute_rows(self._lm, ids)
        file = self._folder / f"{number:06d}.safetensors"
        if (cached := _read(file, ids)) is not None:
            return cached
        fresh = compute_rows(self._lm, ids).to("cpu")
        if not _write(fresh, file):
            self._folder = None
        return _read(file, ids) or fresh  # the file is mapped, while the fresh rows take memory

    def of_texts(self, indices: Sequence[int]) -> Iterator[tuple[list[int], HiddenRows]]:
        """The rows of some texts, in batches: the indices of the texts of the batch, and their rows.

        With a cache the batches are those of the cache, and so hold other texts, too.
        """
        if self._folder:
            wanted = set(indices)
            numbers = [number for number, batch in enumerate(self.batches) if not wanted.isdisjoint(batch)]
            yield from ((self.batches[number], self.states(number)) for number in numbers)
        else:
            for batch in text_batches([self._ids[i] for i in indices], tokens_per_batch(self._lm.device)):
                chosen = [indices[i] for i in batch]
                yield chosen, compute_rows(self._lm, [self._ids[i] for i in chosen])

    def rows(self, number: int, texts: Sequence[LabelledText]) -> LabelledRows:
        """The rows of one batch with the labels of its texts; ``texts`` are all texts."""
        return self.states(number).labelled([texts[i] for i in self.batches[number]])


def open_activation_cache(lm: LM, ids: Sequence[Sequence[int]]) -> Path:
    """The folder of the activation cache of these texts. It is created if missing; older caches make room for it.

    Raises:
        StatisticsError: it would be larger than all caches together may be, or cannot be written.
    """
    content = json.dumps([_FORMAT, lm.fingerprint, str(lm.model.dtype), _unordered_digest(ids)])
    folder = cache_dir() / ACTIVATIONS_FOLDER / hashlib.sha256(content.encode()).hexdigest()[:32]
    tokens = sum(map(count_predicted, ids))
    record = {"base": lm.name, "texts": len(ids), "tokens": tokens}
    try:
        _make_room(folder, tokens * _bytes_a_row(lm.hidden_size))
        with replace_file(folder / ACTIVATION_RECORD) as aside:  # its date is that of the last use
            aside.write_text(json.dumps(record) + "\n", encoding="utf-8")
    except OSError as error:
        raise StatisticsError(f"cannot keep activations in {folder}: {error}; fit without a cache.") from error
    return folder


def _unordered_digest(ids: Iterable[Sequence[int]]) -> str:
    """A digest of the ids of texts that does not depend on their order: the sum of the texts' own digests."""
    own = (hashlib.sha256(array("q", distinct_ids(text)).tobytes()).digest() for text in ids)
    return f"{sum(int.from_bytes(digest, 'big') for digest in own):x}"


def _make_room(folder: Path, needed: int) -> None:
    try:
        limit = float(os.environ.get("LMSTEER_STORE_GB") or _LIMIT_GB) * 1e9
    except ValueError as error:
        raise StatisticsError(f"LMSTEER_STORE_GB must be a number of gigabytes, not {error.args[0][-20:]}.") from error
    if needed > limit:
        raise StatisticsError(
            f"the activations of these texts take {needed / 1e9:.1f} GB, all activation caches together may take "
            f"{limit / 1e9:g}; set LMSTEER_STORE_GB to more, or fit without a cache."
        )
    others = [record.parent for record in folder.parent.glob(f"*/{ACTIVATION_RECORD}") if record.parent != folder]
    sizes = {other: size_of(other) for other in others}
    for other in sorted(others, key=lambda other: (other / ACTIVATION_RECORD).stat().st_mtime):
        if needed + sum(sizes.values()) > limit:
            notice(f"removing the activation cache {other}, unused for longest, to make room ...")
            shutil.rmtree(other, ignore_errors=True)
            del sizes[other]


def _bytes_a_row(hidden_size: int) -> int:
    """h and r in float32; log p, target, is_end, first, text."""
    return 8 * hidden_size + 4 + 8 + 1 + 8 + 8


def _read(file: Path, ids: Sequence[Sequence[int]]) -> HiddenRows | None:
    try:
        tensors = load_file(file)
        states = HiddenRows(**{f.name: tensors[f.name] for f in fields(HiddenRows)})
    except (OSError, SafetensorError, KeyError):
        return None
    expected = torch.tensor([token for text in ids for token in text[first_predicted(text) :]])
    return states if torch.equal(states.target, expected) else None


def _write(states: HiddenRows, file: Path) -> bool:
    # If the cache was cleared meanwhile, there is no record, without which the file could not be cleared again.
    if not (file.parent / ACTIVATION_RECORD).exists():
        return False
    try:
        with replace_file(file) as aside:
            save_file({name: tensor.contiguous() for name, tensor in vars(states).items()}, aside)
    except (OSError, SafetensorError) as error:
        notice(f"cannot keep activations in {file.parent}: {error}; continuing without.")
        return False
    return True
