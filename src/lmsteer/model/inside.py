"""What goes on at sites inside a model while it reads texts: what their maps read, and gradients of log-likelihoods.

The gradient ``g = ∂ Σ w log p / ∂ y`` (m,) at an output ``y`` of a site goes through all that comes after it, later
tokens included. At the head it is the residual r (``Head.residuals``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.model.batching import pad
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import Site, output_of, with_output
from lmsteer.util.compat import is_fsdp, is_out_of_memory


class Passing(NamedTuple):
    """What passes through a site in a forward pass.

    Attributes:
        x: what its map reads (B, T, n), or (N, n): the input of a linear layer, else the output of the layer.
        y: its output (B, T, m), or (N, m).
    """

    x: Tensor
    y: Tensor


class SiteRows(NamedTuple):
    """Rows at a site, one for each token that is predicted, float32 on the model's device.

    Attributes:
        x: what its map reads (N, n).
        g: the gradients at its output (N, m), one for each objective.
    """

    x: Tensor
    g: Sequence[Tensor]


# Given hidden states (N, d) at the head's input and the tokens (N,) that they predict: the gradients (N, d) of some
# objectives with respect to these hidden states.
Objectives = Callable[[Tensor, Tensor], Sequence[Tensor]]


@contextmanager
def observed(sites: Sequence[Site], *, gradients: bool = False) -> Iterator[dict[str, Passing]]:
    """Keep what passes through sites in a forward pass, within a ``with`` block.

    Args:
        sites: the sites.
        gradients: whether gradients at their outputs shall be computed.

    Yields:
        What passes, by the names of the sites; filled by the pass. After another pass it is that one's.

    Raises:
        ModelError: at the end, if a pass did not go through a site, or more than once.
    """
    seen, calls = dict[str, Passing](), dict.fromkeys((site.name for site in sites), 0)

    def look(site: Site) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            y = output_of(output)
            if gradients and not y.requires_grad:
                y = y.detach().requires_grad_()
            seen[site.name] = Passing((args[0] if site.is_weight else y).detach(), y)
            calls[site.name] += 1
            return with_output(output, y)

        return hook

    with ExitStack() as stack:
        for site in sites:
            stack.callback(site.module.register_forward_hook(look(site)).remove)
        yield seen
    if odd := [name for name, count in calls.items() if count != 1]:
        raise ModelError(
            f"a forward pass called {odd[0]} {calls[odd[0]]} times instead of once: a steer cannot act there."
        )


def check_gradients(lm: LM) -> None:
    """Refuse a model under FSDP, which has a layer's weights during a whole pass through the model only.

    Gradients begin at the head's input here, so that FSDP does not notice the backward pass, and memory that it has
    given up would be read as weights.

    Raises:
        ModelError: FSDP splits the model's weights.
    """
    if lm.is_split and is_fsdp(lm.model):
        raise ModelError(
            f"{lm.name} is split by FSDP, under which gradients inside a model cannot be computed. Split it by tensor "
            "parallelism or a device_map, or let the steer act on the head alone."
        )


def gradients_at(
    lm: LM, ids: Sequence[Sequence[int]], own: Tensor, sites: Sequence[Site], objectives: Objectives
) -> dict[str, SiteRows]:
    """Read a batch of texts, and compute the gradients of objectives at sites: one pass back for each objective.

    Args:
        lm: the model.
        ids: the texts.
        own: which of their tokens, all but the first of each, count (N',), text by text.
        sites: the sites.
        objectives: gives the gradients of the objectives at the head's input, where the backward passes begin.

    Raises:
        ModelError: the pass does not go through a site exactly once, or no gradient reaches it; or FSDP splits the
            model's weights.
    """
    check_gradients(lm)
    padded, mask = pad(ids, lm.pad_id, lm.device)
    # The model belongs to this thread before anything is observed: no other one's pass is.
    with lm.exclusive_use(), torch.inference_mode(False), torch.enable_grad(), observed(sites, gradients=True) as seen:
        h = lm.before_head(input_ids=padded, attention_mask=mask)
    padded, counted = padded.to(h.device), mask[:, 1:].to(h.device).bool()
    counted[counted.clone()] = own.to(h.device)
    rows, targets = h[:, :-1][counted], padded[:, 1:][counted]
    with torch.no_grad():
        begun = objectives(rows.detach().float(), targets)
    try:
        outputs = [seen[site.name].y for site in sites]
        found = [torch.autograd.grad(rows, outputs, start.to(rows), retain_graph=True) for start in begun]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"no gradient reaches {sites[0].name} of {lm.name} ({error}): a quantised model may have none. Load it "
            "unquantised, or let the steer act on the head alone."
        ) from error

    def predicting(values: Tensor) -> Tensor:
        return _predicting(values, counted).float()

    def rows_of(site: Site, gradients: Sequence[Tensor]) -> SiteRows:
        return SiteRows(predicting(seen[site.name].x), [predicting(g) for g in gradients])

    of_site = zip(*found, strict=True)
    return {site.name: rows_of(site, gradients) for site, gradients in zip(sites, of_site, strict=True)}


@torch.inference_mode()
def passing_at(
    lm: LM, ids: Sequence[Sequence[int]], sites: Sequence[Site], mix: Mix | None = None
) -> dict[str, Passing]:
    """What passes through sites where tokens of some texts are predicted, text by text; as ``LM.predicting`` is.

    Args:
        lm: the model.
        ids: the texts.
        sites: the sites.
        mix: the steers that act meanwhile, before the sites; none by default.

    Returns:
        x (N, n) and y (N, m) of each site, by name.

    Raises:
        ModelError: the pass does not go through a site exactly once.
    """
    padded, mask = pad(ids, lm.pad_id, lm.device)
    with lm.exclusive_use(), observed(sites) as seen:
        lm.before_head(mix, input_ids=padded, attention_mask=mask)
    counted = mask[:, 1:].bool()
    return {name: Passing(*(_predicting(values, counted) for values in each)) for name, each in seen.items()}


def _predicting(values: Tensor, counted: Tensor) -> Tensor:
    """The rows of (B, T, n) at whose places counted tokens (B, T - 1) are predicted."""
    values = values.reshape(len(counted), -1, values.shape[-1])  # some layers take the tokens of all rows in turn
    return values[:, :-1][counted.to(values.device)]
