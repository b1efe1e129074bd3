"""What goes on at sites inside a model while it reads texts: what their maps read, and gradients of log-likelihoods.

The gradient ``g = ∂ Σ w log p / ∂ y`` (m,) at an output ``y`` of a site goes through all that comes after it, later
tokens included. At the head it is the residual r (``Head.residuals``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.model.batching import pad
from lmsteer.model.lm import LM
from lmsteer.steer.sites import Site


class Passing(NamedTuple):
    """What passes through a site in a forward pass.

    Attributes:
        x: what its map reads (B, T, n): the input of a linear layer, else the output of the layer.
        y: its output (B, T, m).
    """

    x: Tensor
    y: Tensor


class SiteRows(NamedTuple):
    """Rows at a site, one for each token that is predicted, float32 on the model's device.

    Attributes:
        x: what its map reads (N, n).
        g: the gradient at its output (N, m).
    """

    x: Tensor
    g: Tensor


class ReadRows(NamedTuple):
    """A batch of texts, read with gradients at sites.

    Attributes:
        h: the hidden states (N, d) at the head's input, one for each token that is predicted.
        r: the residuals (N, d).
        log_p: the log-likelihoods (N,).
        targets: the tokens (N,).
        sites: the rows of each site.
    """

    h: Tensor
    r: Tensor
    log_p: Tensor
    targets: Tensor
    sites: Mapping[str, SiteRows]


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
            y: Tensor = output[0] if isinstance(output, tuple) else output
            if gradients and not y.requires_grad:
                y = y.detach().requires_grad_()
            seen[site.name] = Passing((args[0] if site.is_weight else y).detach(), y)
            calls[site.name] += 1
            return (y, *output[1:]) if isinstance(output, tuple) else y

        return hook

    with ExitStack() as stack:
        for site in sites:
            stack.callback(site.module.register_forward_hook(look(site)).remove)
        yield seen
    if odd := [name for name, count in calls.items() if count != 1]:
        raise ModelError(
            f"a forward pass called {odd[0]} {calls[odd[0]]} times instead of once: a steer cannot act there."
        )


def read_with_gradients(lm: LM, ids: Sequence[Sequence[int]], own: Tensor, sites: Sequence[Site]) -> ReadRows:
    """Read a batch of texts, and compute the gradient of their log-likelihood at sites.

    Args:
        lm: the model.
        ids: the texts.
        own: which of their tokens, all but the first of each, count (N',), text by text.
        sites: the sites, inside the model.

    Raises:
        ModelError: the pass does not go through a site exactly once, or no gradient reaches it.
    """
    padded, mask = pad(ids, lm.pad_id, lm.device)
    with torch.inference_mode(False), torch.enable_grad(), observed(sites, gradients=True) as seen:
        h = lm.before_head(input_ids=padded, attention_mask=mask)
    padded, counted = padded.to(h.device), mask[:, 1:].to(h.device).bool()
    counted[counted.clone()] = own.to(h.device)
    rows, targets = h[:, :-1][counted], padded[:, 1:][counted]
    with torch.no_grad():
        r, log_p = lm.head.residuals(rows.detach().float(), targets)
    try:
        outputs = [seen[site.name].y for site in sites]
        found = torch.autograd.grad(rows, outputs, r.to(rows.dtype)) if sites else ()
    except RuntimeError as error:
        raise ModelError(
            f"no gradient reaches {', '.join(site.name for site in sites)} of {lm.name} ({error}): a quantised model "
            "may have none. Load it unquantised, or let the steer act on the head alone."
        ) from error

    def rows_of(site: Site, gradient: Tensor) -> SiteRows:
        places = counted.to(gradient.device)
        return SiteRows(seen[site.name].x[:, :-1][places].float(), gradient[:, :-1][places].float())

    at = {site.name: rows_of(site, gradient) for site, gradient in zip(sites, found, strict=True)}
    return ReadRows(rows.detach().float(), r, log_p, targets, at)
