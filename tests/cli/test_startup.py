"""Help, lists and user mistakes come at once: they import neither torch nor other large libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmsteer.cli import app
from lmsteer.cli.gist.app import gist_app
from lmsteer.gist.config import GistConfig
from lmsteer.steer.files import save_steer
from tiny import random_steer, tiny_lm

LARGE = ("torch", "transformers", "matplotlib", "numpy", "scipy", "datasets", "accelerate")
# Runs the lines of a file in one interpreter, and prints what each returned and which large libraries it imported.
PROGRAM = f"""
import contextlib, io, json, sys
from lmsteer.cli import main
for line in json.load(open(sys.argv[1])):
    sys.argv, out = ["lmsteer", *line], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
    print(json.dumps([status, out.getvalue(), sorted(set(sys.modules) & set({LARGE!r}))]))
"""


def run_all(lines: list[list[str]]) -> list[tuple[int, str, list[str]]]:
    """Status, output and large libraries after each command, all in one fresh interpreter."""
    Path("lines.json").write_text(json.dumps(lines))
    environment = {**os.environ, "COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    command = [sys.executable, "-c", PROGRAM, "lines.json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def names(typer_app) -> list[str]:
    return [command.name or command.callback.__name__ for command in typer_app.registered_commands]


def test_help_and_lists_import_nothing_large():
    commands = [
        ["--help"],
        ["gist", "--help"],
        ["list"],
        ["list", "--json"],
        ["list", "--wishes"],
        ["cache"],
        ["cache", "--json"],
    ]
    commands += [[name, "--help"] for name in names(app)] + [["gist", name, "--help"] for name in names(gist_app)]
    for line, (status, out, large) in zip(commands, run_all(commands), strict=True):
        assert (status, large) == (0, []), (line, out)


def test_every_command_has_an_example():
    groups = [([], app), (["gist"], gist_app)]
    commands = [[*group, name] for group, typer_app in groups for name in names(typer_app)]
    for line, (_, out, _) in zip(commands, run_all([[*line, "--help"] for line in commands]), strict=True):
        assert f"Example: lmsteer {' '.join(line)}" in out


MISTAKES = {
    "unknown steer": (["generate", "x", "--steer", "nobody=1"], "unknown steer 'nobody'"),
    "bad notation": (["generate", "x", "--steer", "own=much"], "cannot read 'own=much'"),
    "no safe range": (["generate", "x", "--steer", "own=50%"], "no safe range"),
    "bad top-p": (["generate", "x", "--top-p", "2"], "top_p must be above 0"),
    "missing prompts": (["generate", "--prompts", "gone.txt"], "gone.txt"),
    "stream of two": (["generate", "x", "y", "--stream"], "prints one continuation"),
    "nothing to resume": (["generate", "x", "--out", "o.jsonl", "--resume"], "nothing to resume"),
    "generate to a folder": (["generate", "x", "--out", "taken"], "is a folder"),
    "generate to no file": (["generate", "x", "--out", ""], "it is a folder"),
    "generate to the root": (["generate", "x", "--out", "/"], "it is a folder"),
    "generate below a file": (["generate", "x", "--out", "odd.jsonl/o.jsonl"], "odd.jsonl is not a folder"),
    "seed without measure": (["generate", "x", "--seed", "9" * 30], "a number of 64 bits"),
    "page in place of a folder": (["analyse", "x", "--steer", "own", "--html", "taken"], "it is a folder"),
    "plot below a file": (["components", "own", "--plot", "odd.jsonl/x.svg"], "odd.jsonl is not a folder"),
    "gist in place of a folder": (["gist", "compress", "a", "--out", "taken"], "it is a folder"),
    "gist fit of any rank": (["gist", "fit", "tasks.jsonl", "--out", "x", "--rank", "9" * 20], "rank must be at most"),
    "statistics over something": (
        ["fit", "letters.jsonl", "--name", "x", "--save-statistics", "taken"],
        "holds no set of statistics",
    ),
    "evaluate below a file": (
        ["evaluate", "prompts.txt", "--steer", "own=1", "--out", "odd.jsonl/e"],
        "odd.jsonl is not a folder",
    ),
    "no texts": (["analyse", "--steer", "own"], "nothing to read"),
    "analyse without a steer": (["analyse", "x"], "no steer to analyse"),
    "analyse by an unknown steer": (["analyse", "x", "--steer", "nobody"], "unknown steer"),
    "calibrate an unknown steer": (["calibrate", "nobody"], "unknown steer"),
    "target without scorer": (["calibrate", "own", "--target", "0.5"], "give both"),
    "ratio of 1": (["calibrate", "own", "--max-perplexity-ratio", "1"], "must be more than 1"),
    "unknown scorer": (["calibrate", "own", "--scorer", "magic", "--target", "0.5"], "unknown scorer"),
    "calibrate over something": (["calibrate", "own", "--out", "taken"], "holds no steer"),
    "compare without data": (["compare", "gone.jsonl", "--out", "c"], "no such file"),
    "compare bad labels": (["compare", "odd.jsonl", "--out", "c"], "label"),
    "unknown method": (["compare", "letters.jsonl", "--out", "c", "--methods", "magic"], "unknown methods magic"),
    "no instructions": (["compare", "letters.jsonl", "--out", "c", "--methods", "gist"], "--negative-prompt"),
    "bad sizes": (["compare", "letters.jsonl", "--out", "c", "--train-sizes", "many"], "numbers of texts"),
    "several strengths": (["components", "own=1,2"], "one strength of each"),
    "plot of no format": (["components", "own", "--plot", "map.docx"], "name it .svg"),
    "compare with nobody": (["components", "own", "--compare", "nobody"], "unknown steer"),
    "evaluate without prompts": (["evaluate", "gone.txt", "--steer", "own=1", "--out", "e"], "gone.txt"),
    "evaluate with half a pair": (
        ["evaluate", "letters.jsonl", "--steer", "own=1", "--out", "e", "--negative-prompt", "Bad."],
        "two instructions",
    ),
    "unknown format": (["export", "own=1", "--to", "onnx", "--out", "m"], "'merged', 'lora', 'gguf'"),
    "export of two strengths": (["export", "own=1,2", "--to", "lora", "--out", "m"], "one strength of each"),
    "fit on nothing": (["fit", "--name", "x"], "nothing to fit"),
    "fit without a name": (["fit", "letters.jsonl"], "--name"),
    "fit over something": (["fit", "letters.jsonl", "--name", "x", "--out", "taken"], "holds no steer"),
    "fit on a missing column": (["fit", "letters.jsonl", "--name", "x", "--text-column", "y"], "no column 'y'"),
    "fit on missing statistics": (["fit", "--name", "x", "--statistics", "gone"], "no such folder of statistics: gone"),
    "fit by magic": (["fit", "letters.jsonl", "--name", "x", "--method", "magic"], "'closed-form', 'gradient'"),
    "compress nothing": (["gist", "compress", "--out", "x"], "give a prompt"),
    "no gist": (["gist", "generate", "x", "--gist", "gone.gist"], "no such file"),
    "import nothing": (["import", "gone.pt", "--name", "x"], "no such file or folder"),
    "mix orthogonal to nobody": (["mix", "own=1", "--orthogonal-to", "nobody"], "unknown steer"),
    "mix over something": (["mix", "own=1", "--out", "taken"], "holds no steer"),
    "evaluate one steer": (["mix", "own=1", "--evaluate"], "two steers or more"),
    "serve no folder": (["serve", "--steers", "gone"], "which is neither a folder nor an id of the Hub"),
    "serve with an empty key": (["serve", "--api-key", ""], "an API key is empty"),
    "transfer nobody": (["transfer", "nobody", "--to", "smollm2", "--out", "x"], "unknown steer"),
    "transfer over something": (["transfer", "own", "--to", "smollm2", "--out", "taken"], "holds no steer"),
    "verify nobody": (["verify", "nobody"], "unknown steer"),
    "verify by missing texts": (["verify", "own", "--data", "gone.jsonl"], "no such file"),
    "verify on no server": (["verify", "own", "--server", "http://127.0.0.1:1"], "cannot be reached"),
    "verify on no address": (["verify", "own", "--server", "here"], "is no address of a server"),
    "verify texts on a server": (["verify", "own", "--server", "x", "--data", "letters.jsonl"], "leave out --data"),
    "key of no server": (["verify", "own", "--api-key", "x"], "--api-key for --server alone"),
    "analyse an empty text": (["analyse", "", "--steer", "own"], "text 1 is empty"),
    "evaluate into something": (["evaluate", "prompts.txt", "--steer", "own=1", "--out", "taken"], "no evaluation"),
    "evaluate into another evaluation": (
        ["evaluate", "prompts.txt", "--steer", "own=1", "--out", "run"],
        "an evaluation with another perplexity model, scorer, prompts",
    ),
    "compare into something": (["compare", "letters.jsonl", "--out", "taken"], "no comparison"),
    "compare into another comparison": (["compare", "letters.jsonl", "--out", "run"], "a comparison with another"),
    "merge into something": (["export", "own=1", "--to", "merged", "--out", "taken"], "holds no merged model"),
    "LoRA into something": (["export", "own=1", "--to", "lora", "--out", "taken"], "holds no LoRA"),
    "GGUF file into a folder": (["export", "own=1", "--to", "gguf", "--out", "taken"], "is a folder"),
    "GGUF file over another file": (["export", "own=1", "--to", "gguf", "--out", "odd.jsonl"], "not a GGUF file"),
    "GGUF file of a checkpoint": (
        ["export", "own=1", "--to", "gguf", "--out", "m", "--model", "org/name"],
        "name it with --gguf",
    ),
    "missing GGUF file": (["export", "own=1", "--to", "gguf", "--out", "m", "--gguf", "gone.gguf"], "no such file"),
    "gist fit into something": (["gist", "fit", "tasks.jsonl", "--out", "taken"], "holds no gist adapter"),
    "gist fit that resumes another one": (
        ["gist", "fit", "tasks.jsonl", "--out", "gists", "--steps", "7", "--resume"],
        "a gist fit with another steps",
    ),
    "gist fit on missing data": (["gist", "fit", "gone.jsonl", "--out", "x"], "no such file"),
    "gist fit with missing held-out data": (
        ["gist", "fit", "tasks.jsonl", "--held-out", "gone.jsonl", "--out", "x"],
        "no such file",
    ),
    "gist evaluate on missing data": (["gist", "evaluate", "gone.jsonl"], "no such file"),
    "gist evaluate by an unknown adapter": (
        ["gist", "evaluate", "tasks.jsonl", "--adapter", "nobody"],
        "no gist adapter in nobody",
    ),
    "compress by an unknown adapter": (
        ["gist", "compress", "a", "--out", "x", "--adapter", "nobody"],
        "no gist adapter in nobody",
    ),
    "gist generate by an unknown adapter": (
        ["gist", "generate", "a", "--gist", "odd.jsonl", "--adapter", "nobody"],
        "no gist adapter in nobody",
    ),
    "missing model": (["generate", "x", "--model", "./nowhere"], "no such file or folder: './nowhere'"),
    "missing GGUF model": (["fit", "letters.jsonl", "--name", "x", "--model", "gone.gguf"], "no such file or folder"),
    "folder that is no model": (["gist", "fit", "tasks.jsonl", "--out", "x", "--model", "taken"], "no config.json"),
    "name that no model has": (["serve", "--model", "a b"], "names no model"),
    "missing perplexity model": (
        ["compare", "letters.jsonl", "--out", "c", "--perplexity-model", "./nowhere"],
        "no such file or folder",
    ),
    "missing model of a transfer": (["transfer", "own", "--to", "./nowhere", "--out", "x"], "no such file or folder"),
    "missing model of a second steer": (
        ["components", "own", "--compare", "own", "--compare-model", "./nowhere"],
        "no such file or folder",
    ),
    "unknown kind of cache": (["cache", "--clear", "everything"], "no entries of kind 'everything'"),
    "unknown command": (["steers"], "No such command"),
}


@pytest.fixture
def files(tmp_path):
    save_steer(random_steer(tiny_lm("llama")), "steers/own")
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("years of work")
    Path("odd.jsonl").write_text('{"text": "a", "label": "warm"}\n')
    Path("prompts.txt").write_text("Once upon a time\n")
    Path("tasks.jsonl").write_text('{"instruction": "Say the opposite.", "input": "hot", "output": "cold"}\n')
    for file, record in {
        "run/run.json": {"model": "smollm2"},
        "gists.partial/fit.json": GistConfig().to_json(),
    }.items():
        Path(file).parent.mkdir()
        Path(file).write_text(json.dumps(record))


def test_mistakes_end_in_a_message_and_2_and_import_nothing_large(files):
    results = run_all([arguments for arguments, _ in MISTAKES.values()])
    for (arguments, message), (status, out, large) in zip(MISTAKES.values(), results, strict=True):
        assert status == 2, (arguments, out)
        assert message in " ".join(out.replace("│", " ").split()), arguments
        assert "Traceback" not in out
        assert large == [], arguments
    assert not Path("x").exists()
