"""Links that hold the state of the page: each input has a name in the query string."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

# Stands before a steer's name in the query string.
_STEER = "steer."


@dataclass(frozen=True)
class StateField:
    """An input of the page that a link restores.

    Attributes:
        name: name in the query string.
        component: the gradio component.
        parse: converts the text in the query string to a value; raises ``ValueError`` if it cannot.
    """

    name: str
    component: Any
    parse: Callable[[str], Any] = field(default=float)

    @classmethod
    def of_steer(cls, name: str, component: Any) -> StateField:
        """The field of a steer's slider."""
        return cls(_STEER + name, component)

    def restore(self, query: Mapping[str, str]) -> Any:
        """The value in a query string; the component's own value if the query has none, or none that can be parsed."""
        try:
            return self.parse(query[self.name])
        except (KeyError, ValueError):
            return self.component.value


def choice(values: Sequence[str]) -> Callable[[str], str]:
    """A parser of a value that is one of some."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(text)
        return text

    return parse


def link_to(state: Mapping[str, Any]) -> str:
    """The query string that restores a state."""
    return "?" + urlencode(state)


def strengths_in(state: Mapping[str, Any]) -> dict[str, float]:
    """The strengths other than 0 in a state, by the name of the steer."""
    sliders = {key.removeprefix(_STEER): value for key, value in state.items() if key.startswith(_STEER)}
    return {name: float(strength) for name, strength in sliders.items() if strength}
