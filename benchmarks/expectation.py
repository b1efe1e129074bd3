"""p E from the likeliest words alone: error against time, a table.

python -m benchmarks.expectation

The residual of a token is e_y - p E. Of the k likeliest words alone it costs k/V of the product, and the search for
them; what they leave of the probability is given the mean embedding of the texts' predictions. Errors are relative:
of the residuals, and of the gradient Σ h rᵀ that a fit sums them up in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import in_turn
from lmsteer.data.starter import starter_texts
from lmsteer.model.loading import load
from lmsteer.model.onednn import linear
from lmsteer.reading.encode_labelled import encode_labelled

WIDTHS = (16, 64, 256, 1024)
TEXTS, ROWS = 64, 1024


@torch.inference_mode()
def main() -> None:
    """Measure each width beside the whole product."""
    lm = load()
    head = lm.head
    h, y = (part[:ROWS] for part in lm.predicting(encode_labelled(lm, starter_texts("sentiment")[:TEXTS])))
    p = head.logits(h).softmax(-1)
    mean = (p.mean(0) @ head.weight)[None]

    def likeliest(width: int) -> Tensor:
        values, words = p.topk(width)
        some = torch.nn.functional.embedding_bag(words, head.weight, per_sample_weights=values, mode="sum")
        return some + (1 - values.sum(-1, keepdim=True)) * mean

    ways: dict[str, Callable[[], Tensor]] = {"all": lambda: linear(p, head.weight.T)}
    ways |= {str(width): partial(likeliest, width) for width in WIDTHS}
    times = in_turn(*ways.values())
    own = head.weight[y]
    exact = own - ways["all"]()
    table = Table(
        "words", "milliseconds a thousand tokens", "probability held", "error of residuals", "of the gradient"
    )
    for (name, way), seconds in zip(ways.items(), times, strict=True):
        r = own - way()
        held = 1.0 if name == "all" else float(p.topk(int(name)).values.sum(-1).mean())
        errors = [float((ours - all_).norm() / all_.norm()) for ours, all_ in ((r, exact), (h.T @ r, h.T @ exact))]
        table.add_row(name, f"{seconds * 1e6 / len(h):.0f}", f"{held:.1%}", *(f"{error:.1%}" for error in errors))
    Console().print(table)


if __name__ == "__main__":
    main()
