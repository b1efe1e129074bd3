"""Analyses add up: tokens to words, words to texts, texts to a place on the dimension."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers import normalizers, processors

from lmsteer.data.chats import Chat, prompt_json
from lmsteer.errors import DataError, WrongBaseError
from lmsteer.model.lm import LM
from lmsteer.reading.analyse import INSIDE_STRENGTHS, STRENGTHS, analyse
from lmsteer.reading.html import render_analyses, shaded_words
from lmsteer.reading.prompted import encode_after
from lmsteer.steer.mix import Mix
from tiny import FAMILIES, chat_lm, inner_steer, random_steer, tiny_tokenizer

TEXT = "A well-made <film>, & naïve."


def calibrated(steer, slope=0.5, offset=0.1):
    return replace(steer, card=replace(steer.card, held_out={"slope": slope, "offset": offset}))


@pytest.mark.parametrize("family", FAMILIES)
def test_evidence_adds_up_to_the_position(make_lm, family):
    lm = make_lm(family)
    steers = {"one": calibrated(random_steer(lm)), "two": random_steer(lm, "add", seed=2)}
    (found,) = analyse(lm, [TEXT], steers, strengths=[-2.0, 0.0, 2.0])
    assert found.text == TEXT
    assert list(found.dimensions) == ["one", "two"]
    for dimension in found.dimensions.values():
        position = dimension.position
        assert position.strengths == (-2.0, -1.0, 0.0, 1.0, 2.0)
        assert len(dimension.evidence) == len(found.tokens)
        assert sum(dimension.evidence) == pytest.approx(position.score)
        assert sum(dimension.word_evidence) + dimension.end == pytest.approx(position.score)
        assert dimension.end == dimension.evidence[-1] != 0
        # float32 log-likelihoods of some thirty tokens, summed in float64
        assert position.log_p[3] - position.log_p[1] == pytest.approx(position.score, abs=1e-4)
        assert sum(position.shares) == pytest.approx(1)
        for span in dimension.spans:
            assert span.score == pytest.approx(sum(dimension.word_evidence[span.start : span.end]))
    assert found.dimensions["one"].position.probability is not None
    assert found.dimensions["two"].position.probability is None


def test_a_steer_inside_the_model_reads_at_fewer_strengths_each_in_a_pass_of_its_own(llama, monkeypatch):
    steers = {"inside": inner_steer(llama, ["layers.0"]).scaled(0.02), "head": random_steer(llama)}
    passes, real = [], llama.before_head
    monkeypatch.setattr(LM, "before_head", lambda lm, *args, **inputs: passes.append(1) or real(*args, **inputs))
    (near,) = analyse(llama, [TEXT], steers)
    assert len(passes) == 1 + len(INSIDE_STRENGTHS)
    (exact,) = analyse(llama, [TEXT], steers, strengths=STRENGTHS)
    assert len(passes) == 2 + len(INSIDE_STRENGTHS) + len(STRENGTHS)
    assert [*near.dimensions] == [*exact.dimensions] == ["inside", "head"]
    assert near.dimensions["head"] == exact.dimensions["head"]
    one, other = near.dimensions["inside"], exact.dimensions["inside"]
    assert one.evidence == other.evidence
    assert max(map(abs, one.evidence)) > 1e-3
    assert (
        dict(zip(one.position.strengths, one.position.log_p, strict=True)).items()
        <= dict(zip(other.position.strengths, other.position.log_p, strict=True)).items()
    )


def test_pieces_are_the_text_again(llama):
    text = f"\n {TEXT}  \n"
    (found,) = analyse(llama, [text], {"s": random_steer(llama)})
    shown = list(shaded_words(found, found.dimensions["s"]))
    rest = text[found.words[-1].end :]
    assert "".join(piece.before + piece.text for piece in shown) + rest == text
    assert all(0 <= piece.shade <= 1 for piece in shown)
    for span in found.dimensions["s"].spans:
        inside = shown[span.start : span.end]
        assert {piece.span for piece in inside} == {"above" if span.score > 0 else "below"}
        assert [piece.continues for piece in inside] == [False, *[True] * (len(inside) - 1)]
        assert found.span_text(span) in " ".join(text.split())


def test_white_space_is_in_no_span_of_its_own(llama):
    text = "a" + " " * 30 + "b"
    (found,) = analyse(llama, [text], {"s": random_steer(llama)}, spans=9)
    for span in found.dimensions["s"].spans:
        assert found.span_text(span).strip() in ("a", "b", "a b")
        assert found.words[span.start].start < found.words[span.start].end
        assert found.words[span.end - 1].start < found.words[span.end - 1].end


def test_a_text_of_which_the_tokenizer_keeps_nothing_is_empty(llama):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    for lm in (replace(llama, tokenizer=tokenizer), replace(adding_tokenizer(llama), name="adding")):
        lm.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
        with pytest.raises(DataError, match="text 1 is empty"):
            analyse(lm, ["\u200b"], {"s": random_steer(lm)})


def test_the_page_shows_texts_as_they_are(llama):
    steers = {"style": calibrated(random_steer(llama))}
    html = render_analyses(analyse(llama, [TEXT, "Another"], steers), steers)
    assert html.count("<article>") == 2
    assert "<film>" not in html
    assert "film" in html
    assert "&lt;" in html
    assert "p(+1) = <b>" in html


def test_long_texts_are_read_in_windows(make_lm):
    gpt2, text = make_lm("gpt2"), "All work and no play. " * 20
    (found,) = analyse(gpt2, [text], {"s": random_steer(gpt2)})
    assert len(found.tokens) > gpt2.max_length
    assert len(found.dimensions["s"].evidence) == len(found.tokens)


def test_what_says_nothing_is_refused(llama, make_lm):
    steers = {"s": random_steer(llama)}
    with pytest.raises(DataError, match="text 2 is empty"):
        analyse(llama, ["a", " \n"], steers)
    with pytest.raises(DataError, match="no steer"):
        analyse(llama, ["a"], {})
    with pytest.raises(DataError, match="no strengths"):
        analyse(llama, ["a"], steers, strengths=[])
    with pytest.raises(DataError, match="not -1"):
        analyse(llama, ["a"], steers, spans=-1)
    with pytest.raises(WrongBaseError):
        analyse(make_lm("qwen2"), ["a"], steers)
    (found,) = analyse(llama, ["a"], steers)
    assert found.tokens == ((0, 1), (1, 1))  # the letter and the end


def adding_tokenizer(lm):
    """The model with a tokenizer that puts a token before each text and one behind it."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return replace(lm, tokenizer=tokenizer)


def test_tokens_that_the_tokenizer_adds_stand_for_no_text(llama):
    lm = adding_tokenizer(llama)
    assert lm.encode(["ab"])[0][0] == 1
    assert lm.encode(["ab"])[0][-1] == 2
    (found,) = analyse(lm, ["ab"], {"s": random_steer(lm)})
    assert found.tokens == ((0, 1), (1, 2), (2, 2))
    assert found.words[-1].end == 2


def test_special_tokens_in_a_text_are_text(llama):
    steers = {"s": random_steer(llama)}
    for text in ("</s>", "ab</s>", "<s>ab</s>", "<s></s>"):
        (found,) = analyse(llama, [text], steers)
        assert found.tokens[-1] == (len(text), len(text))
        assert found.tokens[-2][1] == len(text)
        dimension = found.dimensions["s"]
        assert sum(dimension.word_evidence) + dimension.end == pytest.approx(dimension.position.score)


def test_the_first_word_is_read_after_the_token_that_the_model_starts_from(llama):
    steer = random_steer(llama)
    (found,) = analyse(llama, ["ab"], {"s": steer})
    ids = torch.tensor([[llama.start_id, *llama.encode(["ab"])[0], llama.end_id]])
    by_strength = []
    for strength in (1.0, -1.0):
        with llama.steered(Mix({"s": steer}, {"s": strength})), torch.no_grad():
            log_p = llama.model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        by_strength.append(log_p.gather(1, ids[0, 1:, None]).squeeze(1))
    expected = (by_strength[0] - by_strength[1]).tolist()
    # float32: h W E is summed in another order than (h + h W) E.
    assert found.dimensions["s"].evidence == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("prompt", ["It is ", Chat.of_user("Well?"), Chat.of_user("a </s> <|end|>")])
@pytest.mark.parametrize("window", [None, 20])
def test_only_the_text_after_a_prompt_is_read(prompt, window):
    lm = chat_lm()
    steers = {"s": random_steer(lm)}
    text = "good and\nfine" if isinstance(prompt, str) else "good <|end|> and\nfine"
    (found,) = analyse(lm, [text], steers, prompts=[prompt], window=window)
    (encoded,) = encode_after(lm, [prompt], [text])
    assert [text[start:end] for start, end in found.tokens] == [*text, ""]
    assert found.prompt == prompt
    assert found.to_json()["prompt"] == prompt_json(prompt)
    if window is None:
        ids = torch.tensor([[*encoded]])
        lines = []
        for strength in (1.0, -1.0):
            with lm.steered(Mix(steers, {"s": strength})):
                log_p = lm.model(ids).logits[0, :-1].log_softmax(-1)
            lines.append(log_p.gather(1, ids[0, 1:, None])[encoded.begin - 1 :, 0])
        assert found.dimensions["s"].evidence == pytest.approx((lines[0] - lines[1]).tolist(), abs=1e-3)
    (alone,) = analyse(lm, [text], steers, prompts=[""])
    assert alone == analyse(lm, [text], steers)[0]
    with pytest.raises(DataError, match="there are 2 prompts for 1 texts"):
        analyse(lm, [text], steers, prompts=[prompt, prompt])
