"""Commands between lmsteer and others: import and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli.app import AsJson, Model, app, dialled, stdout
from lmsteer.errors import LMSteerError
from lmsteer.model.sources.resolve import DEFAULT_MODEL

_FORMS = ("merged", "lora", "gguf")


@app.command()
def export(
    steer: Annotated[list[str], typer.Argument(help="Steers as NAME=STRENGTH; several become one.")],
    to: Annotated[str, typer.Option(help="merged: a transformers checkpoint; lora: a PEFT adapter of the head; gguf.")],
    out: Annotated[Path, typer.Option(help="Folder; of gguf, a file.")],
    model: Model = DEFAULT_MODEL,
    gguf: Annotated[Path | None, typer.Option(help="GGUF file of the model, for --to gguf.")] = None,
    output_type: Annotated[
        str | None, typer.Option(help="Of the output tensor in a GGUF file: f32, f16 (if not given), q8_0.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="For --to merged: load the written model and compare its logits.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write steers, at fixed strengths, in a form that loads without lmsteer.

    Example: lmsteer export sentiment=3 --to merged --out kind-model
    """
    from lmsteer.cli import output as printing
    from lmsteer.export.gguf import export_gguf
    from lmsteer.export.merged import export_merged
    from lmsteer.export.peft import export_lora
    from lmsteer.model.loading import load
    from lmsteer.model.sources.pypi import gguf_of
    from lmsteer.steer.mix import Mix

    if to not in _FORMS:
        raise LMSteerError(f"--to is one of {', '.join(_FORMS)}, not {to!r}.")
    if to != "gguf" and (gguf or output_type):
        raise LMSteerError("--gguf and --output-type are for --to gguf.")
    if to != "merged" and check:
        raise LMSteerError("--check is for --to merged.")
    steers, settings = dialled(steer)
    if len(settings) > 1:
        raise LMSteerError("an export has one strength of each steer.")
    mix = Mix(steers, settings[0])
    lm = load(model)
    if to == "gguf":
        with gguf_of(str(gguf or model)) as source:
            written = export_gguf(lm, mix, source, out, output=output_type or "f16")
    elif to == "merged":
        written = export_merged(lm, mix, out, check=check)
    else:
        written = export_lora(lm, mix, out)
    if as_json:
        printing.as_json({"out": str(written), "to": to, "strengths": settings[0]})
    else:
        dial = " ".join(f"{name}={strength:g}" for name, strength in settings[0].items())
        stdout.print(f"{dial} written to {written}.", markup=False, highlight=False)


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="A .pt checkpoint of the published code, or a folder of a PEFT LoRA.")],
    name: Annotated[str, typer.Option(help="What the dimension is called.")],
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path | None, typer.Option(help="Folder of the steer; steers/NAME if not given.")] = None,
) -> None:
    """Import a published checkpoint, or a LoRA on the head as the nearest steer; nothing in them is executed.

    Example: lmsteer import checkpoint.pt --name detoxification --model gpt2-large
    """
    from lmsteer.export.peft import import_lora
    from lmsteer.model.loading import load
    from lmsteer.steer.files import save_steer
    from lmsteer.steer.lookup import STEERS_FOLDER
    from lmsteer.steer.published_checkpoint import import_published

    lm = load(model)
    if source.is_dir():
        nearest = import_lora(lm, source, name)
        steers = [nearest.steer]
        stdout.print(f"{nearest.residual:.1%} of what the LoRA changes is nothing that a steer can have.")
    else:
        vocabulary, hidden_size = lm.head.weight.shape
        steers = import_published(source, lm.card(name), hidden_size, vocabulary)
    for k, steer in enumerate(steers):
        folder = (STEERS_FOLDER / name if out is None else out).absolute()
        folder = folder if len(steers) == 1 else folder.with_name(f"{folder.name}-{k}")
        stdout.print(f"Steer {steer.card.name!r} saved to {save_steer(steer, folder)}.", markup=False)
