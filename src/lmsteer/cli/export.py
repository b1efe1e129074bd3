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
from lmsteer.export.targets import (
    ADAPTER_TYPES,
    check_adapter_target,
    check_gguf_target,
    check_lora_target,
    check_merged_target,
)
from lmsteer.model.sources.pypi import check_gguf_of, gguf_of

_GGUF = ("gguf", "gguf-lora", "gguf-base")


@app.command()
def export(
    to: Annotated[
        Literal["merged", "lora", "gguf", "gguf-lora", "gguf-base"],
        typer.Option(
            help="Format: merged (a transformers checkpoint), lora (a PEFT adapter), gguf (a model for llama.cpp), "
            "gguf-lora (an adapter for llama.cpp), or gguf-base (the model without steers, for such adapters)."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder to write; a file for the gguf formats.")],
    steer: Annotated[list[str] | None, options.STEER_STRENGTHS] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="GGUF file of the model, for the gguf formats; for gguf-lora the one that the adapter "
            "will be loaded beside (default: that of --model).",
        ),
    ] = None,
    output_type: Annotated[
        Literal["f32", "f16", "q8_0"] | None,
        typer.Option(
            help="Type of the output tensor for --to gguf: f32, f16 or q8_0 (default: f16); of the factors for "
            "--to gguf-lora: f32 or f16 (default: f32)."
        ),
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
    _check_options(to, steer, gguf, output_type, check)
    steering = parse_steering(steer or ())
    strengths = steering.constant("an export")
    base = str(gguf or model)
    _check_target(to, out, base)
    if to == "gguf-base":
        written = _write_base(base, out)
    else:
        written = _write(
            lmsteer.load(model), lmsteer.Mix(steering.steers(), strengths), to, out, base, output_type, check
        )
    if as_json:
        print_json({"out": str(written), "to": to, "strengths": strengths})
    else:
        what = strengths_text(strengths) if strengths else "A base for adapters"
        stdout.print(f"{what} written to {written}.", markup=False, highlight=False)


def _check_options(to: str, steer: list[str] | None, gguf: Path | None, output_type: str | None, check: bool) -> None:
    """Refuse options that do not belong to a format."""
    if to not in _GGUF and gguf:
        raise DataError(f"--gguf is for --to {', '.join(_GGUF)}.")
    if to not in _GGUF[:2] and output_type:
        raise DataError("--output-type is for --to gguf and --to gguf-lora.")
    if to == "gguf-lora" and output_type not in (None, *ADAPTER_TYPES):
        raise DataError(f"the factors of an adapter are {' or '.join(ADAPTER_TYPES)}, not {output_type}.")
    if to != "merged" and check:
        raise DataError("--check is for --to merged.")
    if gguf and not gguf.is_file():
        raise DataError(f"no such file: {gguf}.")
    if to == "gguf-base" and steer:
        raise DataError("--to gguf-base writes the model without steers; --to gguf-lora writes steers.")
    if to != "gguf-base" and not steer:
        raise DataError("name the steers to export, such as sentiment=3.")


def _write_base(base: str, out: Path) -> Path:
    from lmsteer.export.gguf import export_gguf_base

    with gguf_of(base) as source:
        return export_gguf_base(source, out)


def _write(
    lm: lmsteer.LM, mix: lmsteer.Mix, to: str, out: Path, base: str, output_type: str | None, check: bool
) -> Path:
    from lmsteer.export.gguf import export_gguf
    from lmsteer.export.gguf_lora import export_gguf_lora
    from lmsteer.export.merged import export_merged
    from lmsteer.export.peft import export_lora

    if to == "merged":
        return export_merged(lm, mix, out, check=check)
    if to == "lora":
        return export_lora(lm, mix, out)
    with gguf_of(base) as source:
        if to == "gguf":
            return export_gguf(lm, mix, source, out, output=output_type or "f16")
        return export_gguf_lora(lm, mix, source, out, dtype=output_type or "f32")


def _check_target(to: str, out: Path, base: str) -> None:
    """Refuse a place that the export cannot write to, and a base without a GGUF file where one is needed."""
    if to in _GGUF:
        check_gguf_of(base)
        if to == "gguf-lora":
            check_adapter_target(out)
        else:
            check_gguf_target(out, Path(base))
    elif to == "merged":
        check_merged_target(out)
    else:
        check_lora_target(out)
