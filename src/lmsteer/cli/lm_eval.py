"""The command ``lm-eval``: lm-evaluation-harness, with steered models."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import typer

from lmsteer.cli import options
from lmsteer.cli.app import app
from lmsteer.data.text_files import read_text
from lmsteer.errors import DataError, LMSteerError

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("lm-eval", context_settings=_PASSED_ON)
def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness on a steered model.

    All arguments go to its command lm_eval, whose --help lists them. The model is a steered one unless --model, or the
    file of --config, names another kind. --model_args says which model, under which steers:
    pretrained=MODEL,steers=sentiment=3+toxicity=1. Sixty-four answers are written at once unless --batch_size says
    otherwise.

    Example: lmsteer lm-eval --tasks blimp --model_args steers=sentiment=3
    """
    try:
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise LMSteerError("this command needs lm-evaluation-harness: pip install 'lmsteer[eval]'.") from error

    if "lmsteer" not in model_registry:  # releases of the harness that look for entry points find it by themselves
        model_registry.register("lmsteer", target="lmsteer.evaluation.harness:SteeredLM")
    sys.argv = ["lm_eval", *with_model(context.args)]
    try:
        cli_evaluate()
    except ValueError as error:  # so the harness refuses unknown tasks and settings
        raise LMSteerError(f"lm-evaluation-harness: {error}") from error


def with_model(arguments: list[str]) -> list[str]:
    """The arguments of the harness, with this package's model and rows where they evaluate one and do not name it.

    Raises:
        DataError: the file of ``--config`` cannot be read.
    """
    if not arguments or not (arguments[0] == "run" or arguments[0].startswith("-")):
        return arguments
    config = _config_of(arguments)
    if _is_given(arguments, "--model", "-M") or "model" in config:
        return arguments
    sized = _is_given(arguments, "--batch_size", "-b") or "batch_size" in config
    rows = [] if sized else ["--batch_size", str(options.DEFAULTS.batch_size)]  # the harness's own default is 1
    return [*arguments, "--model", "lmsteer", *rows]


def _is_given(arguments: list[str], name: str, short: str) -> bool:
    """Whether an option stands among arguments, by its name or its letter."""
    return any(each == name or each.startswith((f"{name}=", short)) for each in arguments)


def _config_of(arguments: list[str]) -> dict[str, Any]:
    """The settings in the file of ``--config``; none without one."""
    import yaml

    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-C")
    file = parser.parse_known_args(arguments)[0].config
    if file is None:
        return {}
    try:
        content = yaml.safe_load(read_text(Path(file)))
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not YAML: {error}.") from error
    return content if isinstance(content, dict) else {}
