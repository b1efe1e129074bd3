"""What a fit inside the model knows of its labelled texts: sums over tokens at each site.

With x (n,) what the map of a site reads at a token, and g, g_q (m,) the gradients at its output of the log-likelihood
of the text, and of that of its tokens weighed by their credit q (``credit_assignment``)::

    G = Σ s x gᵀ        D = Σ x gᵀ        Q = Σ x g_qᵀ                                        (n, m)

A gradient at a place of a text goes through all that the model says after it. At the head, where there is nothing after
it, these are the sums of ``statistics``. The ends of texts do not count, as there. Of the held-out texts there is
H = Σ s x gᵀ, which says what a map gains on them: ``tr(Aᵀ H B)``, a sum over tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import StatisticsError
from lmsteer.fitting.credit_assignment import credit
from lmsteer.model.batching import run_in_halves
from lmsteer.model.inside import gradients_at
from lmsteer.model.lm import LM
from lmsteer.reading.encoded_text import count_predicted, is_ended, own_tokens
from lmsteer.steer.sites import Site
from lmsteer.util.devices import float64_device
from lmsteer.util.files import replace_file
from lmsteer.util.linalg import weighted_product

_SUMS = ("G", "D", "Q", "H")
_COUNTS = ("tokens", "label", "credit", "held_out")


class InsideSums:
    """The sums of labelled texts at sites.

    Args:
        sites: the sites.

    Attributes:
        tensors: all sums by name, such as ``layers.15.G``, float64, on the devices of their sites.
        counts: the number of tokens in the sums, the sums of their labels and of their credits, and the number of
            tokens of held-out texts (4,).
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = sites
        self.tensors = {
            f"{site.name}.{name}": torch.zeros(
                site.inputs, site.outputs, dtype=torch.float64, device=float64_device(site.device)
            )
            for site in sites
            for name in _SUMS
        }
        self.counts = torch.zeros(len(_COUNTS), dtype=torch.float64)

    def gradients(self, site: Site) -> tuple[list[Tensor], Tensor]:
        """The gradients of a site at W = 0: of the labels, and of the credit if there is any; and the domain's."""
        tokens, label, credits, _ = self.counts.tolist()
        g, d, q = (self.tensors[f"{site.name}.{name}"] / tokens for name in "GDQ")
        labelled = g - label / tokens * d
        return ([labelled, q - credits / tokens * d] if q.any() else [labelled]), d

    def held_out(self, site: Site) -> Tensor:
        """The gradient (n, m) of the held-out texts' log-likelihood times their labels, in nats a token."""
        return self.tensors[f"{site.name}.H"] / self.counts[-1]

    def add(
        self,
        lm: LM,
        texts: Sequence[LabelledText],
        ids: Sequence[Sequence[int]],
        probe: Tensor | None,
        *,
        held_out: bool = False,
    ) -> None:
        """Add a batch of texts; in halves if memory is short. If that fails, the sums are as they were.

        Args:
            lm: the model.
            texts: the texts.
            ids: their ids.
            probe: w (d,), the probe for credit assignment; None for the labels alone.
            held_out: whether they are held out.

        Raises:
            DataError: memory is short for a single text.
            ModelError: a site that no gradient reaches, or that a forward pass does not call once.
        """
        labels = {id(own): text.label for text, own in zip(texts, ids, strict=True)}
        run = partial(self._held_out_sums, lm, labels) if held_out else partial(self._sums_of, lm, labels, probe)
        for _, (sums, counts) in run_in_halves(run, ids):
            for name, increment in sums.items():
                self.tensors[name] += increment.to(self.tensors[name].device)
            self.counts += counts

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
            q, seen = credit(h, index, probe.to(float64_device(h.device)))
            credits.copy_(q * seen * inside)
            return [r, r * credits.to(r)[:, None]]

        sums = dict[str, Tensor]()
        for name, (x, gradients) in gradients_at(lm, ids, own_tokens(ids), self.sites, objectives).items():
            sums[f"{name}.G"] = weighted_product(x, gradients[0], label)
            sums[f"{name}.D"] = weighted_product(x, gradients[0], ones)
            if probe is not None:
                sums[f"{name}.Q"] = weighted_product(x, gradients[1], ones)
        nothing = torch.zeros(())
        return sums, torch.stack([inside.sum(), (label * inside).sum(), credits.sum(), nothing]).double()

    def _held_out_sums(
        self, lm: LM, labels: Mapping[int, float], ids: Sequence[Sequence[int]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What some held-out texts add to the sums and counts."""
        _, inside, label = _places(lm, labels, ids)

        def likelihood(h: Tensor, targets: Tensor) -> list[Tensor]:
            return [lm.head.residuals(h, targets)[0] * inside.to(h.device)[:, None]]

        found = gradients_at(lm, ids, own_tokens(ids), self.sites, likelihood)
        sums = {f"{name}.H": weighted_product(x, g, label) for name, (x, (g,)) in found.items()}
        return sums, torch.tensor([0, 0, 0, int(inside.sum())], dtype=torch.float64)

    def save(self, file: Path, batches: int, of: int) -> None:
        """Write the sums to a file, with the number of batches that are in them and of all; an older one stays so long.

        Args:
            file: the file.
            batches: the number of batches in the sums.
            of: the number of all batches.
        """
        with replace_file(file) as aside:
            save_file({**self.tensors, "counts": self.counts, "batches": torch.tensor([batches, of])}, aside)

    def add_file(self, file: Path) -> tuple[int, int]:
        """Add the sums in a file; return the number of batches that are in them, and of all.

        Raises:
            StatisticsError: the file is missing, damaged, or of other sites.
        """
        try:
            with safe_open(file, "pt") as kept:
                for name, total in self.tensors.items():
                    total += kept.get_tensor(name).to(total.device)
                self.counts += kept.get_tensor("counts")
                batches, of = kept.get_tensor("batches").tolist()
                return int(batches), int(of)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise StatisticsError(f"the sums in {file} are missing, damaged, or of other sites: {error}.") from error


def _places(lm: LM, labels: Mapping[int, float], ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """For each predicted token (N,): the number of its text, whether it is no end, and its label."""
    lengths = torch.tensor([count_predicted(text) for text in ids])
    index = torch.repeat_interleave(torch.arange(len(ids)), lengths)
    inside = torch.ones(len(index), dtype=torch.bool)
    ends = lengths.cumsum(0) - 1
    inside[ends[torch.tensor([is_ended(lm, text) for text in ids])]] = False
    return index, inside, torch.tensor([labels[id(text)] for text in ids], dtype=torch.float64)[index]
