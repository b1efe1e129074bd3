"""One thread at a time: whoever changes a model for a while, or reads its hidden states, has it to itself.

Hooks belong to a model, not to a thread. Two threads that steer one model at once would write each other's text, and no
error would say so. So every such use of a model holds the model's guard, and another thread waits until it is left.
Threads that wait get it in the order in which they came. Within one thread uses may be nested.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

# Seconds after which a thread that waits for a model says so.
_WARN_AFTER = 60.0


class Guard:
    """A re-entrant lock, which differs from ``threading.RLock`` in two ways.

    It may be left in another thread than it was entered in, which is needed for generators: a server may close one in
    another thread than the one that advanced it. And it is fair: a thread that enters it again and again, as an engine
    does for each token, lets the threads that wait have their turn.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: threading.Thread | None = None
        self._depth = 0
        self._waiting = deque[threading.Thread]()

    @property
    def is_held_here(self) -> bool:
        """Whether the calling thread holds the guard: if so, it must not wait for a thread that needs it, too."""
        return self._owner is threading.current_thread()

    def __enter__(self) -> Self:
        me = threading.current_thread()
        with self._changed:
            if self._owner is not me:
                self._wait_for_turn(me)
            self._owner, self._depth = me, self._depth + 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._changed.notify_all()

    def _wait_for_turn(self, me: threading.Thread) -> None:
        def is_my_turn() -> bool:
            return self._owner is None and self._waiting[0] is me

        self._waiting.append(me)
        try:
            if not self._changed.wait_for(is_my_turn, _WARN_AFTER):
                name = getattr(self._owner, "name", "another thread")
                warnings.warn(f"still waiting for {name}, which uses the same model.", RuntimeWarning, stacklevel=3)
                self._changed.wait_for(is_my_turn)
        finally:  # Ctrl-C may end the wait, too: then it is the next thread's turn
            self._waiting.remove(me)
            self._changed.notify_all()


_GUARDS: WeakKeyDictionary[nn.Module, Guard] = WeakKeyDictionary()
_CREATION = threading.Lock()


def exclusive_use(model: PreTrainedModel) -> Guard:
    """Keep other threads from steering or reading a model within a ``with`` block; they wait for its end.

    ``lm.steered``, ``lm.hidden_states`` and generation do this by themselves. Do it around a plain forward pass, or
    whatever else must not see the hooks of another thread. Blocks may be nested within one thread. Wrappers of one
    model (PEFT's, say) share its guard: it belongs to the output embedding.
    """
    with _CREATION:
        return _GUARDS.setdefault(model.get_output_embeddings() or model, Guard())
