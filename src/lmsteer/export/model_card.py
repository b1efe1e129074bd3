"""The model card of a steer on the Hub: a README.md of what its card says, with a snippet that runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from lmsteer.model.sources.pypi import PACKAGED
from lmsteer.steer.card import Card
from lmsteer.util.escapes import one_line

_PROMPT = "The weather this morning"
# What the metrics of a card are called for readers; others keep their names.
_METRICS = {
    "texts": "texts",
    "tokens": "tokens",
    "log_likelihood_gain": "gain of all texts at their label, nats a token",
    "log_likelihood_gain_positive": "gain of positive texts at +1, nats a token",
    "log_likelihood_gain_negative": "gain of negative texts at -1, nats a token",
    "log_likelihood_gain_without_eos": "the same without end-of-text tokens",
    "sign_accuracy": "share of texts whose side is read rightly",
    "sign_accuracy_without_eos": "the same without end-of-text tokens",
    "auc": "AUC",
}


def model_card(card: Card, repository: str, base_model: str, license_id: str = "") -> str:
    """The README.md of a steer.

    Args:
        card: the steer's card.
        repository: the Hub id that the steer is pushed to.
        base_model: the Hub id of its base.
        license_id: the licence of the steer, as the Hub names licences; none is stated if empty.
    """
    parts = [
        f"---\n{_front_matter(base_model, license_id)}\n---\n",
        f"# {_cell(card.name)}\n",
        f"A steer for [{base_model}](https://huggingface.co/{base_model}): a number strengthens or weakens a style "
        f"while the model writes. Strength +1 means: {_cell(card.label or card.name)}; -1 means the opposite, and 0 "
        "changes nothing. It is fitted and used with `lmsteer`, and nothing in it is code.\n",
        _use(card, repository, base_model),
        *_safe_range(card),
        *_held_out(card),
        _provenance(card),
    ]
    return "\n".join(parts)


def _front_matter(base_model: str, license_id: str) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=base_model,
        base_model_relation="adapter",
        library_name="lmsteer",
        license=license_id or None,
        pipeline_tag="text-generation",
        tags=["lmsteer", "steering"],
    )
    return data.to_yaml()


def _use(card: Card, repository: str, base_model: str) -> str:
    """How the steer is used, from Python and from the command line."""
    model = card.base if card.base in PACKAGED else base_model
    low, high = card.safe_range or (-2.0, 2.0)
    strengths = "-50%,0,50%" if card.safe_range else "-1,0,1"
    line = ["lmsteer", "generate", _PROMPT, "--steer", f"{repository}={strengths}", "--model", model]
    settings = f"[{{{json.dumps(card.name)}: s}} for s in ({low / 2:g}, 0, {high / 2:g})]"
    return f"""## Use

```python
import lmsteer

lm = lmsteer.load("{model}")
steers = {{{json.dumps(card.name)}: lmsteer.find_steer("{repository}")}}
strengths = {settings}
config = lmsteer.GenerationConfig(max_new_tokens=24)
for row in lmsteer.generate(lm, ["{_PROMPT}"], steers, strengths, config):
    print(row.strengths, row.text)
```

```sh
{shlex.join(line)}
```
"""


def _safe_range(card: Card) -> Iterable[str]:
    """The safe range, and the strengths that were tried."""
    if card.safe_range is None:
        yield "## Safe range\n\nNobody measured at which strengths the text stays sound.\n"
        return
    low, high = card.safe_range
    ratio = card.calibration.get("max_perplexity_ratio")
    bound = f": there the perplexity of the text is at most {ratio:g} times that of unsteered text" if ratio else ""
    yield f"## Safe range\n\nFrom {low:+g} to {high:+g}{bound}.\n"
    if curve := card.calibration.get("curve"):
        rows = [(trial["strength"], trial["perplexity"], trial["rep_3"], trial["score"]) for trial in curve]
        yield _table(("strength", "perplexity", "repetition", "score"), [list(map(_number, row)) for row in rows])
    if (target := card.calibration.get("target_strength")) is not None:
        yield f"A mean score of {card.calibration.get('target', 0):g} is reached at {target:+g}.\n"


def _held_out(card: Card) -> Iterable[str]:
    """The metrics on texts that the fit did not see."""
    rows = [[_METRICS[name], _number(card.held_out[name])] for name in _METRICS if name in card.held_out]
    if rows:
        unseen = (
            "each text under a steer fitted without it" if "folds" in card.fit else "on texts that the fit did not see"
        )
        yield f"## Held out\n\n{unseen[0].upper()}{unseen[1:]}:\n"
        yield _table(("metric", "value"), rows)


def _provenance(card: Card) -> str:
    """What the steer was made for and from."""
    rows: list[tuple[str, object]] = [
        ("base", card.base),
        ("fingerprint of its weights", card.base_fingerprint),
        ("fingerprint of its tokenizer", card.tokenizer_fingerprint),
        ("method", card.fit.get("method")),
        ("texts", card.data.get("texts")),
        ("corpus", card.data.get("corpus")),
        ("licence of the texts", card.data.get("licence")),
        ("made from", card.origin),
    ]
    table = _table(("", ""), [[name, _cell(str(value))] for name, value in rows if value])
    return f"## Provenance\n\nAnother model than its base is refused.\n\n{table}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:.4g}" if is_number and abs(value) < 1e4 else "" if value is None else _cell(str(value))


def _cell(text: str) -> str:
    """A text on one line, with no bar that would end a cell of a table."""
    return one_line(text).replace("|", "\\|")
