"""The hidden-state store: what the pass of the frozen LM leaves of some texts, kept for the next dimension.

Hidden states and residuals do not depend on labels. Where they are kept, another labelling of the same texts is two
sums and two solves; where they are not, the pass is run. A store is a folder of memory-mapped files, one a batch, named
by the model and the texts' ids, in the cache. Each file is written aside and renamed, and compared with the ids when it
is read: one that is missing, cut short or of other texts is computed again, and only that one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import StatisticsError
from lmsteer.model.lm import LM
from lmsteer.reading.rows import HiddenRows, LabelledRows, batches, states_of
from lmsteer.util.disk_cache import CacheKind, cache_dir, register, size_of
from lmsteer.util.files import replace_file
from lmsteer.util.progress import notice

# Raised when what a pass leaves changes, so that stores of an older lmsteer are not read.
_FORMAT = 1
# What all stores together may take, in GB; the environment variable LMSTEER_STORE_GB says otherwise.
_LIMIT_GB = 8.0
# The folder of all stores, and the file of each that says what it contains.
_STORES, _STORE_RECORD = "states", "states.json"


def _describe(store: Path) -> str:
    try:
        record = json.loads((store / _STORE_RECORD).read_text(encoding="utf-8"))
        return f"{record['texts']:,} texts, {record['tokens']:,} tokens of {record['base']}"
    except (OSError, ValueError, KeyError, TypeError):
        return store.name


register(CacheKind("states", f"{_STORES}/*", _STORE_RECORD, _describe))


class HiddenStates:
    """Hidden states and residuals of some texts, batch by batch: from a store, or from the model.

    Args:
        lm: the frozen model.
        ids: of the texts, as ``encode_whole`` gives them.
        folder: of the store; None keeps nothing.
    """

    def __init__(self, lm: LM, ids: Sequence[Sequence[int]], folder: Path | None = None) -> None:
        self.batches = batches(ids)
        self._lm, self._ids, self._folder = lm, ids, folder

    def states(self, number: int) -> HiddenRows:
        """Those of one batch."""
        ids = [self._ids[i] for i in self.batches[number]]
        if self._folder is None:
            return states_of(self._lm, ids)
        file = self._folder / f"{number:06d}.safetensors"
        if (kept := _read(file, ids)) is not None:
            return kept
        fresh = states_of(self._lm, ids)
        if not _keep(fresh, file):
            self._folder = None
        return _read(file, ids) or fresh  # mapped, where the fresh ones lie in memory

    def of_texts(self, indices: Sequence[int]) -> Iterator[tuple[list[int], HiddenRows]]:
        """Those of some texts, in batches (which texts, and their states): with a store whole ones, of others too."""
        if self._folder:
            wanted = set(indices)
            numbers = [number for number, batch in enumerate(self.batches) if not wanted.isdisjoint(batch)]
            yield from ((self.batches[number], self.states(number)) for number in numbers)
        else:
            for batch in batches([self._ids[i] for i in indices]):
                chosen = [indices[i] for i in batch]
                yield chosen, states_of(self._lm, [self._ids[i] for i in chosen])

    def rows(self, number: int, texts: Sequence[LabelledText]) -> LabelledRows:
        """Those of one batch with the labels of its texts; ``texts`` are all texts."""
        return self.states(number).labelled([texts[i] for i in self.batches[number]])


def open_store(lm: LM, ids: Sequence[Sequence[int]]) -> Path:
    """The folder of the store of these texts, made if there is none; older stores make room for it.

    Raises:
        StatisticsError: it would be larger than all stores together may be, or cannot be made.
    """
    content = json.dumps([_FORMAT, lm.fingerprint, str(lm.model.dtype), sorted(map(list, ids))])
    folder = cache_dir() / _STORES / hashlib.sha256(content.encode()).hexdigest()[:32]
    tokens = sum(max(len(text) - 1, 0) for text in ids)
    about = {"base": lm.name, "texts": len(ids), "tokens": tokens}
    try:
        _make_room(folder, tokens * _bytes_a_row(lm.hidden_size))
        with replace_file(folder / _STORE_RECORD) as aside:  # its date tells when the store was last used
            aside.write_text(json.dumps(about) + "\n", encoding="utf-8")
    except OSError as error:
        raise StatisticsError(f"cannot make a store in {folder}: {error}; fit without one.") from error
    return folder


def _make_room(folder: Path, needed: int) -> None:
    try:
        limit = float(os.environ.get("LMSTEER_STORE_GB") or _LIMIT_GB) * 1e9
    except ValueError as error:
        raise StatisticsError(f"LMSTEER_STORE_GB is a number of gigabytes, not {error.args[0][-20:]}.") from error
    if needed > limit:
        raise StatisticsError(
            f"a store of these texts takes {needed / 1e9:.1f} GB, all stores together may take {limit / 1e9:g}; "
            "set LMSTEER_STORE_GB to more, or fit without a store."
        )
    others = [record.parent for record in folder.parent.glob(f"*/{_STORE_RECORD}") if record.parent != folder]
    sizes = {other: size_of(other) for other in others}
    for other in sorted(others, key=lambda other: (other / _STORE_RECORD).stat().st_mtime):
        if needed + sum(sizes.values()) > limit:
            notice(f"removing the store {other}, unused for longest, to make room ...")
            shutil.rmtree(other, ignore_errors=True)
            del sizes[other]


def _bytes_a_row(hidden_size: int) -> int:
    """h and r in float32, log p, target, is_end, text."""
    return 8 * hidden_size + 4 + 8 + 1 + 8


def _read(file: Path, ids: Sequence[Sequence[int]]) -> HiddenRows | None:
    try:
        tensors = load_file(file)
        states = HiddenRows(**{f.name: tensors[f.name] for f in fields(HiddenRows)})
    except (OSError, SafetensorError, KeyError):
        return None
    expected = torch.tensor([token for text in ids for token in text[1:]])
    return states if torch.equal(states.target, expected) else None


def _keep(states: HiddenRows, file: Path) -> bool:
    if not (file.parent / _STORE_RECORD).exists():  # cleared meanwhile: what is not listed would never be cleared again
        return False
    try:
        with replace_file(file) as aside:
            save_file({name: tensor.contiguous() for name, tensor in vars(states).items()}, aside)
    except (OSError, SafetensorError) as error:
        notice(f"cannot keep hidden states in {file.parent}: {error}; going on without.")
        return False
    return True
