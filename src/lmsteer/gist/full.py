"""Full fine-tuning: every weight of a model is trained but its embeddings; what they change by is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM


class Full(nn.Module):
    """A trained copy of the weights of a frozen model.

    Raises:
        ModelError: a model whose weights are not float32, in which small steps would round away.
    """

    def __init__(self, lm: LM) -> None:
        super().__init__()
        kept = {id(p) for module in (lm.model.get_input_embeddings(), lm.head.module) for p in module.parameters()}
        self._frozen = {name: p for name, p in lm.model.named_parameters() if id(p) not in kept}
        if any(parameter.dtype != torch.float32 for parameter in self._frozen.values()):
            raise ModelError(
                "full fine-tuning needs weights in float32, in which small steps do not round away: load the model "
                "unquantised and with dtype=torch.float32."
            )
        paths = {name: name.rpartition(".") for name in self._frozen}
        self._places = {name: (lm.model.get_submodule(path), own) for name, (path, _, own) in paths.items()}
        copies = [p.detach().clone(memory_format=torch.contiguous_format) for p in self._frozen.values()]
        self.trained = nn.ParameterList(copies)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the model work with the trained weights, within a ``with`` block."""
        self._put(dict(zip(self._frozen, self.trained, strict=True)))
        try:
            yield
        finally:
            self._put(self._frozen)

    @torch.no_grad()
    def changes(self) -> dict[str, Tensor]:
        """What is to be added to each parameter by name; in bfloat16, as adapters keep it."""
        pairs = zip(self._frozen.items(), self.trained, strict=True)
        return {name: (new - old).to("cpu", torch.bfloat16) for (name, old), new in pairs}

    def _put(self, parameters: dict[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            module, own = self._places[name]
            setattr(module, own, parameter)
