"""The table of memory while a stream of texts is read."""

from __future__ import annotations

from benchmarks.tables.markdown import results, table

# Tokens at which the memory is shown.
_AT = (500_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000)


def stream() -> str:
    """Resident memory of the process, by the number of tokens that are read."""
    seen = results("stream")["memory"]
    nearest = [min(seen, key=lambda one: abs(one["tokens"] - tokens)) for tokens in _AT]
    header = ["tokens read", *(f"{one['tokens'] / 1e6:.1f} million" for one in nearest)]
    return table(header, [["resident memory", *(f"{one['bytes'] / 1e6:,.0f} MB" for one in nearest)]])
