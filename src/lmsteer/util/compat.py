"""What lmsteer uses of libraries beyond their documented interface, or under names that differ between releases.

Everything of the kind stands here, each with a test, so that an upgrade that breaks something fails in one place.
"""

from __future__ import annotations

from dataclasses import fields

from transformers.generation.utils import GenerateDecoderOnlyOutput

# The name under which this release of transformers 5 takes and returns the key-value cache: ``past_key_values`` up to
# 5.2x, ``cache`` after; the former warns where the latter exists.
CACHE = next(f.name for f in fields(GenerateDecoderOnlyOutput) if f.name in ("cache", "past_key_values"))
