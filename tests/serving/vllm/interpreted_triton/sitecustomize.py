"""Lets vLLM's second model runner start on a CPU, with its kernels in Triton's interpreter: slow, and the same code.

vLLM asks for a Triton with a CPU backend, which PyPI has not. The interpreter needs none: with TRITON_INTERPRET=1 the
kernels are Python. Python imports this module in each process that is started with this folder in PYTHONPATH.
"""

from types import SimpleNamespace

from triton.backends import backends

backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
