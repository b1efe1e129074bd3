"""The command ``export``: steers in the formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, stdout
from lmsteer.cli.output.common import print_json, strengths_text
from lmsteer.cli.steering import parse_steering
from lmsteer.errors import DataError
from lmsteer.export.targets import check_gguf_target, check_lora_target, check_merged_target
from lmsteer.model.sources.pypi import check_gguf_of, gguf_of


@app.command()
def export(
    steer: options.SteerStrengths,
    to: Annotated[
        Literal["merged", "lora", "gguf"],
        typer.Option(help="Format: merged (a transformers checkpoint), lora (a PEFT adapter), or gguf."),
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder to write; a file for --to gguf.")],
    gguf: Annotated[Path | None, typer.Option(metavar="FILE", help="GGUF file of the model, for --to gguf.")] = None,
    output_type: Annotated[
        Literal["f32", "f16", "q8_0"] | None,
        typer.Option(help="Type of the output tensor of a GGUF file: f32, f16 or q8_0 (default: f16)."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Load the written model and compare its logits, for --to merged.")
    ] = False,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Write steers, at fixed strengths, in a format that loads without lmsteer.

    Example: lmsteer export sentiment=3 --to merged --out kind-model
    """
    if to != "gguf" and (gguf or output_type):
        raise DataError("--gguf and --output-type are for --to gguf.")
    if to != "merged" and check:
        raise DataError("--check is for --to merged.")
    steering = parse_steering(steer)
    strengths = steering.constant("an export")
    if to == "gguf" and gguf and not gguf.is_file():
        raise DataError(f"no such file: {gguf}.")
    _check_target(to, out, str(gguf or model))

    from lmsteer.export.gguf import export_gguf
    from lmsteer.export.merged import export_merged
    from lmsteer.export.peft import export_lora

    mix = lmsteer.Mix(steering.steers(), strengths)
    lm = lmsteer.load(model)
    if to == "gguf":
        with gguf_of(str(gguf or model)) as source:
            written = export_gguf(lm, mix, source, out, output=output_type or "f16")
    elif to == "merged":
        written = export_merged(lm, mix, out, check=check)
    else:
        written = export_lora(lm, mix, out)
    if as_json:
        print_json({"out": str(written), "to": to, "strengths": strengths})
    else:
        stdout.print(f"{strengths_text(strengths)} written to {written}.", markup=False, highlight=False)


def _check_target(to: str, out: Path, base: str) -> None:
    """Refuse a place that the export cannot write to, and a base without a GGUF file where one is needed."""
    if to == "gguf":
        check_gguf_of(base)
        check_gguf_target(out, Path(base))
    elif to == "merged":
        check_merged_target(out)
    else:
        check_lora_target(out)
