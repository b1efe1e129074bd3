"""Full fine-tuning: every weight w of a model becomes ``w + s Δ``, and Δ is trained.

Δ is float32 whatever the precision of w, so that small steps add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM
from lmsteer.model.weights import temporary_update


class FullFineTuning(nn.Module):
    """Trainable changes Δ of the parameters of a frozen model, zero at first.

    Args:
        lm: the model.
        left_out: modules whose parameters are not trained.

    Raises:
        ModelError: a model whose weights are quantised.
    """

    def __init__(self, lm: LM, left_out: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        fixed = {id(parameter) for module in left_out for parameter in module.parameters()}
        parameters = {name: p for name, p in lm.model.named_parameters() if id(p) not in fixed}
        if not all(p.is_floating_point() and p.element_size() > 1 for p in parameters.values()):
            raise ModelError("full fine-tuning needs weights that are plain numbers; load the model unquantised.")
        self._lm, self.names = lm, list(parameters)
        zeros = (torch.zeros(p.shape, dtype=torch.float32, device=p.device) for p in parameters.values())
        self.changes = nn.ParameterList(zeros)

    def installed(self, strength: float = 1.0) -> AbstractContextManager[None]:
        """Let the model's weights be ``w + s Δ`` within a ``with`` block; gradients reach Δ."""
        return temporary_update(self._lm.model, zip(self.names, self.changes, strict=True), strength)

    def named_changes(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """A copy of Δ on the CPU, by the names of the parameters."""
        pairs = zip(self.names, self.changes, strict=True)
        return {name: change.detach().to("cpu", dtype, copy=True) for name, change in pairs}
