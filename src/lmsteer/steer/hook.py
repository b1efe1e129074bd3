"""The hook that puts a mix in front of a model's head, and the handle that moves its dial and takes it off."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmsteer.errors import SteerError
from lmsteer.steer.mix import Mix

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class SteerHandle:
    """A mix at work in front of a model's head: a context manager, removable, its strengths movable.

    Attributes:
        mix: the steers and strengths that act from the next forward pass on; assign another to turn the dial.
        calls: how often the hook has acted. Zero after a forward pass means that the model bypassed its head.
    """

    def __init__(self, head: torch.nn.Module, mix: Mix) -> None:
        self.mix = mix
        self.calls = 0
        self._hooks: list[RemovableHandle] = [
            head.register_forward_pre_hook(self._steer_hidden_states),
            head.register_forward_hook(self._steer_logits),
        ]

    def remove(self) -> None:
        """Take the steers off; the model is as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _steer_hidden_states(self, _: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.calls += 1
        return (self.mix.steer_hidden_states(args[0]), *args[1:])

    def _steer_logits(self, _: torch.nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        return self.mix.steer_logits(logits)


def attach(model: PreTrainedModel, mix: Mix) -> SteerHandle:
    """Put a mix in front of the head of any causal LM of transformers.

    Raises:
        SteerError: the model has no output embedding, or the mix is of another hidden size or vocabulary.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise SteerError(f"{type(model).__name__} has no output embedding: there is nothing to steer.")
    vocabulary, hidden_size = head.weight.shape
    mix.check_shape(hidden_size, vocabulary)
    return SteerHandle(head, mix)
