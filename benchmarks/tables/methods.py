"""Tables of the methods: what each learns and allows, and what each does and costs."""

from __future__ import annotations

from benchmarks.tables.markdown import results, table

LEARNT = {
    "steer": "a matrix W on the output embedding, in closed form",
    "deep-steer": "a matrix on the stream after the middle layer, in closed form",
    "lora-steer": "a LoRA of the linear layers of the middle third that write to the stream, in closed form",
    "lora": "a LoRA of every linear layer but the head",
    "lora-value": "a LoRA of the last layer's value matrix",
    "lora-head": "a LoRA of the head",
    "full": "a change of every weight",
    "embeddings": "a change of the word embeddings",
    "activations": "a direction after one layer: the difference of means",
    "prompt-tuning": "embeddings of a prompt for each end (PEFT)",
    "prefix-tuning": "keys and values of a prompt for each end (PEFT)",
    "few-shot": "nothing: texts of one end stand before the prompt",
    "prompting": "nothing: an instruction stands before the prompt",
    "gist": "nothing: the same instructions, compressed to a gist token by an adapter",
}
CONTINUOUS, ENDS, THREE = "any", "-1 to 1", "-1, 0, 1"


def capabilities() -> str:
    """What each method learns, and which strengths and uses it allows."""
    traits = {line["method"]: line["capabilities"] for line in results("comparison")["sentiment"]["summary"]}
    # What they can do is a steer's; they are not transferred. Their figures are not among the results.
    inside = {**traits["steer"], "transferable": False}
    traits = {"deep-steer": inside, "lora-steer": inside, **traits}
    rows = []
    for method, learnt in LEARNT.items():
        own = traits[method]
        interpolated = not own["continuous"] and not own["zero_is_base"]
        strengths = CONTINUOUS if own["continuous"] else ENDS if interpolated else THREE
        keys = ("zero_is_base", "composable", "by_row", "transferable")
        rows.append([f"`{method}`", learnt, strengths, *("yes" if own[key] else "no" for key in keys)])
    header = ["method", "what is learnt", "strengths", "0 is the model", "several at once", "a strength per row"]
    return table([*header, "moves to another model"], rows)


def sentiment() -> str:
    """The methods on sentiment."""
    return _measured("sentiment")


def toxicity() -> str:
    """The methods on clean language."""
    return _measured("toxicity")


def _measured(dimension: str) -> str:
    rows = [
        [
            f"`{one['method']}`",
            f"{one['max_increase']:+.2f}",
            f"{-one['max_decrease']:+z.2f}",
            f"{one['bytes'] / 1000:,.0f} kB",
            f"{one['fit_seconds']:.0f} s",
            f"{one['peak_memory_bytes'] / 1e9:.1f} GB",
            f"{one['time_per_token']:.2f} x",
            f"{one['time_to_first_token']:.2f} x",
            f"{one['context']}",
        ]
        for one in results("comparison")[dimension]["summary"]
    ]
    header = ["method", "up", "down", "on disk", "fit", "memory", "time per token", "first token", "context tokens"]
    return table(header, rows)
