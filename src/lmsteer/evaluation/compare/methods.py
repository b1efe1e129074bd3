"""Which methods a comparison measures. This module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence

from lmsteer.baselines.names import INSTRUCTION_BASED, METHOD_NAMES, check_methods
from lmsteer.errors import DataError


def select_methods(names: Sequence[str] | None, *, with_instructions: bool) -> list[str]:
    """The methods to measure, in the order of their names.

    Args:
        names: names that the user chose; None for all methods that can run.
        with_instructions: whether there is an instruction for each end, which some methods need.

    Raises:
        DataError: a name is empty or unknown, or a chosen method lacks its instructions.
    """
    if names is None:
        return [name for name in METHOD_NAMES if with_instructions or name not in INSTRUCTION_BASED]
    chosen = [name.strip() for name in names]
    if not all(chosen):
        raise DataError(f"--methods has an empty name in {','.join(names)!r}: write names with commas between them.")
    check_methods(chosen)
    if not with_instructions and (lacking := [name for name in chosen if name in INSTRUCTION_BASED]):
        raise DataError(
            f"the method {lacking[0]} needs --negative-prompt and --positive-prompt, an instruction for each end."
        )
    return chosen
