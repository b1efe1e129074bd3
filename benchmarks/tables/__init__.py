"""The tables of README and docs, each made from the committed results of a benchmark.

A function here reads JSON and returns Markdown; none imports torch or loads a model. ``benchmarks.render`` writes the
tables into the pages, and the ``show`` commands of the benchmarks print them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.tables import (
    claims,
    contrast,
    family,
    few,
    gists,
    gpu,
    inside,
    limits,
    methods,
    one_pass,
    reading,
    serving,
    shapes,
    speed,
    stream,
    thread,
    wishes,
    writing,
)

TABLES: Mapping[str, Callable[[], str]] = {
    "claims-a": claims.lora_on_the_head,
    "claims-b": claims.lora_on_the_last_value_matrix,
    "claims-c": claims.rank,
    "claims-d": claims.prompt_tokens,
    "claims-e": claims.number_of_texts,
    "comparison-sentiment": methods.sentiment,
    "comparison-toxicity": methods.toxicity,
    "contrast": contrast.contrast,
    "family": family.family,
    "few-texts": few.few_texts,
    "evidence": reading.evidence,
    "exports": serving.exports,
    "gist-baselines": gists.baselines,
    "gist-prompts": gists.prompts,
    "gist-quality-human": gists.human,
    "gist-quality-seen": gists.seen,
    "gist-quality-unseen": gists.unseen,
    "gist-speed": gists.speed,
    "gist-speed-tokens": gists.speed_by_tokens,
    "gpu": gpu.gpu,
    "growth": writing.growth,
    "held-out": reading.held_out,
    "inside": inside.inside,
    "limits": limits.limits,
    "load": serving.load,
    "methods": methods.capabilities,
    "mixing": writing.mixing,
    "one-pass": one_pass.one_pass,
    "pareto-sentiment": writing.sentiment,
    "pareto-toxicity": writing.toxicity,
    "scorers": reading.scorers,
    "shipped-steers": reading.shipped_steers,
    "shapes": shapes.shapes,
    "speed": speed.lines,
    "speed-fits": speed.fits,
    "strength-curve": writing.strength_curve,
    "strength-curve-inside": writing.strength_curve_inside,
    "test-texts": reading.test_texts,
    "stream": stream.stream,
    "thread": thread.thread,
    "thread-strengths": thread.strengths,
    "thread-together": thread.together,
    "transfer": writing.transfer,
    "vllm-speed": serving.vllm,
    "wishes-chat": wishes.chat,
    "wishes-plain": wishes.plain,
}
