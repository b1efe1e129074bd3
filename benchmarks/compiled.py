"""What torch.compile and a static cache would make of a decoding step: the table behind leaving them out.

python -m benchmarks.compiled
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from benchmarks.measure import in_turn, seconds
from lmsteer.model.loading import load

ROWS = (1, 25)
# Of the prompt, and of the cache that is laid out beforehand.
PROMPT, LONGEST = 12, 64


class Step:
    """One step of decoding some rows, the cache always as long as when it starts."""

    def __init__(self, model: PreTrainedModel, forward: Callable[..., object], cache: Cache, rows: int) -> None:
        self.forward, self.cache = forward, cache
        ids = torch.randint(5, 1000, (rows, PROMPT), generator=torch.Generator().manual_seed(0))
        model(input_ids=ids, cache=cache)
        self.ids = ids[:, -1:]
        self.position: Tensor = torch.full((rows, 1), PROMPT)

    def __call__(self) -> None:
        """Run it."""
        self.forward(input_ids=self.ids, cache=self.cache, position_ids=self.position)
        self.cache.crop(-1)


@torch.inference_mode()
def main() -> None:
    """Time the ways in turn and print the table."""
    model, theirs = load().model, load().model
    console, table = Console(), Table("rows", "as it is (ms)", "static cache", "compiled, static", "seconds to compile")
    torch._inductor.config.freezing = True  # weights are laid out for oneDNN, as ours are
    compiled = torch.compile(theirs.forward, dynamic=False)
    for rows in ROWS:
        growing = Step(model, model, DynamicCache(config=model.config), rows)
        static = Step(model, model, StaticCache(config=model.config, max_cache_len=LONGEST), rows)
        fixed = Step(theirs, compiled, StaticCache(config=model.config, max_cache_len=LONGEST), rows)
        to_compile = seconds(fixed)
        times = in_turn(growing, static, fixed, repeats=20)
        table.add_row(str(rows), *(f"{1000 * t:.1f}" for t in times), f"{to_compile:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
