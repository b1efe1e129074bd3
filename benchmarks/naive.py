"""The published loops of LM-Steer (Han et al., ACL 2024), written plainly: what a user of its scripts pays today.

Same mathematics as ours, without any of the savings: the model as transformers loads it, the steer in it as another
output layer of rank 1,000, the whole model run at every step of the fit, one text at a time when generating, and one
copy of the text for every strength when analysing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmsteer.model.lm import LM
from lmsteer.model.sources.resolve import DEFAULT_MODEL, resolve

RANK, EPSILON, INITIAL, LEARNING_RATE = 1000, 1e-3, 1e-2, 1e-2


class PublishedHead(nn.Module):
    """The published output layer: ``logits = (h + ε s (h P₁) P₂ᵀ) Eᵀ``, with a domain steer always on."""

    def __init__(self, embedding: Tensor, strengths: Tensor, rank: int) -> None:
        super().__init__()
        d = embedding.shape[1]
        self.weight = nn.Parameter(embedding, requires_grad=False)
        self.strengths = strengths
        random = torch.Generator().manual_seed(0)
        self.p1, self.p2 = (nn.Parameter(torch.randn(2, d, rank, generator=random) * INITIAL) for _ in range(2))

    def forward(self, state: Tensor) -> Tensor:
        """Logits (B, T, V) of hidden states (B, T, d), with one strength a row and the domain steer at 1."""
        moved = torch.einsum("btd,kdr->kbtr", state, self.p1)
        moved = torch.einsum("kbtr,kdr->kbtd", moved, self.p2)
        both = torch.stack([self.strengths, torch.ones_like(self.strengths)])
        return (state + EPSILON * (moved * both[:, :, None, None]).sum(0)) @ self.weight.T


class Published:
    """The published code's calls on the default model, which has its own output layer again after each."""

    def __init__(self, rank: int = RANK) -> None:
        source = resolve(DEFAULT_MODEL)
        model = AutoModelForCausalLM.from_pretrained(source.location, local_files_only=source.local)
        self.lm = LM(model, AutoTokenizer.from_pretrained(source.location), source.name)
        self.head = PublishedHead(self.lm.head.weight, torch.zeros(1), rank)
        self._optimiser = torch.optim.Adam([self.head.p1, self.head.p2], lr=LEARNING_RATE)

    @contextmanager
    def _installed(self, strengths: Sequence[float]) -> Iterator[None]:
        own = self.lm.model.get_output_embeddings()
        self.head.strengths = torch.tensor(strengths)
        self.lm.model.set_output_embeddings(self.head)
        try:
            yield
        finally:
            self.lm.model.set_output_embeddings(own)

    def fit_step(self, texts: Sequence[str], labels: Sequence[float]) -> float:
        """One step of Adam on a batch, through the whole model."""
        batch = self.lm.tokenizer(list(texts), padding=True, return_tensors="pt")
        return self.step_on(batch["input_ids"], batch["attention_mask"], labels)

    def step_on(self, ids: Tensor, attention_mask: Tensor, labels: Sequence[float]) -> float:
        """The same on ids (B, T)."""
        targets = ids.masked_fill(attention_mask == 0, -100)
        with self._installed(labels):
            loss = self.lm.model(input_ids=ids, attention_mask=attention_mask, labels=targets).loss
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def generate(self, prompt: str, strength: float, tokens: int, seed: int) -> str:
        """One continuation of one prompt."""
        torch.manual_seed(seed)
        ids = self.lm.tokenizer(prompt, return_tensors="pt")
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        with self._installed([strength]):
            done = self.lm.model.generate(  # type: ignore[operator]
                **ids, **length, do_sample=True, top_p=0.9, pad_token_id=self.lm.pad_id
            )
        return str(self.lm.tokenizer.decode(done[0, ids["input_ids"].shape[1] :]))

    @torch.no_grad()
    def analyse(self, text: str, strengths: Sequence[float]) -> tuple[list[float], Tensor]:
        """Log-likelihood of a text at each strength, and each token's evidence (T - 1,): two more passes."""
        ids = self.lm.tokenizer(text, return_tensors="pt")["input_ids"]
        losses = []
        for strength in strengths:
            with self._installed([strength]):
                losses.append(-float(self.lm.model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1))
        low, high = (self._token_log_likelihoods(ids, strength) for strength in (min(strengths), max(strengths)))
        return losses, high - low

    def _token_log_likelihoods(self, ids: Tensor, strength: float) -> Tensor:
        with self._installed([strength]):
            log_p = self.lm.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return log_p.gather(1, ids[0, 1:, None]).squeeze(1)
