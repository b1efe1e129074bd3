"""The budget of a training. This module does not import torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lmsteer.errors import DataError


@dataclass(frozen=True)
class TrainingBudget:
    """How long a baseline is trained.

    Attributes:
        steps: maximum number of optimizer steps.
        seconds: maximum time in seconds; None for no limit. A run that it ends early cannot be repeated exactly.
        batch_size: number of texts per step.
        seed: seed of the initial parameters and of the order of texts.
        search: whether to choose the learning rate and the number of steps on held-out texts (``search``): a training
            for each rate, each within the other limits. Default False: the rate of the method, and all steps.

    Raises:
        DataError: a value is out of range.
    """

    steps: int = 200
    seconds: float | None = None
    batch_size: int = 16
    seed: int = 0
    search: bool = False

    def __post_init__(self) -> None:
        if (
            min(self.steps, self.batch_size) < 1
            or (self.seconds is not None and not self.seconds > 0)
            or not 0 <= self.seed < 1 << 32
        ):
            raise DataError(
                "steps and batch size must be 1 or more, seconds above 0, and the seed from 0 to 2³² - 1; "
                f"they are {asdict(self)}."
            )
