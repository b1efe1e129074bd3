"""Files of every kind, damaged at any place: they are read, or refused in words, and nothing else happens."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.methods import load_baseline, save_baseline
from lmsteer.baselines.prompting import Prompting
from lmsteer.cli.output.known_steers import print_known_steers
from lmsteer.cli.verify import _source
from lmsteer.errors import LMSteerError
from lmsteer.evaluation.compare.results import MethodResult
from lmsteer.evaluation.intervals import Estimate
from lmsteer.evaluation.results import ConditionResult
from lmsteer.fitting.statistics import Statistics, load_statistics
from lmsteer.gist.adapter import GistAdapter, load_adapter, save_adapter
from lmsteer.gist.gist import Gist, GistProvenance
from lmsteer.gist.lookup import GistCard
from lmsteer.model.lora import LoRAFactors
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.lookup import read_saved
from lmsteer.steer.notation import parse_strengths
from lmsteer.steer.platt import PlattScaling
from lmsteer.util.provenance import provenance_of
from lmsteer.util.run import Run
from tiny import random_steer, tiny_lm

# Values that stand in the place of others: of every type, and the awkward ones of each.
ODD = [None, True, 0, -1, 10**400, 0.5, float("nan"), float("inf"), 1e308, "", "x", [], [1], ["x"], {}, {"a": {}}]


@dataclass(frozen=True)
class Kind:
    """A kind of file or folder: how one is written, and all that reads it."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]


def save_a_steer(folder: Path) -> None:
    steer = random_steer(tiny_lm("llama"))
    card = replace(
        steer.card,
        safe_range=(-2.0, 3.0),
        head_sample=tuple(float(k) for k in range(16)),
        calibration={
            "curve": [{"strength": 1.0, "perplexity": 2.0, "rep_3": 0.0, "score": None}],
            "target_strength": 2.0,
        },
        data={"source": {"path": "x.csv", "label_map": {"a": 1.0}}, "texts": 3},
        fit={"max_tokens": 8},
        held_out={"test": {"sign_accuracy": 0.5, "texts": 4}, "slope": 1.0, "offset": 0.0},
    )
    save_steer(replace(steer, card=card), folder)


def read_a_steer(folder: Path) -> None:
    saved = read_saved(folder)
    print_known_steers(Console(file=io.StringIO()), [saved])
    PlattScaling.from_held_out(saved.card.held_out)
    parse_strengths(["s=50%,auto"], lambda name: saved.card)
    with contextlib.suppress(LMSteerError):
        saved.card.check_head(dict.fromkeys(range(16), 1.0))
    chosen: dict[str, Any] = dict.fromkeys(("path", "text_column", "label_column", "label_map"))
    _source(saved.card, chosen)
    load_steer(folder)


def save_an_adapter(folder: Path) -> None:
    card = GistCard(**provenance_of(tiny_lm("llama")), tokens=2, fit={"condition": "gist"})
    save_adapter(
        GistAdapter(torch.ones(2, 4), {"layer": LoRAFactors(torch.ones(1, 4), torch.ones(4, 1))}, card), folder
    )


def save_a_baseline(folder: Path) -> None:
    card = BaselineCard(
        **provenance_of(tiny_lm("llama")), method="prompting", fit={"minus": "a", "plus": "b", "tokens": 1}
    )
    save_baseline(Prompting(card, {}), folder)


def save_a_gist(folder: Path) -> None:
    provenance = GistProvenance(**provenance_of(tiny_lm("llama")), adapter_fingerprint="x", prompt_tokens=3, end=2)
    Gist((torch.ones(1, 2, 4),), (torch.ones(1, 2, 4),), provenance).save(folder / "a.gist")


def read_a_gist(folder: Path) -> None:
    Gist.load(folder / "a.gist").to_json()


def save_a_result(folder: Path) -> None:
    e = Estimate(0.1, 0.0, float("nan"))
    condition = ConditionResult("a", "steer", 1.0, 2, 4, e, e, e, e, e, e, (0.1, 0.2, 0.3), 0.5)
    MethodResult("steer", {"by_row": True}, 1, 4, 0, 0.5, None, 1.0, 1.0, [condition], []).save(folder)


def read_a_run(folder: Path) -> None:
    Run(folder, {"a": 1}).check_folder()


KINDS = {
    "steer": Kind(save_a_steer, read_a_steer),
    "gist adapter": Kind(save_an_adapter, load_adapter),
    "baseline": Kind(save_a_baseline, load_baseline),
    "gist": Kind(save_a_gist, read_a_gist),
    "statistics": Kind(lambda folder: Statistics.empty(tiny_lm("llama")).save(folder, batches=0), load_statistics),
    "result": Kind(save_a_result, MethodResult.load),
    "run": Kind(lambda folder: Run(folder, {"a": {"b": [1]}}).open(), read_a_run),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory) -> tuple[Kind, Path, dict[str, bytes]]:
    """A kind, a folder of it, and the contents of its files."""
    folder = tmp_path_factory.mktemp("damaged") / "x"
    KINDS[request.param].write(folder)
    return KINDS[request.param], folder, {file.name: file.read_bytes() for file in folder.iterdir()}


def places(value: Any) -> list[tuple[Any, ...]]:
    """The paths of all values within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *place) for key, item in inner for place in places(item))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(copy[place[0]], place[1:], new)
    return copy


def damaged(draw: Any, content: bytes, *, is_json: bool) -> bytes:
    """The content of a file with one JSON value replaced, one byte changed, or its end cut off."""
    way = draw(
        st.sampled_from(["value", "value", "byte", "cut", "other"] if is_json else ["byte", "byte", "cut", "other"])
    )
    if way == "value":
        value = json.loads(content)
        return json.dumps(replaced(value, draw(st.sampled_from(places(value))), draw(st.sampled_from(ODD)))).encode()
    place = draw(st.integers(0, min(len(content), 600) - 1))
    if way == "byte":
        return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
    if way == "cut":
        return content[:place]
    return draw(st.sampled_from([b"", b"null", b"[" * 30_000, b"\xff\xfe", b'{"format": 1}', b"\x00" * 64]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_a_damaged_file_is_refused_in_words(kind, data):
    one, folder, contents = kind
    name = data.draw(st.sampled_from(sorted(contents)))
    (folder / name).write_bytes(damaged(data.draw, contents[name], is_json=name.endswith(".json")))
    try:
        with contextlib.suppress(LMSteerError):
            one.read(folder)
    finally:
        (folder / name).write_bytes(contents[name])


def test_what_is_not_damaged_is_read(kind):
    one, folder, _ = kind
    if one is not KINDS["run"]:
        one.read(folder)
