"""Devices that this machine does not have: tensors on the CPU that say they are elsewhere and refuse to be mixed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest import mock

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

# torch has the index, but no kernels that would look at it.
HOST, FIRST, SECOND = torch.device("cpu"), torch.device("cpu", 1), torch.device("cpu", 2)


_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
_COPIES = (torch.ops.aten.copy_, torch.ops.aten._to_copy)


class _Elsewhere(Tensor):
    """A tensor whose values are on the CPU, and whose device is another."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device):
        self = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=device
        )
        self.values = values
        return self

    __torch_dispatch__ = classmethod(lambda cls, func, types, args=(), kwargs=None: _run(func, args, kwargs or {}))

    def tolist(self):
        return self.values.tolist()

    def __repr__(self):
        return f"{self.values!r} on {self.device}"


@contextmanager
def pretended_devices() -> Iterator[None]:
    """Let ``device=FIRST`` and ``.to(SECOND)`` work, and refuse operations that mix devices, as CUDA does."""
    with mock.patch.object(torch, "tensor", _literal), _Operations():
        yield


@dataclass
class Copies:
    """Copies between devices.

    Attributes:
        number: how many there were.
        to_host: bytes that were copied to the CPU.
        from_host: bytes that were copied from it.
    """

    number: int = 0
    to_host: int = 0
    from_host: int = 0


_COUNTING: list[Copies] = []


@contextmanager
def counted_copies() -> Iterator[Copies]:
    """Count copies between the CPU and devices that are pretended, within a ``with`` block."""
    copies = Copies()
    _COUNTING.append(copies)
    try:
        yield copies
    finally:
        _COUNTING.remove(copies)


def _count(source: Tensor, target: torch.device) -> None:
    for copies in _COUNTING:
        if source.device != target:
            copies.number += 1
            size = source.numel() * source.element_size()
            copies.to_host += size * (target == HOST)
            copies.from_host += size * (source.device == HOST)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _literal(*args: Any, device: Any = None, tensor: Any = torch.tensor, **kwargs: Any) -> Tensor:
    """``torch.tensor``, which makes its tensor beneath the dispatcher."""
    made: Tensor = tensor(*args, **kwargs)
    return made if device is None else made.to(device)


def move(module: nn.Module, device: torch.device) -> None:
    """Move the parameters and buffers of a module that are still on the CPU."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and parameter.device == HOST:
                part._parameters[name] = nn.Parameter(_Elsewhere(parameter.detach(), device), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and buffer.device == HOST:
                part._buffers[name] = _Elsewhere(buffer, device)


def execute_on(module: nn.Module, device: torch.device, *, returns: torch.device | None = None) -> None:
    """Have a module move what it is called with, as accelerate's hooks do: in ``forward``, after torch's own hooks."""
    forward = module.forward

    @wraps(forward)
    def moved(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = send_to_device((args, kwargs), device)
        output = forward(*args, **kwargs)
        return output if returns is None else send_to_device(output, returns)

    module.forward = moved  # type: ignore[method-assign]


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func.overloadpacket is torch.ops.aten.to:  # in inference mode, in which it comes whole
        with _Operations():
            return func.decompose(*args, **kwargs)
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    # Scalars on the host go everywhere, and an index on the host goes with any tensor; only copies cross devices.
    places = [t.device for t in tensors if t.numel() and (t.dim() or t.device != HOST)]
    if func.overloadpacket in _INDEXING:
        places = [args[0].device, *(t.device for t in tensors[1:] if t.device != HOST)]
    crosses = func.overloadpacket in _COPIES
    if len(set(places)) > 1 and not crosses:
        raise RuntimeError(f"{func}: expected all tensors on one device, found {sorted(set(map(str, places)))}")
    device = tensors[0].device if crosses else [*places, *(t.device for t in tensors), HOST][0]
    if kwargs.get("device") is not None:
        device, kwargs = torch.device(kwargs["device"]), {**kwargs, "device": HOST}
    if crosses:  # of copy_ the source is the second
        _count(tensors[-1], device if func.overloadpacket is torch.ops.aten._to_copy else tensors[0].device)
    args, kwargs = tree_map(lambda x: x.values if isinstance(x, _Elsewhere) else x, (args, kwargs))
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():  # wrappers take no part in either
        output = func(*args, **kwargs)
        if func._schema.is_mutable and tensors:  # in place
            return tensors[0]
        return tree_map(lambda x: _Elsewhere(x, device) if isinstance(x, Tensor) and device != HOST else x, output)
