"""The table of what limits, readings and sites cost of a token."""

from __future__ import annotations

from benchmarks.tables.markdown import results, table


def token_cost() -> str:
    """The time of a token in each way, as a multiple of that with the steer alone."""
    found = results("token_cost")
    ways = next(iter(found.values()))["ways"]
    header = ["", *(f"{rows} row{'s' * (rows != '1')}" for rows in found)]
    return table(header, [[name, *(f"{one['ways'][name]['ratio']:.2f} ×" for one in found.values())] for name in ways])
