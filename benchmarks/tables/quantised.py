"""The table of fits on quantised weights."""

from __future__ import annotations

from benchmarks.tables.markdown import results, short, table

WHOLE = "whole"
FORMS = {
    WHOLE: "the whole weights",
    "torchao-8": "torchao, 8 bits",
    "bitsandbytes-8": "bitsandbytes, 8 bits",
    "bitsandbytes-4": "bitsandbytes, 4 bits (NF4)",
}
TEXTS = 512


def quantised() -> str:
    """How near each fit comes to that on the whole weights, and what it knows of unseen texts."""
    found = results("quantised")
    rows = [
        [
            label,
            f"{found[form]['cosine']:.3f}",
            short(found[form]["contrast"]),
            f"{found[form]['log_likelihood_gain']:+.4f}",
            f"{found[form]['seconds']:,.0f} s",
        ]
        for form, label in FORMS.items()
        if form in found
    ]
    return table(["fitted on", "cosine", "contrast", "gain", "fit"], rows)
