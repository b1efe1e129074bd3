"""The command that measures generation: evaluate."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli.app import AsJson, Model, app, stderr, stdout
from lmsteer.errors import LMSteerError
from lmsteer.model.sources.resolve import DEFAULT_MODEL


@app.command()
def evaluate(
    prompts: Annotated[Path, typer.Argument(help="Prompts: plain lines or JSONL in the published format.")],
    steer: Annotated[list[str], typer.Option(help="A steer with its strengths, as NAME=S1,S2,..; rivals after it.")],
    out: Annotated[Path, typer.Option(help="Folder of continuations, figures, report.html and curves.svg.")],
    scorer: Annotated[str, typer.Option(help="Judge of the attribute, or hf:MODEL=CLASS.")] = "sentiment",
    baseline: Annotated[list[str] | None, typer.Option(help="prompting, words or best-of-n; repeatable.")] = None,
    low: Annotated[str, typer.Option(help="Instruction before the prompt towards -1, for prompting.")] = "",
    high: Annotated[str, typer.Option(help="Instruction before the prompt towards +1, for prompting.")] = "",
    judge: Annotated[str | None, typer.Option(help="Model whose perplexity is told; --model if not given.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take this many of the prompts, from the first on.")] = None,
    n: Annotated[int, typer.Option(help="Continuations a prompt.")] = 25,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a continuation.")] = 20,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Measure what a steer does to continuations of prompts, beside what it must beat; goes on where it was stopped.

    Example: lmsteer evaluate prompts.jsonl --steer sentiment=-5,-2,2,5 --baseline words --out evaluation
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.prompts import read_prompts
    from lmsteer.evaluation.conditions import conditions_of
    from lmsteer.evaluation.evaluate import evaluate as run
    from lmsteer.evaluation.protocol import Protocol
    from lmsteer.evaluation.report import curves, report
    from lmsteer.evaluation.scorers import scorer as named
    from lmsteer.model.loading import load
    from lmsteer.steer.files import find_steer
    from lmsteer.steer.lookup import find_card
    from lmsteer.steer.notation import parse_strengths
    from lmsteer.util.figures import render_figure
    from lmsteer.util.files import write_file
    from lmsteer.util.progress import bars

    if limit is not None and limit < 1:
        raise LMSteerError(f"--limit must be one or more, not {limit}.")
    if (low or high) and "prompting" not in (baseline or ()):
        raise LMSteerError("--low and --high are instructions for --baseline prompting: give both.")
    cards, settings = parse_strengths(steer, find_card)
    steers = {name: find_steer(name) for name in cards}
    strengths = {name: [setting[name] for setting in settings] for name in steers}
    texts = read_prompts(prompts)[:limit]
    judging = named(scorer)
    lm = load(model)
    prefixes = [low, high] if low and high else []
    arms = conditions_of(lm, steers, strengths, baseline or (), prefixes)
    outcomes = run(
        lm,
        texts,
        arms,
        judging,
        out,
        judge=load(judge) if judge else None,
        protocol=Protocol(n, max_new_tokens, top_p, seed),
        progress=bars(),
    )
    about = {
        "model": lm.name,
        "steer": ", ".join(f"{name} ({found.card.label or 'no label'})" for name, found in steers.items()),
        "scorer": judging.name,
        "how good the scorer is": "; ".join(map(str, judging.about)) or "not measured here",
        "judge": judge or lm.name,
        "prompts": f"{len(texts)} of {prompts}",
        "sampling": f"{n} continuations of {max_new_tokens} tokens, top-p {top_p:g}, seed {seed}",
        "machine": platform.machine(),
    }
    write_file(out / "report.html", report(outcomes, about))
    write_file(out / "curves.svg", render_figure(curves(outcomes, judging.name)))
    stderr.print(f"Report, figures and continuations written to {out}.", markup=False)
    if as_json:
        printing.as_json({"about": about, "arms": [each.to_json() for each in outcomes]})
    else:
        printing.outcomes(stdout, outcomes, about)
