"""The metadata of a report: what was run, in words, by name. It stands under every table of results."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmsteer.evaluation.compare.config import ComparisonConfig
    from lmsteer.evaluation.protocol import Protocol
    from lmsteer.evaluation.scorers import Scorer
    from lmsteer.steer.card import Card


def evaluation_metadata(
    model: str, cards: Mapping[str, Card], scorer: Scorer, perplexity_model: str, prompts: str, protocol: Protocol
) -> dict[str, str]:
    """The metadata of an evaluation.

    Args:
        model: name of the model.
        cards: the cards of the steers, by name.
        scorer: the scorer of the attribute.
        perplexity_model: name of the model that perplexity was computed with.
        prompts: the number of prompts and where they come from: "24 of prompts.txt".
        protocol: how continuations were generated.
    """
    return {
        "model": model,
        "steers": ", ".join(f"{name} ({card.label or 'no label'})" for name, card in cards.items()),
        **_measures(scorer, perplexity_model),
        "prompts": prompts,
        "sampling": _sampling(protocol),
        "machine": platform.machine(),
    }


def comparison_metadata(config: ComparisonConfig, texts: int, scorer: Scorer) -> dict[str, str]:
    """The metadata of a comparison, whose methods learnt from a number of texts."""
    budget = config.budget
    searched = "; learning rate and number of steps chosen on held-out texts" if budget.search else ""
    limit = f", {budget.seconds:g} seconds at most" if budget.seconds else ""
    return {
        "model": config.model,
        "texts": f"{texts} labelled texts of {config.source.path}",
        **_measures(scorer, config.perplexity_model or config.model),
        "prompts": str(len(config.prompts)),
        "sampling": _sampling(config.protocol),
        "training": f"{budget.steps} steps of {budget.batch_size} texts at most{limit}{searched}",
        "machine": platform.machine(),
    }


def _measures(scorer: Scorer, perplexity_model: str) -> dict[str, str]:
    return {
        "scorer": scorer.name,
        "scorer quality": "; ".join(map(str, scorer.metrics)) or "not measured here",
        "perplexity model": perplexity_model,
    }


def _sampling(protocol: Protocol) -> str:
    limits = "".join(f", {name} {value:g}" for name, value in protocol.limits.on.items())
    return (
        f"{protocol.num_samples} continuations of {protocol.max_new_tokens} tokens for each prompt, "
        f"top-p {protocol.top_p:g}, seed {protocol.seed}{limits}"
    )
