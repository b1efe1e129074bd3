"""Activation addition: ``h_l + s v`` after one layer; v is half the difference of the means of both ends.

This is the control vector of Turner et al., 2023, and Zou et al., 2023, from labelled texts, not pairs of prompts.
Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lmsteer.baselines.baseline import BaselineCard, Capabilities, ForwardBaseline, StoredBaseline
from lmsteer.baselines.row_strengths import broadcast_strengths
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError, ModelError, WrongBaseError
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.model.row_adapters import RowAdapter, constant_addition
from lmsteer.model.row_layers import check_rows
from lmsteer.reading.encode_labelled import cut, encode_texts
from lmsteer.steer.sites import model_layers, output_of, with_output

_DIRECTION = "direction"


@dataclass(frozen=True)
class Activations(StoredBaseline, ForwardBaseline):
    """Directions in the residual stream. It stores ``direction.<l>`` (d,), which is added after layer l, from 0."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=True, transferable=False
    )

    def for_rows(self, lm: LM) -> Callable[[float], Start]:
        """Rows with the directions added after their layers, at any strength.

        Raises:
            WrongBaseError: another base, or one that has fewer layers.
            ModelError: a model whose rows cannot have an adapter each.
        """
        self.check_base(lm)
        check_rows(lm)
        names = {id(module): name for name, module in lm.model.named_modules()}
        additions = {
            names[id(block)]: constant_addition(direction.to(next(block.parameters()).device))
            for block, direction in self._after(lm)
        }
        return lambda strength: Start((), adapter=RowAdapter(additions, strength))

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """Add the directions after their layers.

        Raises:
            WrongBaseError: another base, or one that has fewer layers.
        """
        self.check_base(lm)
        scale = torch.tensor(strengths)
        with ExitStack() as stack:
            for block, direction in self._after(lm):
                device = next(block.parameters()).device
                adding = _adding(direction.to(device), scale.to(device))
                stack.enter_context(block.register_forward_hook(adding))
            yield

    def _after(self, lm: LM) -> Iterator[tuple[nn.Module, Tensor]]:
        """Each layer that a direction is added after, and the direction."""
        blocks = model_layers(lm.model)
        for name, direction in self.tensors.items():
            number = int(name.rpartition(".")[2])
            if number >= len(blocks):
                raise WrongBaseError(f"there is a direction for layer {number}; {lm.name} has {len(blocks)}.")
            yield blocks[number], direction


@torch.inference_mode()
def difference_of_means(
    lm: LM, texts: Sequence[LabelledText], card: BaselineCard, layer: int | None = None
) -> Activations:
    """The direction from the middle of both ends to the +1 end: half the difference of their mean states.

    Args:
        lm: the model.
        texts: texts with labels of both signs; the size of a label is the text's weight.
        card: card of the result.
        layer: layer after which the direction is added, from 0; the middle one by default.

    Raises:
        DataError: texts of one end only.
        ModelError: the model's layers cannot be found.
    """
    blocks = model_layers(lm.model)
    number = layer if layer is not None else (len(blocks) - 1) // 2
    if not 0 <= number < len(blocks):
        raise ModelError(f"there is no layer {number}: {lm.name} has {len(blocks)}.")
    sums: dict[int, Tensor] = {}
    weights = {1: 0.0, -1: 0.0}
    rows = [cut(lm, row, lm.max_length) for row in encode_texts(lm, texts, end=False)]
    texts = [text for text, row in zip(texts, rows, strict=True) if len(row) > row.begin]
    ids = [row for row in rows if len(row) > row.begin]
    for batch in length_buckets(ids):
        padded, mask = pad([ids[i] for i in batch], lm.pad_id, lm.device)
        means = _means(_states(lm, blocks[number], padded, mask), mask, [ids[i].begin for i in batch])
        for i, mean in zip(batch, means, strict=True):
            end = 1 if texts[i].label > 0 else -1
            weights[end] += abs(texts[i].label)
            sums[end] = sums.get(end, torch.zeros_like(mean)) + abs(texts[i].label) * mean
    if not all(weights.values()):
        raise DataError("a direction needs texts of both ends.")
    direction = (sums[1] / weights[1] - sums[-1] / weights[-1]) / 2
    return Activations(card, {f"{_DIRECTION}.{number}": direction.cpu().contiguous()})


def _states(lm: LM, block: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    with block.register_forward_hook(lambda _, __, output: outputs.append(output_of(output))):
        lm.hidden_states(ids, mask)
    if len(outputs) != 1 or outputs[0].shape[:2] != ids.shape:
        raise ModelError(f"{type(lm.model).__name__} does not run texts (B, T) through its layers as (B, T, d).")
    return outputs[0].float()


def _means(states: Tensor, mask: Tensor, begins: Sequence[int]) -> Tensor:
    """Mean states (B, d) over the tokens of each text but its first, which many models use as an attention sink.

    Of a text after a prompt, all tokens from its place (B) on count.
    """
    counted = mask.to(states.device, copy=True)
    counted[:, 0] = (counted.sum(1) == 1).to(mask.dtype)
    for row, begin in zip(counted, begins, strict=True):
        row[:begin] = 0
    return (states * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)


def _adding(direction: Tensor, scale: Tensor) -> Any:
    def add(_: nn.Module, __: Any, output: Any) -> Any:
        states = output_of(output)
        shift = broadcast_strengths(scale, states) * direction
        moved = states + shift.to(states.device, states.dtype)
        return with_output(output, moved)

    return add
