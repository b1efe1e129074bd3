"""The published recipe: a steer and a domain steer trained by gradient descent (Han et al., ACL 2024, section 4).

The likelihood of each text is maximised under ``W = ε (s A Bᵀ + A₀ B₀ᵀ)``, with s its label and the domain steer
always on; the model is frozen. Adam, learning rate 1e-2, 1000 steps of 32 texts, rank 1000, ε = 1e-3, factors
drawn from N(0, 1e-2²), optional L2.

The steer acts after the model's last layer, so the hidden states do not change during training: each text runs through
the model once, the first time that it is drawn, and its rows are kept in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.model.head import Head
from lmsteer.reading.rows import LabelledRows
from lmsteer.util.files import replace_folder, writing
from lmsteer.util.records import parse_json
from lmsteer.util.run import Run
from lmsteer.util.seeds import stable_seed

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_STATE_FILE, _RECORD_FILE = "state.safetensors", "state.json"
# More than any model's hidden size, beyond which a rank adds nothing.
_MAX_RANK = 1 << 16
FACTOR_NAMES = ("A", "B", "A_domain", "B_domain")


@dataclass(frozen=True)
class GradientConfig:
    """Settings of the gradient method; the defaults are the published ones.

    Attributes:
        steps: number of optimizer steps.
        batch_size: number of texts in a step.
        learning_rate: learning rate of Adam.
        rank: rank of the steer and of the domain steer.
        epsilon: factor on W.
        initial_std: standard deviation of the factors at the start.
        l2: weight of the mean squared factor in the loss.
        domain: whether a domain steer is trained with the steer.
        seed: seed of the factors and of the order of texts.

    Raises:
        DataError: steps, batch size or rank below 1, a rank without measure, or a seed that torch does not take.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-2
    rank: int = 1000
    epsilon: float = 1e-3
    initial_std: float = 1e-2
    l2: float = 0.0
    domain: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.rank) < 1:
            raise DataError(
                f"steps ({self.steps}), batch size ({self.batch_size}) and rank ({self.rank}) must be 1 or more."
            )
        if self.rank > _MAX_RANK:
            raise DataError(f"the rank must be at most {_MAX_RANK}, not {self.rank}.")
        if not -(1 << 63) <= self.seed < 1 << 64:
            raise DataError(f"the seed must be a number of 64 bits, not {self.seed}.")


class Training:
    """A training by Adam: the factors and the optimizer, whose state can be saved and restored.

    Args:
        hidden_size: d, the hidden size of the model.
        config: the settings.
        device: the device of the factors.
    """

    def __init__(self, hidden_size: int, config: GradientConfig, device: torch.device) -> None:
        self.config = config
        self.step = 0
        random = torch.Generator().manual_seed(config.seed)
        shape = (hidden_size, config.rank)
        names = FACTOR_NAMES if config.domain else FACTOR_NAMES[:2]
        drawn = {name: torch.randn(shape, generator=random) * config.initial_std for name in names}
        self.factors = {name: factor.to(device).requires_grad_() for name, factor in drawn.items()}
        self.device = device
        self.optimizer = torch.optim.Adam(self.factors.values(), lr=config.learning_rate)

    def train_on(self, head: Head, rows: LabelledRows) -> float:
        """Take one step of Adam on the rows of a batch, and return the loss in nats a token."""
        self.optimizer.zero_grad()
        total = 0.0
        for h, y, label in head.pieces(*(own.to(self.device) for own in (rows.h, rows.target, rows.label))):
            raw = head.raw(self._steered(h, label))
            loss = -head.log_likelihood_of(raw.float(), y.to(raw.device)).sum() / len(rows)
            loss.backward()
            total += float(loss.detach())
        if self.config.l2:
            squares = torch.cat([factor.flatten() for factor in self.factors.values()]).square().mean()
            (self.config.l2 * squares).backward()
        self.optimizer.step()
        self.step += 1
        return total

    def factors_of(self, kind: str) -> dict[str, Tensor]:
        """A, B (d, r) of the steer (``""``) or of the domain steer (``"_domain"``); B includes ε."""
        a, b = (self.factors[f"{name}{kind}"].detach().cpu() for name in "AB")
        return {"A": a.clone(), "B": b * self.config.epsilon}

    def save(self, run: Run) -> None:
        """Write factors, Adam's moments and the number of steps to the folder of a run.

        Raises:
            OutputError: the folder cannot be written.
        """
        tensors = {name: factor.detach() for name, factor in self.factors.items()}
        for name, factor in self.factors.items():
            tensors |= {f"{name}.{key}": value for key, value in self.optimizer.state[factor].items()}
        record = {"step": self.step, "run": dict(run.config)}
        with writing(run.folder, "the training"), replace_folder(run.folder) as aside:
            save_file(tensors, aside / _STATE_FILE)
            (aside / _RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def restore(self, run: Run) -> None:
        """Continue from the state that ``save`` wrote.

        Raises:
            DataError: the state belongs to another run, or is damaged.
        """
        try:
            record = parse_json((run.folder / _RECORD_FILE).read_text(encoding="utf-8"))
            run.check(record["run"])
            tensors = load_file(run.folder / _STATE_FILE)
            self.step = int(record["step"])
            for name, factor in self.factors.items() if self.step else ():
                factor.data.copy_(tensors[name])
                # The number of steps stays on the CPU, as Adam keeps it.
                moments = {key: tensors[f"{name}.{key}"].to(factor) for key in _MOMENTS[1:]}
                self.optimizer.state[factor] = {_MOMENTS[0]: tensors[f"{name}.{_MOMENTS[0]}"], **moments}
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise DataError(f"{run.folder} holds no training that can be resumed ({error}); remove it.") from error

    def _steered(self, h: Tensor, label: Tensor) -> Tensor:
        epsilon, f = self.config.epsilon, self.factors
        moved = label[:, None] * ((h @ f["A"]) @ f["B"].T)
        if self.config.domain:
            moved = moved + (h @ f["A_domain"]) @ f["B_domain"].T
        return h + epsilon * moved


class TextRows:
    """Rows of single texts, computed when they are first drawn (or read from the activation cache), and then kept.

    They are kept on the CPU, without residuals, of which nothing is made here.
    """

    def __init__(self, states: HiddenStates, texts: Sequence[LabelledText]) -> None:
        self._states, self._texts = states, texts
        self._kept: dict[int, LabelledRows] = {}

    def rows(self, indices: Sequence[int]) -> LabelledRows:
        """Rows of some texts, in their order."""
        missing = {i: None for i in indices if i not in self._kept}
        for batch, states in self._states.of_texts(list(missing)):
            rows = states.labelled([self._texts[i] for i in batch]).to("cpu").without_residuals()
            parts = torch.arange(len(rows)).split(torch.bincount(states.text).tolist())
            self._kept |= {i: rows[part] for i, part in zip(batch, parts, strict=True) if i in missing}
        return LabelledRows.join([self._kept[i] for i in indices])


def training_batches(count: int, config: GradientConfig) -> Iterator[list[int]]:
    """The indices of the texts of each step: every text once an epoch, in an order by seed and epoch."""
    epoch = 0
    queue: list[int] = []
    for _ in range(config.steps):
        while len(queue) < min(config.batch_size, count):
            order = torch.randperm(count, generator=torch.Generator().manual_seed(stable_seed(config.seed, epoch)))
            queue, epoch = queue + order.tolist(), epoch + 1
        yield queue[: config.batch_size]
        queue = queue[config.batch_size :]


def train(
    training: Training, texts: TextRows, head: Head, chosen: Sequence[int], after_step: Callable[[int, float], None]
) -> None:
    """Take the steps that a training has left on the ``chosen`` texts; ``after_step`` gets a step's number and loss."""
    for number, batch in enumerate(training_batches(len(chosen), training.config), 1):
        if number > training.step:
            after_step(number, training.train_on(head, texts.rows([chosen[i] for i in batch])))
