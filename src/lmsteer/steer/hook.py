"""The hooks that put mixes in front of a model's head, and the handle that changes their strengths.

Several handles on one model add up: with ``steered(W₁)`` around ``steered(W₂)`` the head is given ``h (I + W₁ + W₂)``,
whichever was entered first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lmsteer.errors import SteerError
from lmsteer.steer.mix import Mix
from lmsteer.steer.thread_guard import exclusive_use


class SteerHandle:
    """A mix in front of a model's head, within a ``with`` block. Meanwhile the model belongs to this thread.

    Attributes:
        mix: the steers and strengths that act from the next forward pass on; assign another to change them.
        calls: how often the head was steered. Zero after a forward pass means that the model bypassed its head.

    Raises:
        SteerError: the model has no output embedding, or the mix has another hidden size or vocabulary.
    """

    def __init__(self, model: PreTrainedModel, mix: Mix) -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise SteerError(f"{type(model).__name__} has no output embedding: there is nothing to steer.")
        vocabulary, hidden_size = head.weight.shape
        mix.check_shape(hidden_size, vocabulary)
        self.mix = mix
        self.calls = 0
        self._guard, self._head = exclusive_use(model), head

    def __enter__(self) -> Self:
        self._guard.__enter__()
        steered = _HEADS.setdefault(self._head, _SteeredHead())
        steered.set_handles([*steered.handles, self], self._head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        steered = _HEADS[self._head]
        handles = [*steered.handles]
        handles.remove(self)
        steered.set_handles(handles, self._head)
        self._guard.__exit__(kind, error, trace)


class _SteeredHead:
    """The handles that act on one head, and the hooks through which they do, which stay while there are any."""

    def __init__(self) -> None:
        self.handles: list[SteerHandle] = []
        self._hooks: list[RemovableHandle] = []

    def set_handles(self, handles: list[SteerHandle], head: nn.Module) -> None:
        self.handles = handles
        if handles and not self._hooks:
            self._hooks = [
                head.register_forward_pre_hook(self._steer_hidden_states),
                head.register_forward_hook(self._steer_logits),
            ]
        elif not handles:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def _steer_hidden_states(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        h = steered = args[0]
        for handle in self.handles:
            handle.calls += 1
            steered = handle.mix.steer_hidden_states(h, steered)
        return (steered, *args[1:])

    def _steer_logits(self, _: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        for handle in self.handles:
            logits = handle.mix.steer_logits(logits)
        return logits


_HEADS: WeakKeyDictionary[nn.Module, _SteeredHead] = WeakKeyDictionary()


@contextmanager
def unsteered(model: PreTrainedModel) -> Iterator[None]:
    """Set the steers of a model aside within a ``with`` block, in which the model belongs to this thread."""
    with exclusive_use(model):
        head = model.get_output_embeddings()
        steered = _HEADS.setdefault(head, _SteeredHead())
        handles = steered.handles
        steered.set_handles([], head)
        try:
            yield
        finally:
            steered.set_handles(handles, head)
