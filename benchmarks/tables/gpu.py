"""The table of what a graphics card was measured to do; a sentence until one has been."""

from __future__ import annotations

from benchmarks.tables.markdown import RESULTS, percent, results, table

NOTHING = "No card has run it yet."


def gpu() -> str:
    """The parts of a fit and a step of decoding, with the card's name."""
    if not (RESULTS / "gpu.json").exists():
        return NOTHING
    found = results("gpu")
    fit, layers = found["fit"], found["layers"]
    times = fit["seconds"]
    rows = [[f"fit of {fit['texts']:,} texts: {part}", f"{own:.2f} s", ""] for part, own in times.items()]
    rows.append(
        [
            "share of the forward passes in that over the texts",
            percent(times["forward passes"] / times["pass over the texts"]),
            "",
        ]
    )
    for count, own in found["decoding"].items():
        unsteered, steered = (1000 * own[name] for name in ("unsteered", "steered"))
        rows.append([f"a step of {count} rows", f"{unsteered:.1f} ms", f"{steered:.1f} ms steered"])
    return table([f"{found['card']}: {found['shape']}, {layers} layers", "", ""], rows)
