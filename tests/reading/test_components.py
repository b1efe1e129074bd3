"""Components add up to what the steer does, and their words are those that it moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.errors import DataError, OutputError, SteerError, WrongBaseError
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.reading import plot as word_map
from lmsteer.reading.components import components
from lmsteer.reading.plot import save_plot
from lmsteer.steer.mix import Mix
from tiny import random_steer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path))


def look(lm, steer, **options):
    return components(lm, Mix({"s": steer}, {"s": 1.0}), **options)


def test_a_steer_of_rank_one_is_one_component(llama):
    steer, own = random_steer(llama, rank=1), fisher_factors(llama)
    a, b = steer.factors["A"].double(), steer.factors["B"].double()
    (component,) = look(llama, steer)
    assert component.share == pytest.approx(1)
    # h W E = (h·a) (b·e), and h·a has this root mean square; float32 products of 32 terms
    reading = (a.T @ own.c @ a).sqrt() * (own.mean @ a).sign()
    torch.testing.assert_close(
        component.logits, (llama.head.weight.double() @ b @ reading).flatten().float(), rtol=1e-4, atol=1e-5
    )


def test_components_share_all_that_the_steer_does(llama):
    found = look(llama, random_steer(llama, rank=7), components=99)
    shares = [component.share for component in found]
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == 7  # what is beyond is rounding
    assert shares == sorted(shares, reverse=True)
    assert shares[6] > 1e-6


def test_shares_are_of_what_the_parts_do(llama):
    """Two parts that are orthogonal in C and in F: their shares go with tr(Wᵀ C W F)."""
    own = fisher_factors(llama)
    a, b = (vectors[:, [31, 20]] for _, vectors in (own.c_eigen, own.f_eigen))
    steer = replace(random_steer(llama), factors={"A": a.float(), "B": b.float()})
    sizes = [float((own.c @ w * (w @ own.f)).sum()) for w in (a[:, [k]] @ b[:, [k]].T for k in (0, 1))]
    shares = [component.share for component in look(llama, steer)]
    assert shares == pytest.approx(sorted((size / sum(sizes) for size in sizes), reverse=True), rel=1e-3)


def test_words_are_those_that_move_most(llama):
    component = look(llama, random_steer(llama), words=4)[0]
    for end, sign in ((component.upper, 1), (component.lower, -1)):
        assert 0 < len(end) <= 4
        weights = [sign * word.weight for word in end]
        assert min(weights) > 0
        assert weights == sorted(weights, reverse=True)
        for word in end:
            assert word.text.isalpha()
            assert float(component.logits[word.token]) == word.weight
            assert llama.tokenizer.decode([word.token]) == word.text
    letters = [t for t in range(len(component.logits)) if llama.tokenizer.decode([t]).isalpha()]
    assert component.upper[0].weight == float(component.logits[letters].max())


def test_several_steers_are_looked_at_as_their_sum(llama):
    one, two = random_steer(llama), random_steer(llama, seed=4)
    together = components(llama, Mix({"one": one, "two": two}, {"one": 2.0, "two": -1.0}))
    w = 2 * one.matrix() - two.matrix()
    summed = look(llama, replace(one, factors={"A": w, "B": torch.eye(32)}))
    for component, other in zip(together, summed, strict=True):
        assert component.share == pytest.approx(other.share, rel=1e-4)
        torch.testing.assert_close(component.logits, other.logits, rtol=1e-3, atol=1e-4)  # float32 sums


def test_steers_that_move_all_rows_alike_are_one_component(llama):
    shift, offset = random_steer(llama, "add"), random_steer(llama, "offset")
    (component,) = look(llama, shift)
    torch.testing.assert_close(component.logits, llama.head.weight @ shift.factors["a"])  # the same product
    (component,) = look(llama, offset)
    assert torch.equal(component.logits, offset.factors["o"])


def test_what_has_no_words_is_refused(llama, make_lm):
    steers = {"one": random_steer(llama), "two": random_steer(llama, "add")}
    with pytest.raises(SteerError, match="one steer, or"):
        components(llama, Mix(steers, {"one": 1.0, "two": 1.0}))
    with pytest.raises(SteerError, match="row by row"):
        components(llama, Mix({"one": steers["one"]}, {"one": [1.0, 2.0]}))
    with pytest.raises(SteerError, match="has no effect"):
        components(llama, Mix({"one": steers["one"]}, {"one": 0.0}))
    with pytest.raises(WrongBaseError):
        look(make_lm("qwen2"), steers["one"])
    for options in ({"components": 0}, {"words": -1}):
        with pytest.raises(DataError, match="both must be 1 or more"):
            look(llama, steers["one"], **options)


def test_words_stand_where_both_components_move_them(llama, tmp_path, monkeypatch):
    first, second = look(llama, random_steer(llama), components=2)
    seen = []
    monkeypatch.setattr(word_map, "_write", lambda figure, axes, places: seen.extend(places))
    save_plot([first, second], tmp_path / "map.svg")
    places = {text: (x, y) for x, y, text in seen}
    for word in (*first.upper, *first.lower, *second.upper, *second.lower):
        assert places[word.text] == (float(first.logits[word.token]), float(second.logits[word.token]))
    bare = [replace(component, upper=(), lower=()) for component in (first, second)]
    with pytest.raises(DataError, match="no whole words"):
        save_plot(bare, tmp_path / "map.svg")


def test_a_map_is_drawn_the_same_twice(llama, tmp_path):
    found = look(llama, random_steer(llama))
    save_plot(found, tmp_path / "one.svg")
    save_plot(found, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    save_plot(found, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="name it"):
        save_plot(found, tmp_path / "map.docx")
    with pytest.raises(DataError, match="two components"):
        save_plot(found[:1], tmp_path / "map.svg")
    with pytest.raises(OutputError, match="cannot write"):
        save_plot(found, tmp_path / "one.svg" / "map.svg")
