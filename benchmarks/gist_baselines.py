"""Beside gists, what is trained for one prompt alone: prompt tuning, prefix tuning and cartridges, as PEFT has them.

    python -m benchmarks.gist_baselines measure DATA    on the tasks with most data
    python -m benchmarks.gist_baselines show            print the table

A gist takes any prompt in one pass. These need examples of the one prompt, and are trained on them, as many tokens each
on the unchanged model; then they stand where the prompt would stand. Held-out rows of the same tasks are continued
under all of them. Needs the adapters of ``benchmarks.gists fit``. Results go to ``results/gist_baselines.json``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import typer
from peft import PeftModel

from benchmarks.gists import WAYS, WORK, Data, measured
from benchmarks.results import load_results, save_result
from benchmarks.tables import TABLES
from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.soft_prompts import PrefixTuning, PromptTuning
from lmsteer.data.instructions import Instruction
from lmsteer.data.table_rows import read_rows
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import continue_from
from lmsteer.gist.adapter import load_adapter
from lmsteer.gist.evaluate import text_similarity
from lmsteer.gist.examples import Example, encode_examples, input_text
from lmsteer.model.batching import pad
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.util.provenance import provenance_of

RESULTS = Path(__file__).parent / "results" / "gist_baselines.json"
TASKS, TOKENS, STEPS, BATCH = 8, 5, 100, 8
# Each at the rate that its documentation or paper begins with.
RATES = {"prompt tuning": 3e-2, "prefix tuning": 1e-2, "cartridge": 2e-2}
BESIDE = ("whole prompt", "no prompt", "gist, 1 token", "gist, 5 tokens")
app = typer.Typer(add_completion=False)


@app.command("measure")
def measure(data: Data) -> None:
    """Held-out rows of some tasks, each way."""
    lm = load()
    train, seen = (_by_task(data / f"instructions_{split}.jsonl.gz") for split in ("train", "val_seen"))
    tasks = [name for name, _ in Counter({name: len(rows) for name, rows in train.items()}).most_common()]
    tasks = [name for name in tasks if name.startswith("ii_") and len(seen.get(name, ())) > 2][:TASKS]
    held_out = [each for name in tasks for each in seen[name]]
    for name in BESIDE:
        way = WAYS[name]
        if name not in load_results(RESULTS) and way.adapter and (WORK / way.adapter).exists():
            quality = measured(lm, load_adapter(WORK / way.adapter), held_out, way.condition)
            save_result(RESULTS, name, {"tasks": tasks, **quality.to_json()})
    for name in RATES:
        for task in tasks:
            if (key := f"{name}, {task}") not in load_results(RESULTS):
                save_result(RESULTS, key, _measured(lm, name, train[task], seen[task]))


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["gist-baselines"]())


def _by_task(file: Path) -> dict[str, list[Instruction]]:
    found: dict[str, list[Instruction]] = {}
    for _, row in read_rows(file, "train"):
        found.setdefault(row["task"], []).append(Instruction(row["instruction"], row["input"], row["output"]))
    return found


def _measured(lm: LM, name: str, train: Sequence[Instruction], held_out: Sequence[Instruction]) -> dict[str, float]:
    """One method on one task: trained on all of its examples, whatever the wording of their prompt."""
    (usual, _), *_ = Counter(each.instruction for each in train).most_common()
    started = time.perf_counter()
    model = _begun(lm, name, f"Instruction: {usual}\n")
    _train(lm, model, encode_examples(lm, train, TOKENS), RATES[name])
    seconds = time.perf_counter() - started
    examples, baseline = encode_examples(lm, held_out, TOKENS + 64), _soft_prompt(lm, name, model)
    with torch.inference_mode():
        loss = sum(float(_loss(lm, model, [each])) * each.target_tokens for each in examples)
    pairs = [
        (each.instruction.output, text) for each, text in zip(examples, _written(lm, baseline, examples), strict=True)
    ]
    rouge_l, exact = text_similarity(pairs)
    return {
        "examples": len(pairs),
        "rouge_l": rouge_l,
        "exact": exact,
        "loss": loss,
        "targets": sum(each.target_tokens for each in examples),
        "trained_on": len(train),
        "seconds": seconds,
        "cache_bytes": baseline.bytes // 2,
    }


def _begun(lm: LM, name: str, prompt: str) -> PeftModel:
    """The method before it is trained; where it can, it begins at the prompt."""
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": TOKENS}
    if name == "prefix tuning":
        model = peft.get_peft_model(lm.model, peft.PrefixTuningConfig(**common))
        drawn: Any = model.prompt_encoder["default"].embedding
        with torch.no_grad():
            drawn.weight.zero_()  # what PEFT draws is far from any key or value
        return model
    if name == "cartridge":
        model = peft.get_peft_model(lm.model, peft.CartridgeConfig(**common))
        peft.initialize_kv_prefix_from_text(model, lm.tokenizer, text=prompt, use_chat_template=False)
        return model
    model = peft.get_peft_model(lm.model, peft.PromptTuningConfig(**common))
    ids = (lm.encode([prompt])[0] * TOKENS)[:TOKENS]
    with torch.no_grad():
        embedding: Any = model.prompt_encoder["default"].embedding
        embedding.weight.copy_(lm.model.get_input_embeddings()(torch.tensor(ids, device=lm.device)))
    return model


def _train(lm: LM, model: PeftModel, examples: Sequence[Example], rate: float) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.0)
    for batch in _batches(examples):
        _loss(lm, model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()


def _batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    random = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        yield [examples[i] for i in torch.randint(len(examples), (BATCH,), generator=random).tolist()]


def _loss(lm: LM, model: PeftModel, batch: Sequence[Example]) -> torch.Tensor:
    """Mean loss of the tokens of the outputs."""
    ids, mask = pad([each.suffix for each in batch], lm.pad_id, lm.device)
    known = [[-100] * (len(each.suffix) - each.target_tokens) + each.suffix[-each.target_tokens :] for each in batch]
    labels, _ = pad(known, -100, lm.device)
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def _soft_prompt(lm: LM, name: str, model: PeftModel) -> PromptTuning | PrefixTuning:
    """What PEFT has trained, as a soft prompt of ours, the same at both ends; a cartridge is a prefix."""
    prompt = model.get_prompt_embedding_to_save("default")
    kind = PromptTuning if name == "prompt tuning" else PrefixTuning
    card = BaselineCard(method=name, **provenance_of(lm))
    return kind(card, {"minus": prompt, "plus": prompt})


def _written(lm: LM, baseline: PromptTuning | PrefixTuning, examples: Sequence[Example]) -> list[str]:
    """What it makes of the inputs, greedily; PEFT's own way loses positions."""
    greedy = GenerationConfig(max_new_tokens=64, sampling=SamplingConfig(temperature=0))
    inputs = [input_text(each.instruction.input) for each in examples]
    starts = baseline.prefill(lm, inputs, 1.0, greedy.max_new_tokens)
    return [row.text for row in continue_from(lm, inputs, starts, {}, [{}], greedy)]


if __name__ == "__main__":
    app()
