"""The configuration of an evaluation, as far as it is known before a model is loaded.

This module does not import torch, so that the command line can refuse the folder of another evaluation at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsteer.data.chats import Prompt, prompt_json
from lmsteer.evaluation.protocol import Protocol
from lmsteer.generation.config import record_of
from lmsteer.util.run import Run


def known_config(
    model: str, perplexity_model: str, scorer: str, prompts: Sequence[Prompt], protocol: Protocol
) -> dict[str, Any]:
    """What must be the same for kept blocks to be used, except for the fingerprints of the models and the scorer.

    Args:
        model: name of the model that generates.
        perplexity_model: name of the model that perplexity is computed with.
        scorer: name of the scorer of the attribute.
        prompts: the prompts.
        protocol: how continuations are generated.
    """
    return {
        "model": model,
        "perplexity_model": perplexity_model,
        "scorer": scorer,
        "prompts": hashlib.sha256(json.dumps([*map(prompt_json, prompts)]).encode()).hexdigest()[:32],
        **record_of(protocol),
    }


def evaluation_run(folder: Path, config: Mapping[str, Any]) -> Run:
    """The resumable run of an evaluation in a folder, of a whole configuration or a part of it."""
    return Run(folder, config, "an evaluation")
