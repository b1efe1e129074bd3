"""Statistics: all that a closed-form fit needs of its texts, as sums over tokens.

With ``h_t`` (d,) the hidden state that predicts token t, ``r_t`` (d,) its residual and ``s`` the text's label::

    G = Σ s h rᵀ     the gradient of the log-likelihood at W = 0             (d, d)
    D = Σ h rᵀ       the domain: what the texts have in common, whatever s   (d, d)

over the tokens of the texts, and, where a text ends, apart from those::

    C_end = Σ h hᵀ (d, d),   g_end = Σ s h,   h_end = Σ h,   r_end = Σ r     (d,)

They are plain sums in float64. So they are gathered in a stream at constant memory, merged across machines by
addition, extended by new texts, and the result is that of all texts at once. What such a step costs, the Fisher
matrix, is the model's own (``fisher_factors``).

A few texts are held out of the sums to choose damping and scale by: those whose digest is small, which is the
same choice in every order, file and process. Their rows are kept, till there are so many, and so are those of a sample
of the others, to give ``credit`` on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import StatisticsError, WrongBaseError
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.model.lm import LM
from lmsteer.reading.rows import LabelledRows, from_int64_pair
from lmsteer.reading.splits import is_candidate, reservoir, split_held_out
from lmsteer.util.files import replace_folder
from lmsteer.util.memory import trim_heap

_SUMS_FILE, _SAMPLE_FILE, _RECORD_FILE = "statistics.safetensors", "sample-{:04d}.safetensors", "statistics.json"
# Raised when what is saved changes.
_FORMAT = 3
_MATRICES = ("G", "D", "C_end")
_VECTORS = ("g_end", "h_end", "r_end")
# Memory is given back after so many batches: what is given back must be fetched anew, after each it would cost a tenth.
_BATCHES_TO_GIVE_BACK = 8


@dataclass(frozen=True)
class Counts:
    """What was summed over: numbers of texts, tokens and ends, and the sums of their labels."""

    texts: int = 0
    tokens: int = 0
    ends: int = 0
    label: float = 0.0
    label_squared: float = 0.0
    end_label: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass
class Statistics:
    """The sums of a fit, the rows held out of them, a sample of those in them, and whose they are.

    Attributes:
        base: the model's name.
        base_fingerprint: of the model.
        tokenizer_fingerprint: of its tokenizer.
        sums: the sums by name, float64: matrices (d, d), vectors (d,).
        held_out: rows of the texts that are held out.
        sample: rows of some texts that are in the sums, in blocks of whole texts: as one they would be copied whole
            whenever a text is added.
        counts: of the texts in the sums.
        fingerprint: of all texts, held-out ones included: the sum of their digests, in any order.
    """

    base: str
    base_fingerprint: str
    tokenizer_fingerprint: str
    sums: dict[str, Tensor]
    held_out: LabelledRows
    sample: tuple[LabelledRows, ...] = ()
    counts: Counts = field(default_factory=Counts)
    fingerprint: int = 0

    @classmethod
    def empty(cls, lm: LM) -> Statistics:
        """Statistics of no texts, for a model."""
        d = lm.hidden_size
        sums = {name: torch.zeros(d, d, dtype=torch.float64) for name in _MATRICES}
        sums |= {name: torch.zeros(d, dtype=torch.float64) for name in _VECTORS}
        return cls(lm.name, lm.fingerprint, lm.tokenizer_fingerprint, sums, LabelledRows.none(d))

    @property
    def texts(self) -> int:
        """How many texts there are, held-out ones included."""
        return self.counts.texts + len(self.held_out.texts()[1])

    @property
    def sample_rows(self) -> int:
        """How many rows the sample has."""
        return sum(map(len, self.sample))

    def add(self, rows: LabelledRows) -> None:
        """Take in the rows of some whole texts."""
        candidate = is_candidate(rows.digest)
        # All that takes memory comes first: what is interrupted leaves the sums as they were.
        sample = reservoir(self.sample, (rows[~candidate],))
        held_out, others = split_held_out(self.held_out, rows[candidate])
        self._sum(LabelledRows.join([rows[~candidate], others]))
        self.fingerprint += sum(starmap(from_int64_pair, torch.unique(rows.digest, dim=0).tolist()))
        self.sample, self.held_out = sample, held_out

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of texts, as if gathered at once; a text in both counts twice.

        Raises:
            WrongBaseError: they are of different models.
        """
        self.check_base(other.base, other.base_fingerprint)
        held_out, others = split_held_out(self.held_out, other.held_out)
        merged = replace(
            self,
            sums={name: total + other.sums[name] for name, total in self.sums.items()},
            sample=reservoir(self.sample, other.sample),
            held_out=held_out,
            counts=self.counts + other.counts,
            fingerprint=self.fingerprint + other.fingerprint,
        )
        merged._sum(others)
        return merged

    def check_base(self, name: str, fingerprint: str) -> None:
        """Refuse another base than the one that the statistics were gathered with.

        Raises:
            WrongBaseError: the fingerprints differ.
        """
        if fingerprint != self.base_fingerprint:
            raise WrongBaseError(
                f"these statistics are of the model {self.base!r} (fingerprint {self.base_fingerprint}), not of "
                f"{name!r} (fingerprint {fingerprint}); gather them anew with this model."
            )

    def save(self, folder: str | Path, **record: Any) -> Path:
        """Write the statistics to a folder; older ones there stand until the new ones are whole.

        Raises:
            StatisticsError: the disk does not take them.
        """
        about = {
            "format": _FORMAT,
            "base": self.base,
            "base_fingerprint": self.base_fingerprint,
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
            "counts": asdict(self.counts),
            "sample_blocks": len(self.sample),
            "fingerprint": hex(self.fingerprint),
            **record,
        }
        try:
            with replace_folder(Path(folder)) as aside:
                save_file({**self.sums, **_tensors(self.held_out)}, aside / _SUMS_FILE)
                for number, block in enumerate(self.sample):  # a file each: what is written is first copied
                    save_file(_tensors(block), aside / _SAMPLE_FILE.format(number))
                (aside / _RECORD_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise StatisticsError(f"cannot write statistics to {folder}: {error}.") from error
        return Path(folder)

    def _sum(self, rows: LabelledRows) -> None:
        h, r, s = rows.h.double(), rows.r.double(), rows.label.double()
        inside, end = ~rows.is_end, rows.is_end
        hc, rc, sc = h[inside], r[inside], s[inside]
        self.sums["D"] += hc.T @ rc
        self.sums["G"] += (hc * sc[:, None]).T @ rc
        self.sums["C_end"] += h[end].T @ h[end]
        self.sums["g_end"] += h[end].T @ s[end]
        self.sums["h_end"] += h[end].sum(0)
        self.sums["r_end"] += r[end].sum(0)
        texts = len(rows.texts()[1])
        squared, label, at_end = float((sc**2).sum()), float(sc.sum()), float(s[end].sum())
        self.counts += Counts(texts, int(inside.sum()), int(end.sum()), label, squared, at_end)


def _tensors(rows: LabelledRows) -> dict[str, Tensor]:
    return {f.name: getattr(rows, f.name).contiguous() for f in fields(LabelledRows)}


def _rows(tensors: dict[str, Tensor]) -> LabelledRows:
    return LabelledRows(**{f.name: tensors[f.name] for f in fields(LabelledRows)})


def load_statistics(folder: str | Path) -> tuple[Statistics, dict[str, Any]]:
    """Read statistics from a folder, with the whole record that was saved beside them.

    Raises:
        StatisticsError: there are none, or damaged ones.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / _RECORD_FILE).read_text(encoding="utf-8"))
        if about["format"] != _FORMAT:
            raise StatisticsError(f"the statistics in {folder} are of another version of lmsteer; gather them anew.")
        tensors = load_file(folder / _SUMS_FILE)
        return (
            Statistics(
                base=about["base"],
                base_fingerprint=about["base_fingerprint"],
                tokenizer_fingerprint=about["tokenizer_fingerprint"],
                sums={name: tensors[name] for name in (*_MATRICES, *_VECTORS)},
                held_out=_rows(tensors),
                sample=tuple(_rows(load_file(folder / _SAMPLE_FILE.format(i))) for i in range(about["sample_blocks"])),
                counts=Counts(**about["counts"]),
                fingerprint=int(about["fingerprint"], 16),
            ),
            about,
        )
    except FileNotFoundError as error:
        missing = Path(error.filename).name if error.filename else error  # safetensors names it in words
        raise StatisticsError(f"no whole statistics in {folder}; missing: {missing}.") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StatisticsError(f"the statistics in {folder} are damaged: {type(error).__name__}: {error}.") from error


def gather_statistics(
    states: HiddenStates,
    texts: Sequence[LabelledText],
    statistics: Statistics,
    *,
    first_batch: int = 0,
    after_batch: Callable[[int, int], None] = lambda batch, tokens: None,
) -> Statistics:
    """Take the rows of texts in, a batch at a time.

    Args:
        states: of the texts.
        texts: the texts, with their labels.
        statistics: to add to.
        first_batch: batches before this one are in ``statistics`` already.
        after_batch: told the number of batches that are in, and the tokens of the last one.
    """
    for number in range(first_batch, len(states.batches)):
        rows = states.rows(number, texts)
        statistics.add(rows)
        if number % _BATCHES_TO_GIVE_BACK == 0:
            trim_heap()
        after_batch(number + 1, len(rows))
    trim_heap()
    return statistics
