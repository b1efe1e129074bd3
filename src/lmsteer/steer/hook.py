"""The hooks that put mixes in front of a model's head and at sites inside it, and the handle that changes strengths.

Several handles on one model add up: with ``steered(W₁)`` around ``steered(W₂)`` the head is given ``h (I + W₁ + W₂)``,
whichever was entered first. So it is at each site.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lmsteer.errors import SteerError
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import Site, find_site, output_of, with_output
from lmsteer.steer.thread_guard import exclusive_use


class SteerHandle:
    """A mix in front of a model's head and at its sites, within a ``with`` block, in which the model is this thread's.

    Args:
        model: the model.
        mix: the steers and strengths.
        at_head: whether it acts at the head, too, and not at the sites inside the model alone.

    Attributes:
        mix: the steers and strengths that act from the next forward pass on; assign another to change them.
        calls: how often the head was steered. Zero after a forward pass means that the model bypassed its head.

    Raises:
        SteerError: the model has no output embedding, or the mix has another hidden size, vocabulary or sites.
    """

    def __init__(self, model: PreTrainedModel, mix: Mix, *, at_head: bool = True) -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise SteerError(f"{type(model).__name__} has no output embedding: there is nothing to steer.")
        self._guard, self._model, self._head = exclusive_use(model), model, head
        self._sites, self._mix = list[Site](), mix
        self._take(mix)
        self.at_head, self.calls = at_head, 0

    @property
    def mix(self) -> Mix:
        """The steers and strengths that act from the next forward pass on."""
        return self._mix

    @mix.setter
    def mix(self, mix: Mix) -> None:
        self._take(mix)
        if self in (steered := _steered(self._head)).handles:
            steered.set_handles(steered.handles, self._head)

    @property
    def sites(self) -> list[Site]:
        """The sites inside the model where the mix acts."""
        return self._sites

    def __enter__(self) -> Self:
        self._guard.__enter__()
        steered = _steered(self._head)
        steered.set_handles([*steered.handles, self], self._head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        steered = _steered(self._head)
        handles = [*steered.handles]
        handles.remove(self)
        steered.set_handles(handles, self._head)
        self._guard.__exit__(kind, error, trace)

    def _take(self, mix: Mix) -> None:
        vocabulary, hidden_size = self._head.weight.shape
        mix.check_shape(hidden_size, vocabulary)
        self._sites, self._mix = sites_of(self._model, mix), mix


def sites_of(model: PreTrainedModel, mix: Mix) -> list[Site]:
    """The sites of a model where a mix acts.

    Raises:
        SteerError: the model lacks one of them, or has one of other widths than a steer's map.
    """
    found = {name: find_site(model, name) for name in mix.sites}
    for steer in mix.steers.values():
        for name, factors in steer.inner.items():
            widths, own = tuple(map(len, factors)), (found[name].inputs, found[name].outputs)
            if widths != own:
                raise SteerError(
                    f"{steer.card.title} maps {widths[0]} values to {widths[1]} at {name}, where the model has "
                    f"{own[0]} and {own[1]}."
                )
    return [*found.values()]


class _Steered:
    """The handles that act on one model, and the hooks through which they do, which stay while there are any.

    The hooks stay as they are where handles come and go that act at no other site.
    """

    def __init__(self) -> None:
        self.handles: list[SteerHandle] = []
        self._hooks, self._inner = list[RemovableHandle](), dict[str, RemovableHandle]()

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
        sites = {site.name: site for handle in handles for site in handle.sites}
        for name in [name for name in self._inner if name not in sites]:
            self._inner.pop(name).remove()
        for name, site in sites.items():
            if name not in self._inner:
                self._inner[name] = site.module.register_forward_hook(partial(self._steer_site, site))

    def _steer_site(self, site: Site, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        steered = y = output_of(output)
        x = args[0] if site.is_weight else y
        for handle in self.handles:
            steered = handle.mix.steer_site(site.name, x, steered)
        return with_output(output, steered)

    def _steer_hidden_states(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        h = steered = args[0]
        for handle in self.handles:
            if not handle.at_head:
                continue
            handle.calls += 1
            steered = handle.mix.steer_hidden_states(h, steered)
        return (steered, *args[1:])

    def _steer_logits(self, _: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        for handle in self.handles:
            logits = handle.mix.steer_logits(logits) if handle.at_head else logits
        return logits


# By head: what is kept here must not refer to the head, or neither would ever be freed.
_STEERED: WeakKeyDictionary[nn.Module, _Steered] = WeakKeyDictionary()


def _steered(head: nn.Module) -> _Steered:
    return _STEERED.setdefault(head, _Steered())


def sites_steered(model: PreTrainedModel) -> list[str]:
    """The sites inside a model where this thread lets steers act now. It does not wait for another thread's use."""
    if not exclusive_use(model).is_held_here:
        return []
    handles = _steered(model.get_output_embeddings()).handles
    return [*dict.fromkeys(site.name for handle in handles for site in handle.sites)]


@contextmanager
def unsteered(model: PreTrainedModel) -> Iterator[None]:
    """Set the steers of a model aside within a ``with`` block, in which the model belongs to this thread."""
    with exclusive_use(model):
        head = model.get_output_embeddings()
        steered = _steered(head)
        handles = steered.handles
        steered.set_handles([], head)
        try:
            yield
        finally:
            steered.set_handles(handles, head)
