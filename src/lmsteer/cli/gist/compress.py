"""The command ``gist compress``: a prompt becomes a file that stands in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import stdout
from lmsteer.cli.gist.app import Adapter, gist_app
from lmsteer.cli.output.common import print_json
from lmsteer.data.text_files import read_text
from lmsteer.errors import DataError
from lmsteer.gist import SHIPPED
from lmsteer.gist.lookup import find_card
from lmsteer.util.files import check_writable


@gist_app.command()
def compress(
    out: Annotated[Path, typer.Option(metavar="FILE", help="File of the gist.")],
    prompt: Annotated[str | None, typer.Argument(help="Prompt to compress.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Text file that holds the prompt.")] = None,
    adapter: Adapter = SHIPPED,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Compress a prompt into a gist, a file that stands in the prompt's place.

    Example: lmsteer gist compress 'Write the opposite of the given word.' --out opposite.gist
    """
    if (prompt is None) == (prompt_file is None):
        raise DataError("give a prompt, or a file with one as --prompt-file.")
    text = read_text(prompt_file) if prompt_file else prompt or ""
    if not text.strip():
        raise DataError("the prompt is empty: there is nothing to compress.")
    check_writable(out, "the gist")
    card = find_card(adapter)

    from lmsteer.cli.output.gist import print_gist
    from lmsteer.gist.adapter import find_adapter
    from lmsteer.gist.compress import compress as run
    from lmsteer.gist.examples import prompt_ids

    lm = lmsteer.load(model)
    (gist,) = run(lm, find_adapter(adapter), prompt_ids(lm, [text]), condition=card.condition)
    gist.save(out)
    if as_json:
        print_json({"file": str(out), **gist.to_json()})
    else:
        print_gist(stdout, gist, out)
