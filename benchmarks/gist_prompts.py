"""Three prompts of real length, compressed and used: what is written under their gist, under them, and under none.

    python -m benchmarks.gist_prompts

Needs the adapters of ``benchmarks.gists fit``. Results go to ``results/gist_prompts.json``.
"""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.gists import WAYS, WORK
from benchmarks.results import save_result
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.gist.adapter import load_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.examples import input_text, prompt_ids
from lmsteer.gist.generation import generate_from_gists
from lmsteer.model.loading import load

RESULTS = Path(__file__).parent / "results" / "gist_prompts.json"
SHOWN = ("whole prompt", "gist, 1 token", "gist, 5 tokens", "gist, 10 tokens", "no prompt")
PROMPTS = {
    "translation": (
        "You are the translator of a small publishing house that makes picture dictionaries for children in Spanish "
        "schools. Each page shows one thing, and below it stands its name. You are given the English name of one thing "
        "at a time, and you answer with its Spanish name and nothing else: no article, no explanation, no second "
        "choice, no sentence around it, and no English. Write all letters small. If a word has several meanings, take "
        "the one that a child of six would think of first, since that is what the picture will show. If there is a "
        "plain word and a learned one, take the plain word. Translate the word to Spanish.",
        ["house", "water", "dog", "school", "green"],
    ),
    "opposites": (
        "You help to write a workbook for people who learn English in the evening, after work. One of its exercises "
        "trains opposites: the learner sees a word, thinks of the word that means the contrary, and turns the page to "
        "see whether it is the one that the book has. You write the side that is turned to. So you are given a word, "
        "and you answer with one single word that means its opposite. Do not write a sentence, do not explain what the "
        "word means, do not repeat the word that you were given, and do not put 'not' before it, since that is no "
        "exercise. Use a word that is common enough to be known after one year of lessons. Write the opposite of the "
        "given word.",
        ["cold", "early", "rich", "inside", "happy"],
    ),
    "feelings": (
        "You read what guests have left in the book at the reception of a hotel by the sea, so that the manager need "
        "not read all of it. She has asked for one thing only: whether a guest was content or not. For each entry you "
        "answer with one word. The word is positive if the guest liked the stay, would come again, praises the rooms, "
        "the kitchen, the staff or the view. The word is negative if the guest complains of noise, dirt, cold food, "
        "rude words, high prices or long waiting, even where something else is praised in passing. There is no third "
        "word: where you are in doubt, ask yourself whether the manager would be glad to read the entry. Determine "
        "whether the sentiment of the sentence is positive or negative.",
        [
            "The view from our balcony was wonderful.",
            "We waited an hour for cold soup.",
            "The staff could not have been kinder.",
            "Our room was dirty and loud.",
        ],
    ),
}


def main() -> None:
    """Compress them and use them."""
    lm, console = load(), Console(width=140)
    greedy = GenerationConfig(max_new_tokens=12, sampling=SamplingConfig(temperature=0))
    for title, (prompt, inputs) in PROMPTS.items():
        table, found = Table("", "kept", "compressed", *inputs, title=title), {}
        for name in SHOWN:
            way = WAYS[name]
            if way.adapter is None or not (WORK / way.adapter).exists():
                continue
            adapter = load_adapter(WORK / way.adapter)
            (gist,) = compress(lm, adapter, prompt_ids(lm, [prompt]), condition=way.condition)
            rows = generate_from_gists(lm, adapter, [gist], [input_text(each) for each in inputs], config=greedy)
            texts = [row.text.strip() for row in rows]
            times = gist.provenance.prompt_tokens / gist.tokens
            found[name] = {"bytes": gist.bytes, "tokens": gist.provenance.prompt_tokens, "times": times, "texts": texts}
            table.add_row(name, f"{gist.bytes / 1024:,.0f} KiB", f"{times:.0f} x", *texts)
        save_result(RESULTS, title, found)
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
