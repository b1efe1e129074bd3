"""A steer imitated by a LoRA on the last layer's value matrix: how much of it is out of reach from there.

Claim (b) of ``benchmarks.claims``. The LoRA is trained to predict what the steered model predicts, by
KL(steered ‖ LoRA) at every token of some texts, and read on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from lmsteer.baselines.lora import LoRATrainer
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix

STEPS, BATCH, RATE = 200, 16, 1e-2
Rows = Sequence[Sequence[int]]
Logits = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Imitation:
    """Of a steer, by LoRAs of any rank.

    Attributes:
        lm: the model.
        mix: the steer at a strength.
        ids: of the texts that LoRAs are taught on.
        unseen: of those that they are read on.
    """

    lm: LM
    mix: Mix
    ids: Rows
    unseen: Rows

    def left(self, rank: int) -> dict[str, float]:
        """What the best LoRA that training finds leaves undone of the steer, on unseen texts."""
        made = self._taught(rank)
        left, whole, tokens = torch.zeros(2).double(), torch.zeros(2).double(), sum(map(len, self.unseen))
        with torch.no_grad():
            for batch in length_buckets(self.unseen):
                rows = [self.unseen[i] for i in batch]
                wanted = self._steered(rows)
                left += _apart(wanted, self._imitated(made, rows))
                whole += _apart(wanted, self._log_probabilities(rows, self._plain))
        (nats, logits), (all_nats, all_logits) = (left / tokens).tolist(), (whole / tokens).tolist()
        return {
            "nats a token": nats,
            "untouched": all_nats,
            "share left": nats / all_nats,
            "share left, of logits": (logits / all_logits) ** 0.5,
        }

    def _taught(self, rank: int) -> LoRATrainer:
        made = LoRATrainer(self.lm, "value", rank)
        optimizer = torch.optim.AdamW(made.trainable(), RATE, weight_decay=0.0)
        random = torch.Generator().manual_seed(0)
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / STEPS)
            drawn = torch.randint(len(self.ids), (BATCH,), generator=random).tolist()
            wanted = torch.cat([self._wanted[i] for i in drawn])
            _divergence(wanted, self._imitated(made, [self.ids[i] for i in drawn])).backward()
            optimizer.step()
            optimizer.zero_grad()
        return made

    @cached_property
    def _wanted(self) -> Sequence[Tensor]:
        """Log-probabilities of each text under the steer; of five hundred sentences 2.5 GB, for all ranks."""
        return [self._steered([row]) for row in self.ids]

    def _steered(self, rows: Rows) -> Tensor:
        with torch.no_grad(), self.lm.steered(self.mix):
            return self._log_probabilities(rows, self._plain)

    def _imitated(self, made: LoRATrainer, rows: Rows) -> Tensor:
        return self._log_probabilities(rows, lambda padded, mask: made.logits(padded, mask, torch.ones(len(rows))))

    def _plain(self, padded: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.lm.model(input_ids=padded, attention_mask=mask, use_cache=False).logits
        return logits

    def _log_probabilities(self, rows: Rows, logits: Logits) -> Tensor:
        """Log-probabilities at every token, one row after the other: (tokens, vocabulary)."""
        padded, mask = pad(rows, self.lm.pad_id, self.lm.device)
        return torch.log_softmax(logits(padded, mask)[mask.bool()], -1)


def _apart(wanted: Tensor, found: Tensor) -> Tensor:
    """Sums over tokens: of KL(wanted ‖ found), and of the squares of what logits differ by, but for their mean."""
    gaps = found - wanted
    gaps -= gaps.mean(-1, keepdim=True)
    return torch.stack([len(wanted) * _divergence(wanted, found), gaps.square().mean(-1).sum()]).double().cpu()


def _divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """KL(wanted ‖ found), the mean over tokens."""
    return kl_div(found, wanted, reduction="batchmean", log_target=True)
