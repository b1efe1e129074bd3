"""Statistics: all that a closed-form fit needs to know of its texts, as sums over tokens.

With ``h_t`` (d,) the hidden state that predicts token t, ``r_t`` (d,) its residual and ``s`` the text's label::

    G = Σ s h rᵀ     the gradient of the log-likelihood at W = 0             (d, d)
    D = Σ h rᵀ       the domain gradient: what the texts have in common      (d, d)

over the tokens of the texts, and, separately, over the ends of the texts::

    C_end = Σ h hᵀ (d, d),   g_end = Σ s h,   h_end = Σ h,   r_end = Σ r     (d,)

They are plain sums in float64: the hidden states are taken in batch by batch and their number does not change the size
of the sums. Statistics are merged across machines by addition and extended by new texts, and the result is that of all
texts at once. The Fisher matrix of the step is the model's own (``fisher_factors``).

Some texts are held out of the sums, to choose damping and scale by: those with a small digest, which is the same choice
in every order, file and process. Their rows are kept, up to a limit, and so are the rows of a sample of the other
texts, for ``credit``.
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
from lmsteer.errors import StatisticsError
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.statistics_files import RECORD_FILE, SAMPLE_FILE, SUMS_FILE, check_statistics_target
from lmsteer.model.lm import LM
from lmsteer.reading.rows import LabelledRows, from_int64_pair
from lmsteer.reading.splits import is_candidate, reservoir, split_held_out
from lmsteer.util.devices import float64_device
from lmsteer.util.files import replace_folder, writing
from lmsteer.util.linalg import in_float64, weighted_product
from lmsteer.util.memory import trim_heap
from lmsteer.util.provenance import Provenance, provenance_of
from lmsteer.util.records import from_record, parse_json

# Raised whenever the contents of the files change.
_FORMAT = 4
_MATRICES = ("G", "D", "C_end")
_VECTORS = ("g_end", "h_end", "r_end")
# Free memory is returned to the system after so many batches; after each batch it would take a tenth of the time.
_TRIM_EVERY = 8


@dataclass(frozen=True)
class Counts:
    """What was summed over.

    Attributes:
        texts: number of texts.
        tokens: number of tokens, without the ends of texts.
        ends: number of ends of texts.
        label: sum of the labels over the tokens.
        label_squared: sum of the squared labels over the tokens.
        end_label: sum of the labels over the ends.
    """

    texts: int = 0
    tokens: int = 0
    ends: int = 0
    label: float = 0.0
    label_squared: float = 0.0
    end_label: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


class StatisticsProvenance(Provenance):
    """The model that statistics were gathered with."""

    @property
    def title(self) -> str:
        """What the statistics are called in an error message."""
        return "this set of statistics"


@dataclass
class Statistics:
    """The sums of a fit, and the rows that are kept beside them.

    Attributes:
        provenance: the model that the statistics were gathered with.
        sums: the sums by name, float64: matrices (d, d) and vectors (d,).
        held_out: rows of the texts that are held out of the sums.
        sample: rows of some of the texts in the sums, in blocks of whole texts: a single block would be copied
            whenever a text is added.
        counts: what the sums are over.
        fingerprint: the sum of the digests of all texts, held-out ones included; the order does not matter.
    """

    provenance: StatisticsProvenance
    sums: dict[str, Tensor]
    held_out: LabelledRows
    sample: tuple[LabelledRows, ...] = ()
    counts: Counts = field(default_factory=Counts)
    fingerprint: int = 0

    @classmethod
    def empty(cls, lm: LM) -> Statistics:
        """Statistics of no texts, for a model; the sums are on the device of its head."""
        d, device = lm.hidden_size, float64_device(lm.head.device)
        sums = {name: torch.zeros(d, d, dtype=torch.float64, device=device) for name in _MATRICES}
        sums |= {name: torch.zeros(d, dtype=torch.float64, device=device) for name in _VECTORS}
        return cls(StatisticsProvenance(**provenance_of(lm)), sums, LabelledRows.none(d))

    @property
    def device(self) -> torch.device:
        """The device of the sums; the rows that are kept are on the CPU."""
        return self.sums["G"].device

    @property
    def texts(self) -> int:
        """Number of texts, held-out ones included."""
        return self.counts.texts + len(self.held_out.texts()[1])

    @property
    def sample_rows(self) -> int:
        """Number of rows in the sample."""
        return sum(map(len, self.sample))

    def to(self, device: torch.device) -> Statistics:
        """The same statistics with their sums on a device."""
        return replace(self, sums={name: total.to(device) for name, total in self.sums.items()})

    def add(self, rows: LabelledRows) -> None:
        """Add the rows of some whole texts."""
        candidate = is_candidate(rows.digest)
        # What needs memory comes first, so that a failure leaves the sums as they were.
        sample = reservoir(self.sample, (rows[~candidate],))
        held_out, others = split_held_out(self.held_out, rows[candidate])
        self._sum(LabelledRows.join([rows[~candidate], others]))
        self.fingerprint += sum(starmap(from_int64_pair, torch.unique(rows.digest, dim=0).tolist()))
        self.sample, self.held_out = sample, held_out

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of texts, as if gathered at once; a text in both counts twice.

        Raises:
            WrongBaseError: they were gathered with different models.
        """
        self.provenance.check_base(other.provenance.model)
        held_out, others = split_held_out(self.held_out, other.held_out)
        merged = replace(
            self,
            sums={name: total + other.sums[name].to(total.device) for name, total in self.sums.items()},
            sample=reservoir(self.sample, other.sample),
            held_out=held_out,
            counts=self.counts + other.counts,
            fingerprint=self.fingerprint + other.fingerprint,
        )
        merged._sum(others)
        return merged

    def save(self, folder: str | Path, **more: Any) -> Path:
        """Write the statistics to a folder; an older version there stays until the new one is complete.

        Args:
            folder: the folder.
            more: JSON values to keep beside them.

        Raises:
            StatisticsError: the folder holds something else.
            OutputError: it cannot be written.
        """
        folder = Path(folder)
        check_statistics_target(folder)
        record = {
            "format": _FORMAT,
            **provenance_of(self.provenance.model),
            "counts": asdict(self.counts),
            "sample_blocks": len(self.sample),
            "fingerprint": hex(self.fingerprint),
            **more,
        }
        with writing(folder, "statistics"), replace_folder(folder) as aside:
            save_file({**self.sums, **_tensors(self.held_out)}, aside / SUMS_FILE)
            for number, block in enumerate(self.sample):  # a file each: safetensors copies what it writes
                save_file(_tensors(block), aside / SAMPLE_FILE.format(number))
            (aside / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return folder

    def _sum(self, rows: LabelledRows) -> None:
        inside, end = rows[~rows.is_end], rows[rows.is_end]
        label, at_end = inside.label.double(), end.label.double()
        h, r = (in_float64(own, self.device) for own in (end.h, end.r))
        more = {
            "D": weighted_product(inside.h, inside.r),
            "G": weighted_product(inside.h, inside.r, label),
            "C_end": weighted_product(h, h),
            "g_end": h.T @ at_end.to(self.device),
            "h_end": h.sum(0),
            "r_end": r.sum(0),
        }
        for name, increment in more.items():  # which needs no more memory, and so does not fail half-way
            self.sums[name] += increment.to(self.device)
        sums_of_labels = float(label.sum()), float((label**2).sum()), float(at_end.sum())
        self.counts += Counts(len(rows.texts()[1]), len(inside), len(end), *sums_of_labels)


def _tensors(rows: LabelledRows) -> dict[str, Tensor]:
    return {f.name: getattr(rows, f.name).contiguous() for f in fields(LabelledRows)}


def _rows(tensors: dict[str, Tensor]) -> LabelledRows:
    return LabelledRows(**{f.name: tensors[f.name] for f in fields(LabelledRows)})


def load_statistics(folder: str | Path) -> tuple[Statistics, dict[str, Any]]:
    """Read statistics from a folder, with the JSON record that was saved beside them.

    Raises:
        StatisticsError: there are none, they are damaged, or of another format.
    """
    folder = Path(folder)
    try:
        record = parse_json((folder / RECORD_FILE).read_text(encoding="utf-8"))
        if record["format"] != _FORMAT:
            raise StatisticsError(
                f"the statistics in {folder} were saved by another version of lmsteer; gather them again."
            )
        tensors = load_file(folder / SUMS_FILE)
        return (
            Statistics(
                provenance=from_record(StatisticsProvenance, record),
                sums={name: tensors[name] for name in (*_MATRICES, *_VECTORS)},
                held_out=_rows(tensors),
                sample=tuple(_rows(load_file(folder / SAMPLE_FILE.format(i))) for i in range(record["sample_blocks"])),
                counts=from_record(Counts, record["counts"]),
                fingerprint=int(record["fingerprint"], 16),
            ),
            record,
        )
    except FileNotFoundError as error:
        # safetensors names the file in its message alone.
        missing = Path(error.filename).name if error.filename else error
        raise StatisticsError(f"no complete statistics in {folder}; missing: {missing}.") from error
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
    """Add the rows of texts to statistics, one batch at a time.

    Args:
        states: the hidden states of the texts.
        texts: the texts with their labels.
        statistics: the statistics to add to.
        first_batch: the first batch to add; those before are in ``statistics`` already.
        after_batch: called with the number of batches added so far and the number of tokens in the last one.
    """
    for number in range(first_batch, len(states.batches)):
        rows = states.rows(number, texts)
        statistics.add(rows)
        if number % _TRIM_EVERY == 0:
            trim_heap()
        after_batch(number + 1, len(rows))
    trim_heap()
    return statistics
