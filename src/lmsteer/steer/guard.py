"""One thread at a time: whoever changes a model for a while, or reads its hidden states, has it to itself.

Hooks belong to a model, not to a thread. Two threads that steer one model at once would write each other's text, and no
error would say so. So every such use of a model holds the model's guard, and another thread waits until it is left.
Within one thread uses may be nested.
"""

from __future__ import annotations

import threading
import warnings
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

# Seconds after which a thread that waits for a model says so.
_WARN_AFTER = 60.0


class Guard:
    """A re-entrant lock. Unlike ``threading.RLock``, it may be left in another thread than it was entered in.

    That is needed for generators: a server may close one in another thread than the one that advanced it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: threading.Thread | None = None
        self._depth = 0

    @property
    def is_held_here(self) -> bool:
        """Whether the calling thread holds the guard: if so, it must not wait for a thread that needs it, too."""
        return self._owner is threading.current_thread()

    def __enter__(self) -> Self:
        me = threading.current_thread()
        with self._changed:
            if not self._changed.wait_for(lambda: self._owner in (None, me), _WARN_AFTER):
                name = getattr(self._owner, "name", "another thread")
                warnings.warn(f"still waiting for {name}, which uses the same model.", RuntimeWarning, stacklevel=2)
                self._changed.wait_for(lambda: self._owner in (None, me))
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
