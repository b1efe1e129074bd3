"""The head: from hidden states to logits, and from a text's next tokens back to hidden-state space.

Symbols (shapes): ``h`` (.., d) the hidden states at the input of the output embedding, ``E`` (V, d) the output
embedding, ``b`` (V,) its bias if it has one. The model's logits are ``post(h Eᵀ + b)``, where ``post`` is
the model's own logit scale (Granite, Cohere) and soft cap (Gemma)::

    post(z) = c tanh(a z / c)        a: logit scale, c: soft cap (c → ∞ gives a z)

The gradient of a next token's log-likelihood with respect to ``h`` is its **residual**::

    r = Σ_v (1[v = y] - p(v | h)) post'(z_v) e_v                                          (d,)

which is ``e_y - Σ_v p(v) e_v`` for a model with neither scale nor cap.

``Head`` is the head of a model in memory, which computes. ``HeadShard`` is the part of a head that one process of an
engine holds, and ``HeadWeight`` the head of a checkpoint, read from its file alone (``lmsteer.model.head_file``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from lmsteer.errors import ModelError
from lmsteer.model.fingerprints import head_sample
from lmsteer.model.onednn import linear
from lmsteer.steer.steer import Steer
from lmsteer.util.compat import is_split, whole
from lmsteer.util.devices import is_host

# The names of logit scales in configs; the model multiplies (1) or divides (-1) by the value.
_SCALES = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")

# Values in the (rows, V) matrix of one piece: 48 MiB of floats. Smaller pieces make slower products, and memory blocks
# under 32 MiB, when they come and go, leave holes in glibc's heap.
PIECE_NUMBERS = 3 * 2**22
# The same on an accelerator, where a product reads the whole of E: 256 MiB, of which a sweep holds four.
_ON_AN_ACCELERATOR = 2**26


@dataclass(frozen=True)
class Head:
    """The output embedding of a model, with the model's logit scale and soft cap.

    Hidden states and targets may be on any device: they are moved to that of the weight.

    Attributes:
        module: the linear layer that ``get_output_embeddings()`` names; weight (V, d).
        scale: the model's logit scale, 1 if it has none.
        soft_cap: the model's final logit soft cap, or None.
    """

    module: nn.Module
    scale: float = 1.0
    soft_cap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Head:
        """Find a model's head through ``get_output_embeddings()`` and its config.

        Raises:
            ModelError: the model has no output embedding, or one whose weight is not a plain matrix.
        """
        module = model.get_output_embeddings()
        weight = getattr(module, "weight", None)
        if not isinstance(module, nn.Module) or not isinstance(weight, Tensor):
            raise ModelError(f"{type(model).__name__} has no output embedding: there is nothing to steer.")
        if weight.dim() != 2 or not weight.is_floating_point():
            raise ModelError(
                f"the output embedding of {type(model).__name__} is stored as {weight.dtype} of shape "
                f"{tuple(weight.shape)}; load the model with its head unquantised to fit or analyse."
            )
        config = model.config.get_text_config()
        return cls(module, _logit_scale(config), _soft_cap(config))

    @property
    def weight(self) -> Tensor:
        """E (V, d), detached, in the dtype of the model."""
        if "weight" in self._joined:
            return self._joined["weight"]
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    @cached_property
    def _joined(self) -> dict[str, Tensor]:
        """Weight and bias where each of several processes has a part in the module: joined once, and kept in all."""
        return {name: whole(own) for name, own in self.module.named_parameters() if is_split(own)}

    @property
    def device(self) -> torch.device:
        """The device of the weight, on which logits are computed."""
        return self.weight.device

    @property
    def piece_numbers(self) -> int:
        """How many logits are computed at a time on the head's device."""
        return piece_numbers(self.device)

    @property
    def bias(self) -> Tensor | None:
        """The head's bias (V,), if it has one."""
        bias = self._joined.get("bias", getattr(self.module, "bias", None))
        return bias.detach() if isinstance(bias, Tensor) else None

    def raw(self, h: Tensor) -> Tensor:
        """``h Eᵀ + b`` (.., V) before scale and soft cap, in the dtype of the head."""
        return linear(h.to(self.device, self.weight.dtype), self.weight, self.bias)

    def post(self, z: Tensor) -> Tensor:
        """The logits (.., V) that the model makes of raw logits ``z``: scaled, then capped."""
        z = z * self.scale if self.scale != 1.0 else z
        return z if self.soft_cap is None else self.soft_cap * torch.tanh(z / self.soft_cap)

    def logits(self, h: Tensor) -> Tensor:
        """The model's own logits (.., V) of unsteered hidden states ``h`` (.., d), in float32."""
        return self.post(self.raw(h).float())

    def direction(self, shift: Tensor) -> Tensor:
        """The shift of raw logits (.., V) that a shift (.., d) of the hidden state makes, in float32."""
        return linear(shift.to(self.device, self.weight.dtype), self.weight).float()

    def log_likelihood_of(self, raw: Tensor, targets: Tensor) -> Tensor:
        """log p(target) (N,) under raw logits (N, V), which are overwritten unless they need a gradient."""
        z = self.post(raw)
        return _pick(torch.log_softmax(z, -1, out=None if z.requires_grad else z), targets)

    def log_likelihood(self, h: Tensor, targets: Tensor) -> Tensor:
        """log p(target | h) (N,) of rows ``h`` (N, d), in pieces: without gradients no (N, V) matrix is held."""
        parts = [self.log_likelihood_of(self.raw(rows).float(), y) for rows, y in self.pieces(h, targets)]
        return torch.cat(parts) if parts else h.new_zeros(0, dtype=torch.float32)

    def residuals(self, h: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals ``r`` (N, d) and log-likelihoods (N,) of next tokens ``targets`` (N,) after rows ``h``.

        They are computed in pieces, in float32, on the head's device.
        """
        h, targets = h.to(self.device), targets.to(self.device)
        residuals, log_likelihoods = torch.empty_like(h, dtype=torch.float32), torch.empty(len(h), device=h.device)
        out = self.pieces(residuals, log_likelihoods)
        for (rows, y), (residual, log_likelihood) in zip(self.pieces(h, targets), out, strict=True):
            z = self.logits(rows)
            target_logit, likeliest, slope = _pick(z, y), z.amax(-1), self._slope(z)
            error = torch.softmax(z, -1, out=z)  # in place: fresh memory takes as much time as the computation
            log_likelihood.copy_(target_logit - likeliest + error.amax(-1).log())
            error[torch.arange(len(y), device=y.device), y] -= 1
            residual.copy_(linear(error.mul_(-slope).to(self.weight.dtype), self.weight.T))
        return residuals, log_likelihoods

    def pieces(self, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Split tensors along their first dimension, so that the logits of a piece stay under ``piece_numbers``."""
        size = max(1, self.piece_numbers // self.weight.shape[0])
        yield from zip(*(tensor.split(size) for tensor in rows if len(tensor)), strict=True)

    def _slope(self, logits: Tensor) -> Tensor | float:
        """post'(z), from the final logits: a (1 - tanh²)."""
        if self.soft_cap is None:
            return self.scale
        return self.scale * (1 - (logits / self.soft_cap) ** 2)


@dataclass(frozen=True)
class HeadShard:
    """The rows of an output embedding that one process of an engine holds (tensor parallelism splits V).

    Attributes:
        weight: some rows of E, then padding.
        first: the index in E of the first row.
        last: the index in E after the last row.
        rows: V, the number of rows of E.
    """

    weight: Tensor
    first: int
    last: int
    rows: int

    @property
    def is_whole(self) -> bool:
        """Whether it holds all rows of E."""
        return self.last - self.first == self.rows

    def check(self, steer: Steer) -> None:
        """Refuse a steer of another base, by the values that the steer's card has of its base's head.

        Raises:
            WrongBaseError: a value differs.
        """
        held = self.weight[: self.last - self.first]
        steer.card.check_head(head_sample(held, self.rows, self.first))


@dataclass(frozen=True)
class HeadWeight:
    """The output embedding of a checkpoint, with the names that an adapter for it needs.

    Attributes:
        base: the name of the model.
        module: the name of the module, as in PEFT's ``target_modules``.
        weight: E (V, d).
    """

    base: str
    module: str
    weight: Tensor


def piece_numbers(device: torch.device) -> int:
    """How many logits are computed at a time on a device: 48 MiB of them on a CPU, 256 MiB on an accelerator."""
    return PIECE_NUMBERS if is_host(device) else _ON_AN_ACCELERATOR


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index[:, None].to(values.device)).squeeze(-1)


def _logit_scale(config: PretrainedConfig) -> float:
    scale = 1.0
    for name, power in _SCALES.items():
        value = getattr(config, name, None)
        scale *= float(value) ** power if value is not None else 1.0
    return scale


def _soft_cap(config: PretrainedConfig) -> float | None:
    caps = [getattr(config, name, None) for name in _SOFT_CAPS]
    return next((float(cap) for cap in caps if cap is not None), None)
