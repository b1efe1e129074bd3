"""The device of a process: its accelerator, if it has one."""

from __future__ import annotations

import os

import torch


def accelerator() -> torch.device | None:
    """The accelerator of this process (CUDA, MPS, XPU ...); None on a machine without one.

    Of several, a process of a launch (``accelerate launch``, ``torchrun``) gets the one of its local rank.
    """
    if not torch.accelerator.is_available():
        return None
    device = torch.accelerator.current_accelerator()
    return None if device is None else torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))
