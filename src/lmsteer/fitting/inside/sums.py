"""What a fit inside the model knows of its labelled texts: sums over tokens at each site.

With x (n,) what the map of a site reads at a token, and g, g_q (m,) the gradients at its output of the log-likelihood
of the text, and of that of its tokens weighed by their credit q (``credit_assignment``)::

    G = Σ s x gᵀ        D = Σ x gᵀ        Q = Σ x g_qᵀ                                        (n, m)

A gradient at a place of a text goes through all that the model says after it. At the head, where there is nothing after
it, these are the sums of ``statistics``. The ends of texts do not count, as there. Rows of the held-out texts are kept,
to weigh damping and sites by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import StatisticsError
from lmsteer.fitting.credit_assignment import credit, weighted_product
from lmsteer.model.batching import run_in_halves
from lmsteer.model.inside import gradients_at
from lmsteer.model.lm import LM
from lmsteer.reading.encoded_text import count_predicted, is_ended, own_tokens
from lmsteer.steer.sites import Site
from lmsteer.steer.steer import LowRank
from lmsteer.util.files import replace_file

_SUMS = ("G", "D", "Q")
_COUNTS = ("tokens", "label", "credit")


@dataclass(frozen=True)
class HeldOutRows:
    """Rows of held-out texts at a site, float32 on the CPU.

    Attributes:
        x: what its map reads (N, n).
        g: the gradients of the log-likelihood at its output (N, m).
        label: the labels of the texts (N,).
    """

    x: Tensor
    g: Tensor
    label: Tensor

    def gain(self, factors: LowRank) -> float:
        """The slope of the texts' log-likelihood along a map at strength 0, times their labels, in nats a token."""
        slopes = ((self.x.double() @ factors.a) * (self.g.double() @ factors.b)).sum(1)
        return float((self.label * slopes).mean())


class InsideSums:
    """The sums of labelled texts at sites.

    Args:
        sites: the sites.

    Attributes:
        tensors: all sums by name, such as ``layers.15.G``, and the rows of held-out texts.
        counts: the number of tokens in the sums, and the sums of their labels and of their credits (3,).
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = sites
        self.tensors = {
            f"{site.name}.{name}": torch.zeros(site.inputs, site.outputs, dtype=torch.float64)
            for site in sites
            for name in _SUMS
        }
        self.counts = torch.zeros(len(_COUNTS), dtype=torch.float64)
        self._held_out: dict[str, list[Tensor]] = {f"{site.name}.{part}": [] for site in sites for part in ("x", "g")}
        self._held_out["label"] = []

    def gradients(self, site: Site) -> tuple[list[Tensor], Tensor]:
        """The gradients of a site at W = 0: of the labels, and of the credit if there is any; and the domain's."""
        tokens, label, credits = self.counts.tolist()
        g, d, q = (self.tensors[f"{site.name}.{name}"] / tokens for name in _SUMS)
        labelled = g - label / tokens * d
        return ([labelled, q - credits / tokens * d] if q.any() else [labelled]), d

    def held_out(self, site: Site) -> HeldOutRows:
        """The rows of held-out texts at a site."""
        return HeldOutRows(*(torch.cat(self._held_out[name]) for name in (f"{site.name}.x", f"{site.name}.g", "label")))

    def add(self, lm: LM, texts: Sequence[LabelledText], ids: Sequence[Sequence[int]], probe: Tensor | None) -> None:
        """Add a batch of texts; in halves if memory is short. If that fails, the sums are as they were.

        Args:
            lm: the model.
            texts: the texts.
            ids: their ids.
            probe: w (d,), the probe for credit assignment; None for the labels alone.

        Raises:
            DataError: memory is short for a single text.
            ModelError: a site that no gradient reaches, or that a forward pass does not call once.
        """
        labels = {id(own): text.label for text, own in zip(texts, ids, strict=True)}
        for _, (sums, counts) in run_in_halves(partial(self._sums_of, lm, labels, probe), ids):
            for name, increment in sums.items():
                self.tensors[name] += increment
            self.counts += counts

    def hold_out(self, lm: LM, texts: Sequence[LabelledText], ids: Sequence[Sequence[int]]) -> None:
        """Keep the rows of a batch of held-out texts; errors as those of ``add``."""
        labels = {id(own): text.label for text, own in zip(texts, ids, strict=True)}
        for _, rows in run_in_halves(partial(self._rows_of, lm, labels), ids):
            for name, own in rows.items():
                self._held_out[name].append(own)

    def _sums_of(
        self, lm: LM, labels: Mapping[int, float], probe: Tensor | None, ids: Sequence[Sequence[int]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What some texts add to the sums and counts."""
        index, inside, label = _places(lm, labels, ids)
        credits, ones = torch.zeros(len(index), dtype=torch.float64), torch.ones_like(label)

        def objectives(h: Tensor, targets: Tensor) -> list[Tensor]:
            r = lm.head.residuals(h, targets)[0] * inside.to(h.device)[:, None]
            if probe is None:
                return [r]
            q, seen = credit(h.cpu(), index, probe)
            credits.copy_(q * seen * inside)
            return [r, r * credits.to(r)[:, None]]

        sums = dict[str, Tensor]()
        for name, (x, gradients) in gradients_at(lm, ids, own_tokens(ids), self.sites, objectives).items():
            x, g = x.cpu(), [each.cpu() for each in gradients]
            sums[f"{name}.G"] = weighted_product(x, g[0], label)
            sums[f"{name}.D"] = weighted_product(x, g[0], ones)
            if probe is not None:
                sums[f"{name}.Q"] = weighted_product(x, g[1], ones)
        return sums, torch.stack([inside.sum(), (label * inside).sum(), credits.sum()])

    def _rows_of(self, lm: LM, labels: Mapping[int, float], ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The rows of some held-out texts, without those of their ends."""
        _, inside, label = _places(lm, labels, ids)

        def likelihood(h: Tensor, targets: Tensor) -> list[Tensor]:
            return [lm.head.residuals(h, targets)[0] * inside.to(h.device)[:, None]]

        rows = {"label": label[inside].float()}
        for name, (x, (g,)) in gradients_at(lm, ids, own_tokens(ids), self.sites, likelihood).items():
            rows |= {f"{name}.x": x.cpu()[inside], f"{name}.g": g.cpu()[inside]}
        return rows

    def save(self, file: Path, batches: int) -> None:
        """Write the sums to a file, with the number of batches that are in them; an older one stays until then."""
        held_out = {f"held out {name}": torch.cat(parts) for name, parts in self._held_out.items() if parts}
        counts = {"counts": self.counts, "batches": torch.tensor([batches])}
        with replace_file(file) as aside:
            save_file({**self.tensors, **held_out, **counts}, aside)

    @classmethod
    def read(cls, sites: Sequence[Site], file: Path) -> tuple[Self, int]:
        """The sums in a file, and the number of batches in them; none if there is no file.

        Raises:
            StatisticsError: the file is damaged, or of other sites.
        """
        sums = cls(sites)
        if not file.exists():
            return sums, 0
        try:
            tensors = load_file(file)
            for name, zero in sums.tensors.items():
                zero += tensors[name]
            for name, parts in sums._held_out.items():
                parts += [tensors[key] for key in (f"held out {name}",) if key in tensors]
            sums.counts += tensors["counts"]
            return sums, int(tensors["batches"])
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise StatisticsError(f"the sums in {file} are damaged, or of other sites: {error}.") from error


def _places(lm: LM, labels: Mapping[int, float], ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """For each predicted token (N,): the number of its text, whether it is no end, and its label."""
    lengths = torch.tensor([count_predicted(text) for text in ids])
    index = torch.repeat_interleave(torch.arange(len(ids)), lengths)
    inside = torch.ones(len(index), dtype=torch.bool)
    ends = lengths.cumsum(0) - 1
    inside[ends[torch.tensor([is_ended(lm, text) for text in ids])]] = False
    return index, inside, torch.tensor([labels[id(text)] for text in ids], dtype=torch.float64)[index]
