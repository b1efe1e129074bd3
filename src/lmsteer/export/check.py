"""What can go out: steers whose map a head can take in, at strengths that are fixed."""

from __future__ import annotations

from lmsteer.errors import SteerError
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix


def check_mix(lm: LM, mix: Mix) -> None:
    """Refuse a mix that is no one map on the hidden states of a model.

    Raises:
        SteerError: no steers, steers of another form, or strengths row by row.
        WrongBaseError: steers of another base.
    """
    lm.check_base(mix)
    if len(mix.strengths) != 1 or not mix.steers or any(steer.form != "multiply" for steer in mix.steers.values()):
        raise SteerError("an export can be made of steers of form multiply, with one strength each.")
