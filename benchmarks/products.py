"""Products with the default model's weights: torch's own way beside ours, by rows. A table.

python -m benchmarks.products
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.measure import in_turn
from benchmarks.naive import Published
from lmsteer.model.loading import load
from lmsteer.model.onednn import linear

ROWS = (1, 4, 8, 25, 64, 256, 512, 1024)


@torch.inference_mode()
def main() -> None:
    """Run all layers once for each number of rows, and the head."""
    theirs, ours = Published().lm.model, load().model
    table = Table(
        "rows", *(f"{what}: {way}" for what in ("layers", "head") for way in ("torch", "ours")), title="GFLOP/s"
    )
    for rows in ROWS:
        cells = []
        for is_head in (False, True):
            weights = [_weights(model, is_head) for model in (theirs, ours)]
            x = {size: torch.randn(rows, size) for size in {weight.shape[1] for weight in weights[0]}}
            times = in_turn(
                lambda: [nn.functional.linear(x[w.shape[1]], w) for w in weights[0]],  # noqa: B023
                lambda: [linear(x[w.shape[1]], w) for w in weights[1]],  # noqa: B023
            )
            operations = 2 * rows * sum(weight.numel() for weight in weights[0])
            cells += [f"{operations / seconds / 1e9:.0f}" for seconds in times]
        table.add_row(str(rows), *cells)
    Console(width=100).print(table)


def _weights(model: nn.Module, is_head: bool) -> list[torch.Tensor]:
    head = model.get_output_embeddings()  # type: ignore[operator]
    layers = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    return [head.weight] if is_head else layers


if __name__ == "__main__":
    main()
