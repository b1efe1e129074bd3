"""The command ``lm-eval``: lm-evaluation-harness, with steered models."""

from __future__ import annotations

import sys

import typer

from lmsteer.cli.app import app
from lmsteer.errors import LMSteerError

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
# Options by which the model may be named already.
_NAMES_A_MODEL = ("--model", "-M", "--config", "-C")


@app.command("lm-eval", context_settings=_PASSED_ON)
def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness on a steered model.

    All arguments go to its command lm_eval, whose --help lists them. The model is a steered one unless --model names
    another kind. --model_args says which, under which steers: pretrained=MODEL,steers=sentiment=3+toxicity=1.

    Example: lmsteer lm-eval --tasks blimp --model_args steers=sentiment=3
    """
    try:
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise LMSteerError(f"this command needs {error.name}: pip install 'lmsteer[eval]'.") from error

    if "lmsteer" not in model_registry:  # releases of the harness that look for entry points find it by themselves
        model_registry.register("lmsteer", target="lmsteer.evaluation.harness:SteeredLM")
    sys.argv = ["lm_eval", *with_model(context.args)]
    cli_evaluate()


def with_model(arguments: list[str]) -> list[str]:
    """The arguments of the harness, with this package's model where they evaluate one and do not name it."""
    evaluates = bool(arguments) and (arguments[0] == "run" or arguments[0].startswith("-"))
    named = any(argument.split("=")[0] in _NAMES_A_MODEL for argument in arguments)
    return [*arguments, "--model", "lmsteer"] if evaluates and not named else arguments
