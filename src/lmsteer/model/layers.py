"""The devices that the layers of a model are on."""

from __future__ import annotations

import torch

from lmsteer.model.lm import LM
from lmsteer.steer.sites import model_layers


def layer_devices(lm: LM) -> list[torch.device]:
    """The device of each layer; one and the same unless the model was loaded with a ``device_map`` over several.

    Raises:
        ModelError: the model is on several devices, and its layers are not found.
    """
    devices = {parameter.device for parameter in lm.model.parameters()}
    if len(devices) == 1:
        return [*devices] * lm.model.config.get_text_config().num_hidden_layers
    return [next(layer.parameters()).device for layer in model_layers(lm.model)]
