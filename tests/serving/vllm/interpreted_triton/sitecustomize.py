"""Lets vLLM's second model runner start on a CPU, with its kernels in Triton's interpreter: slow, and the same code.

vLLM asks for a Triton with a CPU backend, which PyPI has not. The interpreter needs none: with TRITON_INTERPRET=1 the
kernels are Python. Python imports this module in each process that is started with this folder in PYTHONPATH.
"""

from types import SimpleNamespace

from triton.backends import backends
from triton.runtime.interpreter import InterpreterBuilder

backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)


def with_masks_of_bool(function, place):
    """The interpreter loads and stores with masks of bool alone; compiled kernels do with integers, too."""

    def wrapped(self, *arguments):
        mask = arguments[place]
        mask.data = mask.data.astype(bool)
        return function(self, *arguments)

    return wrapped


InterpreterBuilder.create_masked_load = with_masks_of_bool(InterpreterBuilder.create_masked_load, 1)
InterpreterBuilder.create_masked_store = with_masks_of_bool(InterpreterBuilder.create_masked_store, 2)
