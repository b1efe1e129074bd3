"""The device of a process: its accelerator, if it has one; and what devices can do."""

from __future__ import annotations

import os
import re

import torch

from lmsteer.util.compat import is_out_of_memory

# How torch says that it has no support for a device, or that the machine has none.
_NO_DEVICE = re.compile(
    r"not compiled with|not linked with|no kernel image|No \w+ GPUs are available|invalid device ordinal"
)


def is_host(device: torch.device) -> bool:
    """Whether a device is the CPU of the machine: no accelerator."""
    return device.type == "cpu" and not device.index


def float64_device(device: torch.device) -> torch.device:
    """The device itself if it is sure to have float64, as CUDA's are; else the CPU. MPS and some XPUs have none."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def device_advice(error: Exception) -> str:
    """What to do about an error of a device that is missing or full, when a model is loaded; empty for other errors."""
    if is_out_of_memory(error):
        return (
            "Load the model in bfloat16 (dtype), quantised (quantization_config), over several devices "
            "(device_map='auto'), or on the CPU (device_map='cpu')."
        )
    if isinstance(error, (AssertionError, RuntimeError)) and _NO_DEVICE.search(str(error)):
        return "Install a torch for that device, or leave device_map out to use the devices that there are."
    return ""


def accelerator() -> torch.device | None:
    """The accelerator of this process (CUDA, MPS, XPU ...); None on a machine without one.

    Of several, a process of a launch (``accelerate launch``, ``torchrun``) gets the one of its local rank. If it sees
    fewer (one, say, because its launcher hides the others), they are counted round.
    """
    if not torch.accelerator.is_available():
        return None
    device = torch.accelerator.current_accelerator()
    if device is None:
        return None
    rank = int(os.environ.get("LOCAL_RANK") or 0)
    return torch.device(device.type, rank % max(1, torch.accelerator.device_count()))
