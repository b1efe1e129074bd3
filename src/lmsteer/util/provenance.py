"""Provenance: which model an artifact belongs to, what it was made from and how, and the one check of its base.

Steers, gist adapters, baselines and statistics are all made for one model: its weights and its tokenizer. Used with
another model they would act, and act wrongly, without an error. So each carries this record, and each is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from lmsteer.errors import WrongBaseError


class Base(Protocol):
    """A model that artifacts are made for: ``lmsteer.LM`` is one."""

    @property
    def name(self) -> str:
        """The model's name, as its user gave it."""
        ...

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its weights."""
        ...

    @property
    def tokenizer_fingerprint(self) -> str:
        """The fingerprint of its tokenizer."""
        ...

    @property
    def head_sample(self) -> Mapping[int, float]:
        """Some values of its output embedding, by their number; empty where nobody recorded them."""
        ...


class BaseIdentity(NamedTuple):
    """What identifies a model that artifacts are made for.

    Attributes:
        name: the model's name.
        fingerprint: the fingerprint of its weights.
        tokenizer_fingerprint: the fingerprint of its tokenizer.
    """

    name: str
    fingerprint: str
    tokenizer_fingerprint: str

    @property
    def head_sample(self) -> Mapping[int, float]:
        """Nobody recorded it."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an artifact comes from.

    Attributes:
        base: the name of the model that it was made for.
        base_fingerprint: the fingerprint of that model's weights; empty where nobody recorded it.
        tokenizer_fingerprint: the fingerprint of that model's tokenizer.
        data: what it was made from: number and fingerprint of the texts, their source.
        fit: the method and its settings.
        held_out: metrics on texts that the fit did not see.
    """

    base: str
    base_fingerprint: str
    tokenizer_fingerprint: str
    data: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the artifact is called in an error message."""
        return "this artifact"

    @property
    def model(self) -> BaseIdentity:
        """The identity of the model that the artifact was made for."""
        return BaseIdentity(self.base, self.base_fingerprint, self.tokenizer_fingerprint)

    def check_base(self, base: Base) -> None:
        """Refuse a model or a tokenizer other than those that the artifact was made for.

        Raises:
            WrongBaseError: a fingerprint differs.
        """
        if self.base_fingerprint != base.fingerprint:
            raise WrongBaseError(
                f"{self.title} was fitted on {self.base!r} (fingerprint {self.base_fingerprint}), but the model at "
                f"hand is {base.name!r} (fingerprint {base.fingerprint}). Fit it on this model."
            )
        if self.tokenizer_fingerprint != base.tokenizer_fingerprint:
            raise WrongBaseError(
                f"{self.title} was fitted with another tokenizer (fingerprint {self.tokenizer_fingerprint}) than the "
                f"one of {base.name!r} (fingerprint {base.tokenizer_fingerprint})."
            )


def provenance_of(base: Base) -> dict[str, Any]:
    """The three fields of a ``Provenance`` that name a model: ``Card(name="x", **provenance_of(lm))``."""
    return {
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "tokenizer_fingerprint": base.tokenizer_fingerprint,
    }
