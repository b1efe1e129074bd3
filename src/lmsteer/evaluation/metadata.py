"""The facts of an evaluation that its report and its JSON state."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmsteer.evaluation.protocol import Protocol
    from lmsteer.evaluation.scorers import Scorer
    from lmsteer.steer.card import Card


def evaluation_metadata(
    model: str, cards: Mapping[str, Card], scorer: Scorer, perplexity_model: str, prompts: str, protocol: Protocol
) -> dict[str, str]:
    """What an evaluation measured, and with what.

    Args:
        model: name of the model.
        cards: cards of the steers, by name.
        scorer: scorer of the attribute.
        perplexity_model: name of the model that perplexity is computed with.
        prompts: how many prompts there are, and where they come from.
        protocol: how continuations are generated.
    """
    return {
        "model": model,
        "steers": ", ".join(f"{name} ({card.label or 'no label'})" for name, card in cards.items()),
        "scorer": scorer.name,
        "scorer quality": "; ".join(map(str, scorer.about)) or "not measured here",
        "perplexity model": perplexity_model,
        "prompts": prompts,
        "sampling": f"{protocol.num_samples} continuations of {protocol.max_new_tokens} tokens, top-p "
        f"{protocol.top_p:g}, seed {protocol.seed}",
        "machine": platform.machine(),
    }
