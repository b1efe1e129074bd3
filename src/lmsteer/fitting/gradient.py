"""The published recipe: a steer and a domain steer trained by gradient descent (Han et al., ACL 2024, section 4).

The likelihood of each text is maximised under ``W = ε (s A Bᵀ + A₀ B₀ᵀ)``, with s its label and the domain steer
always on; the model is frozen. Adam, learning rate 1e-2, 1000 steps of 32 texts, rank 1000, ε = 1e-3, factors
drawn N(0, 1e-2²), optional L2.

As the steer stands after the model's last layer, the hidden states do not change while it is trained: each text
runs through the model once, the first time that it is drawn, and its rows are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.model.head import Head
from lmsteer.reading.rows import LabelledRows
from lmsteer.util.files import replace_folder

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_STATE_FILE, _RECORD_FILE = "state.safetensors", "state.json"
FACTOR_NAMES = ("A", "B", "A_domain", "B_domain")


@dataclass(frozen=True)
class GradientConfig:
    """Settings of the gradient method; the defaults are the published ones.

    Attributes:
        steps: of Adam.
        batch: texts a step.
        learning_rate: of Adam.
        rank: r of the steer and of the domain steer.
        epsilon: factor on W.
        initial: standard deviation of the factors at the start.
        l2: weight of the mean squared factor in the loss.
        domain: whether a domain steer is trained beside the steer.
        seed: of the factors and of the order of texts.

    Raises:
        DataError: steps, batch or rank below one.
    """

    steps: int = 1000
    batch: int = 32
    learning_rate: float = 1e-2
    rank: int = 1000
    epsilon: float = 1e-3
    initial: float = 1e-2
    l2: float = 0.0
    domain: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.rank) < 1:
            raise DataError(f"steps ({self.steps}), batch ({self.batch}) and rank ({self.rank}) must be one or more.")


class Training:
    """Adam at work on the factors; its whole state can be written and read back."""

    def __init__(self, hidden_size: int, recipe: GradientConfig) -> None:
        self.recipe = recipe
        self.step = 0
        random = torch.Generator().manual_seed(recipe.seed)
        shape = (hidden_size, recipe.rank)
        names = FACTOR_NAMES if recipe.domain else FACTOR_NAMES[:2]
        self.factors = {
            name: (torch.randn(shape, generator=random) * recipe.initial).requires_grad_() for name in names
        }
        self.optimiser = torch.optim.Adam(self.factors.values(), lr=recipe.learning_rate)

    def train_on(self, head: Head, rows: LabelledRows) -> float:
        """One step of Adam on the rows of a batch; gives the loss in nats a token."""
        self.optimiser.zero_grad()
        total = 0.0
        for h, y, label in head.pieces(rows.h, rows.target, rows.label):
            raw = head.raw(self._steered(h, label).to(head.weight.device))
            loss = -head.log_likelihood_of(raw.float(), y.to(raw.device)).sum() / len(rows)
            loss.backward()
            total += float(loss.detach())
        if self.recipe.l2:
            squares = torch.cat([factor.flatten() for factor in self.factors.values()]).square().mean()
            (self.recipe.l2 * squares).backward()
        self.optimiser.step()
        self.step += 1
        return total

    def factors_of(self, kind: str) -> dict[str, Tensor]:
        """A, B (d, r) of the steer (``""``) or of the domain steer (``"_domain"``), ε taken into B."""
        a, b = self.factors[f"A{kind}"].detach(), self.factors[f"B{kind}"].detach()
        return {"A": a.clone(), "B": b * self.recipe.epsilon}

    def save(self, folder: Path, plan: str) -> None:
        """Write factors, Adam's moments and the step.

        Raises:
            DataError: the disk does not take them.
        """
        tensors = {name: factor.detach() for name, factor in self.factors.items()}
        for name, factor in self.factors.items():
            tensors |= {f"{name}.{key}": value for key, value in self.optimiser.state[factor].items()}
        record = {"step": self.step, "plan": plan, "recipe": asdict(self.recipe)}
        try:
            with replace_folder(folder) as aside:
                save_file(tensors, aside / _STATE_FILE)
                (aside / _RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot keep the training in {folder}: {error}.") from error

    def restore(self, folder: Path, plan: str) -> None:
        """Go on from what ``save`` wrote.

        Raises:
            DataError: it belongs to other texts, another model or another recipe (the number of steps may differ),
                or is damaged.
        """
        try:
            record = json.loads((folder / _RECORD_FILE).read_text(encoding="utf-8"))
            same = {**record["recipe"], "steps": self.recipe.steps} == asdict(self.recipe)
            if record["plan"] != plan or not same:
                raise DataError(
                    f"{folder} holds an interrupted fit of other texts or settings; remove it to start anew."
                )
            tensors = load_file(folder / _STATE_FILE)
            self.step = record["step"]
            for name, factor in self.factors.items() if self.step else ():
                factor.data.copy_(tensors[name])
                self.optimiser.state[factor] = {key: tensors[f"{name}.{key}"] for key in _MOMENTS}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{folder} holds no training that can be gone on with ({error}); remove it.") from error

    def _steered(self, h: Tensor, label: Tensor) -> Tensor:
        epsilon, f = self.recipe.epsilon, self.factors
        moved = label[:, None] * ((h @ f["A"]) @ f["B"].T)
        if self.recipe.domain:
            moved = moved + (h @ f["A_domain"]) @ f["B_domain"].T
        return h + epsilon * moved


class TextRows:
    """Rows of single texts, gathered when first drawn and kept; read from the store where there is one."""

    def __init__(self, states: HiddenStates, texts: Sequence[LabelledText]) -> None:
        self._states, self._texts = states, texts
        self._kept: dict[int, LabelledRows] = {}

    def rows(self, indices: Sequence[int]) -> LabelledRows:
        """Rows of some texts, in their order."""
        missing = {i: None for i in indices if i not in self._kept}
        for batch, states in self._states.of_texts(list(missing)):
            rows = states.labelled([self._texts[i] for i in batch])
            parts = torch.arange(len(rows)).split(torch.bincount(states.text).tolist())
            self._kept |= {i: rows[part] for i, part in zip(batch, parts, strict=True) if i in missing}
        return LabelledRows.join([self._kept[i] for i in indices])


def draws(count: int, recipe: GradientConfig) -> Iterator[list[int]]:
    """The texts of each step: every text once an epoch, in an order that the seed and the epoch fix."""
    epoch = 0
    queue: list[int] = []
    for _ in range(recipe.steps):
        while len(queue) < min(recipe.batch, count):
            order = torch.randperm(count, generator=torch.Generator().manual_seed(recipe.seed + epoch))
            queue, epoch = queue + order.tolist(), epoch + 1
        yield queue[: recipe.batch]
        queue = queue[recipe.batch :]


def train(
    training: Training, texts: TextRows, head: Head, chosen: Sequence[int], after_step: Callable[[int, float], None]
) -> None:
    """Take the steps that are left of a training on the chosen ones of some texts."""
    for number, batch in enumerate(draws(len(chosen), training.recipe), 1):
        if number > training.step:
            after_step(number, training.train_on(head, texts.rows([chosen[i] for i in batch])))
