"""How the commands print what they found, for people and for machines."""

from lmsteer.cli.output.common import as_json
from lmsteer.cli.output.comparing import comparison, comparison_as_json
from lmsteer.cli.output.evaluating import outcomes
from lmsteer.cli.output.keeping import cached, entries_as_json, known_steers
from lmsteer.cli.output.reading import (
    analyses,
    component_as_json,
    components,
    verification,
    verification_as_json,
)
from lmsteer.cli.output.steers import mix, mix_as_json, safe_range, transferred
from lmsteer.cli.output.writing import continuations, fitted, gist_fitted, streamed

__all__ = [
    "analyses",
    "as_json",
    "cached",
    "comparison",
    "comparison_as_json",
    "component_as_json",
    "components",
    "continuations",
    "entries_as_json",
    "fitted",
    "gist_fitted",
    "known_steers",
    "mix",
    "mix_as_json",
    "outcomes",
    "safe_range",
    "streamed",
    "transferred",
    "verification",
    "verification_as_json",
]
