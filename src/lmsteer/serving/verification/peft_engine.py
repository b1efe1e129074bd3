"""PEFT in this process: a steer as a LoRA that plain transformers runs, whose scale is the strength."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from threading import Lock
from typing import Any, Self

import torch

from lmsteer.errors import ModelError
from lmsteer.export.peft import export_lora
from lmsteer.model.lm import LM
from lmsteer.serving.verification.engine import TOP, Engine, Written
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer


@dataclass(frozen=True)
class PeftEngine(Engine):
    """A model of transformers with a steer as a LoRA of PEFT. Requests wait for one another.

    Attributes:
        adapted: the model with the LoRA.
        lm: the same model, for its tokenizer.
    """

    adapted: Any
    lm: LM
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    @contextmanager
    def loaded(cls, lm: LM, steer: Steer) -> Iterator[Self]:
        """The engine within a ``with`` block, with a steer at strength 1 as its LoRA.

        Args:
            lm: a model of its own for PEFT, which puts the LoRA into it.
            steer: the steer.

        Raises:
            ModelError: PEFT is not installed.
            SteerError: no LoRA does what the steer does.
            WrongBaseError: the steer belongs to another base.
        """
        try:
            import peft
        except ImportError as error:
            raise ModelError("PEFT is not installed: install lmsteer with the extra 'methods'.") from error
        with tempfile.TemporaryDirectory() as folder:
            export_lora(lm, Mix({"steer": steer}, {"steer": 1.0}), folder)
            with warnings.catch_warnings():
                # Of a name of transformers that PEFT uses and that will go; and of merging with tied embeddings.
                warnings.simplefilter("ignore", FutureWarning)
                warnings.filterwarnings("ignore", ".*tie_word_embeddings", UserWarning)
                adapted = peft.PeftModel.from_pretrained(lm.model, folder).eval()
            try:
                yield cls("PEFT", version("peft"), lm.name, adapted, lm)
            finally:
                adapted.unload()

    @property
    def address(self) -> str:
        """Where it runs."""
        return "this process"

    def complete(
        self, prompt: Sequence[int] | str, max_tokens: int, steer: str = "", strength: float | None = None
    ) -> Written:
        """Continue a prompt, as in ``Engine``."""
        ids = self.lm.encode([prompt])[0] if isinstance(prompt, str) else prompt
        read = torch.tensor([ids], device=self.lm.device)
        with self._lock, self._at(strength), torch.inference_mode():
            done = self.adapted.generate(
                input_ids=read,
                attention_mask=torch.ones_like(read),
                max_new_tokens=max_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                pad_token_id=self.lm.pad_id,
                return_dict_in_generate=True,
                output_logits=True,
            )
        tokens = done.sequences[0, len(ids) :].tolist()
        log_p = list[dict[int, float]]()
        for token, logits in zip(tokens, done.logits, strict=True):
            row = torch.log_softmax(logits[0].float(), -1)
            log_p.append({each: float(row[each]) for each in (*row.topk(TOP).indices.tolist(), token)})
        return Written(tokens, log_p)

    def refuses_unknown_steers(self) -> None:
        """Return None: there is one adapter, and no request names it."""

    def _at(self, strength: float | None) -> AbstractContextManager[Any]:
        """The LoRA at a scale within a ``with`` block; None switches it off."""
        from peft.helpers import rescale_adapter_scale

        if strength is None:
            disabled: AbstractContextManager[Any] = self.adapted.disable_adapter()
            return disabled
        return rescale_adapter_scale(self.adapted, strength)
