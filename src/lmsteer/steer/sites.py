"""Sites: the places inside a model where a steer can act, besides its head.

::

    layers.N         the residual stream after layer N            y' = y + s (y A) Bᵀ
    layers.N.PATH    a linear layer of it, y = x Wᵀ + b           y' = y + s (x A) Bᵀ

PATH is the layer's own name for it, such as ``mlp.down_proj``. A steer of a linear layer is a LoRA, exactly. Sites are
found by the types and shapes of modules, so that no table of architectures is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmsteer.errors import ModelError, SteerError
from lmsteer.util.compat import is_split

HEAD = "head"
_LAYERS = "layers"
_NAME = re.compile(rf"{_LAYERS}\.(\d+)((?:\.\w+)*)")


@dataclass(frozen=True, eq=False)
class Site:
    """A place inside a model where a steer can act.

    Attributes:
        name: ``layers.N``, or ``layers.N.PATH``.
        path: the name of the module in the model.
        module: the module whose output the steer changes.
        inputs: n, the width of what its map reads.
        outputs: m, the width of what it writes.
    """

    name: str
    path: str
    module: nn.Module
    inputs: int
    outputs: int

    @property
    def sizes(self) -> tuple[int, int]:
        """The outputs and the inputs, (m, n), as a weight has them."""
        return self.outputs, self.inputs

    @property
    def device(self) -> torch.device:
        """The device of the module, on which its rows are."""
        return next(self.module.parameters()).device

    @property
    def is_weight(self) -> bool:
        """Whether it is a linear layer, and the map reads its input; else the map reads the stream that it changes."""
        return isinstance(self.module, (nn.Linear, Conv1D))

    @property
    def layer(self) -> str:
        """The name of the stream after the layer that it is in, ``layers.N``; of a stream its own."""
        return ".".join(self.name.split(".")[:2])


def output_of(output: Any) -> Tensor:
    """What a module puts out: its output, or the first of several."""
    y: Tensor = output[0] if isinstance(output, tuple) else output
    return y


def with_output(output: Any, y: Tensor) -> Any:
    """The output of a module with ``y`` in place of what ``output_of`` gives."""
    return (y, *output[1:]) if isinstance(output, tuple) else y


def is_site_name(name: str) -> bool:
    """Whether a name has the form of a site inside a model."""
    return _NAME.fullmatch(name) is not None


def is_weight_name(name: str) -> bool:
    """Whether the name of a site is that of a linear layer."""
    match = _NAME.fullmatch(name)
    return match is not None and bool(match[2])


def layer_name(number: int) -> str:
    """The name of the residual stream after a layer, by its number from 0."""
    return f"{_LAYERS}.{number}"


def model_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's layers, in their order.

    Raises:
        ModelError: there is no list of as many modules as the config has layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"{type(model).__name__} has no list of its {count} layers.")


def all_sites(model: PreTrainedModel) -> dict[str, Site]:
    """All sites inside a model, by name, from the first layer to the last; found once.

    A linear layer that shares its weight with another one is none: a steer of the one would not be one of the other.
    Nor is one whose weight is split over processes, which may see a part of its input or output each.

    Raises:
        ModelError: the layers of the model cannot be found.
    """
    if model not in _SITES:
        _SITES[model] = _found(model)
    return _SITES[model]


_SITES = WeakKeyDictionary[nn.Module, dict[str, Site]]()


def find_site(model: PreTrainedModel, name: str) -> Site:
    """A site by its name.

    Raises:
        SteerError: the model has no such site.
        ModelError: the layers of the model cannot be found.
    """
    sites = all_sites(model)
    if name not in sites:
        raise SteerError(f"{type(model).__name__} has no site {name!r}: {describe_sites(model)}.")
    return sites[name]


def match_sites(model: PreTrainedModel, patterns: Sequence[str]) -> list[Site]:
    """The sites that match any of some patterns, in the order of the model.

    Args:
        model: the model.
        patterns: names of sites; ``*`` stands for any one part of a name: ``layers.*.mlp.down_proj``.

    Raises:
        SteerError: a pattern matches nothing.
        ModelError: the layers of the model cannot be found.
    """
    sites, found = all_sites(model), dict[str, Site]()
    for pattern in patterns:
        regex = re.compile(re.escape(pattern.strip()).replace(r"\*", r"[^.]+"))
        matches = {name: site for name, site in sites.items() if regex.fullmatch(name)}
        if not matches:
            raise SteerError(f"no site of {type(model).__name__} matches {pattern!r}: {describe_sites(model)}.")
        found |= matches
    return [site for name, site in sites.items() if name in found]


def describe_sites(model: PreTrainedModel) -> str:
    """What there is to choose from, in words."""
    count = len(model_layers(model))
    paths = dict.fromkeys(name.split(".", 2)[2] for name, site in all_sites(model).items() if site.is_weight)
    linear = ", ".join(f"{_LAYERS}.N.{path}" for path in paths)
    none = "no linear layer in them" + " that is not split over processes" * any(map(is_split, model.parameters()))
    return f"there are {HEAD}, {_LAYERS}.0 to {_LAYERS}.{count - 1}, and {linear or none}"


def _found(model: PreTrainedModel) -> dict[str, Site]:
    width = model.config.get_text_config().hidden_size
    names = {module: name for name, module in model.named_modules()}
    left_out = _shared_weights(model) | {id(weight) for weight in model.parameters() if is_split(weight)}
    sites = dict[str, Site]()
    for number, layer in enumerate(model_layers(model)):
        name = layer_name(number)
        sites[name] = Site(name, names[layer], layer, width, width)
        for path, module in layer.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)) and id(module.weight) not in left_out:
                own = f"{name}.{path}"
                sites[own] = Site(own, names[module], module, *_widths(module))
    return sites


def _shared_weights(model: PreTrainedModel) -> set[int]:
    """The weights that several modules have."""
    seen, shared = set[int](), set[int]()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        (shared if id(weight) in seen else seen).add(id(weight))
    return shared - {id(None)}


def _widths(module: Any) -> tuple[int, int]:
    """The inputs and outputs of a linear layer."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return module.in_features, module.out_features
