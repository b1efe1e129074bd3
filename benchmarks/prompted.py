"""How far conditions are from a prompted model on given texts, and how methods are trained to imitate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from lmsteer.baselines.baseline import Trainer
from lmsteer.data.chats import Chat
from lmsteer.evaluation.conditions import Condition
from lmsteer.generation.generate import encode_prompts
from lmsteer.model.batching import pad
from lmsteer.model.kv_cache import inputs_of
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix
from lmsteer.steer.strength import sizes_of
from lmsteer.util.compat import CACHE
from lmsteer.util.progress import Progress

_BATCH = 16


@dataclass(frozen=True)
class Answers:
    """Texts that answer requests.

    Attributes:
        lm: the model.
        chats: the requests.
        texts: token ids of an answer to each.
    """

    lm: LM
    chats: Sequence[Chat]
    texts: Sequence[Sequence[int]]

    @torch.inference_mode()
    def states(self, condition: Condition) -> Tensor:
        """The hidden states (N, d) that predict the tokens of the texts under a condition, text by text."""
        lm, parts = self.lm, []
        prefill = condition.prefill(lm, self.chats, max(map(len, self.texts)))
        steers, strengths = condition.steering
        mix = Mix(steers, sizes_of(strengths))
        with prefill.installed():
            for first in range(0, len(self.texts), _BATCH):
                places = range(first, min(first + _BATCH, len(self.texts)))
                inputs = inputs_of(lm, [prefill.starts[place] for place in places])
                ids, kept = pad([self.texts[place] for place in places], lm.pad_id, lm.device)
                h = lm.before_head(mix, **_extended(inputs, ids, kept))[:, -ids.shape[1] - 1 : -1]
                parts.append((mix.steer_hidden_states(h, h) if steers else h)[kept.bool()].float())
        return torch.cat(parts)

    @torch.inference_mode()
    def divergence(self, wanted: Tensor, found: Tensor) -> float:
        """KL(wanted ‖ found) of the predictions from hidden states (N, d), in nats a token."""
        total = 0.0
        for one, other in self.lm.head.pieces(wanted, found):
            log_p, log_q = (torch.log_softmax(self.lm.head.logits(h), -1) for h in (one, other))
            total += len(one) * float(kl_div(log_q, log_p, reduction="batchmean", log_target=True))
        return total / len(wanted)

    def teach(self, trainer: Trainer, wanted: Tensor, steps: int, batch: int, progress: Progress) -> None:
        """Train a method to predict at strength 1, without a prompt, what these hidden states (N, d) predict."""
        lm = self.lm
        before = encode_prompts(lm, self.chats, max(map(len, self.texts)))
        own = wanted.split([*map(len, self.texts)])
        optimizer = torch.optim.AdamW(trainer.trainable(), trainer.learning_rate, weight_decay=0.0)
        random = torch.Generator().manual_seed(0)
        with progress("imitating the prompt", steps, 0) as report:
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = trainer.learning_rate * (1 - step / steps)
                drawn = torch.randint(len(self.texts), (batch,), generator=random).tolist()
                ids, mask = pad([[*before[i], *self.texts[i]] for i in drawn], lm.pad_id, lm.device)
                logits = trainer.logits(ids, mask, torch.ones(batch, device=lm.device))
                found = [
                    logits[k, len(before[i]) - 1 : len(before[i]) + len(self.texts[i]) - 1] for k, i in enumerate(drawn)
                ]
                log_q = torch.log_softmax(torch.cat(found).float(), -1)
                log_p = torch.log_softmax(lm.head.logits(torch.cat([own[i] for i in drawn])), -1)
                loss = kl_div(log_q, log_p, reduction="batchmean", log_target=True)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                report(1, f"{loss.item():.3f} nats a token")


def _extended(inputs: dict[str, object], ids: Tensor, kept: Tensor) -> dict[str, object]:
    """The arguments of a forward pass over prompts (B, T) and texts (B, L) after them."""
    before, mask = inputs["input_ids"], inputs["attention_mask"]
    assert isinstance(before, Tensor)
    assert isinstance(mask, Tensor)
    mask = torch.cat([mask, kept], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    if isinstance(given := inputs.get("position_ids"), Tensor):
        after = given[:, -1:] + torch.arange(1, ids.shape[1] + 1, device=ids.device)
        positions = torch.cat([given, after], 1)
    cache = inputs.get(CACHE)
    read = cache.get_seq_length() if cache is not None else 0  # type: ignore[attr-defined]
    optional = {} if cache is None else {CACHE: cache, "use_cache": True}
    whole = torch.cat([before, ids], 1)
    return {
        "input_ids": whole[:, read:],
        "attention_mask": mask,
        "position_ids": positions[:, read:],
        **optional,
    }
