"""Windows in the decoder: the text is that of the strengths token by token, whatever the neighbours do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.data.chats import Chat
from lmsteer.errors import DataError, SteerError
from lmsteer.generation.config import NO_LIMITS, GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.generate import generate
from lmsteer.generation.row import Row, row_noise
from lmsteer.generation.schedule import acting_strengths
from lmsteer.generation.stream import stream
from lmsteer.model.kv_cache import Start
from lmsteer.steer.strength import Hold, Windowed
from lmsteer.steer.window import Window
from tiny import THINKING, chat_lm, random_steer

TOKENS = 8
WINDOWS = ["3..", "..3", "2..5", "rise..6", "fall1..7"]


def row_of(lm, text, strengths, steers, place=0, limits=NO_LIMITS):
    noise = row_noise(0, place, 0, TOKENS)
    return Row(Start(lm.encode([text])[0]), noise, steers, strengths, SamplingConfig(1.0), limits)


def written(lm, *rows, steps=TOKENS):
    decoder = Decoder(lm)
    decoder.admit(rows)
    for _ in range(steps):
        decoder.step()
    return decoder.look().tokens


def test_a_message_names_the_strengths_that_act_on_the_next_token():
    lm = chat_lm(THINKING, ["<think>"])
    strengths = {
        "plain": 2.0,
        "none": 0.0,
        "still": Windowed(0, Window(0)),
        "late": Windowed(3, Window(4)),
        "more": Windowed(4, Window(0, 4, "rise")),
        "thought": Windowed(5, Window(part="thinking")),
        "said": Hold(0.8, 2, Window(part="answer")),
    }
    row = replace(row_of(lm, "a", strengths, {}), is_thinking=True, written=lm.encode(["b"])[0])
    assert acting_strengths(lm, row, []) == "plain=2, more=1 (of 4@rise..4), thought=5 (of 5@thinking)"
    (after,) = lm.encode(["</think>abcd"])
    assert acting_strengths(lm, row, after) == "plain=2, late=3 (of 3@4..), more=4 (of 4@rise..4), said held at 0.8"
    assert acting_strengths(lm, replace(row, strengths={"none": 0.0, "late": strengths["late"]}), []) == ""


def by_hand(lm, row, strengths_at):
    """The tokens of a row whose strengths are set anew for each token."""
    tokens: list[int] = []
    for number in range(TOKENS):
        start, noise = Start([*row.start.ids, *tokens]), row.noise[number : number + 1]
        own = replace(row, start=start, noise=noise, strengths=strengths_at(number), written=tokens)
        tokens = [*tokens, *written(lm, own, steps=1)[0]]
    return tokens


def at(strength, window, token):
    """A strength at a token, as it is on the device."""
    return float(torch.tensor(strength) * torch.tensor(window.share(token)))


@pytest.mark.parametrize(
    ("family", "limits"), [("llama", NO_LIMITS), ("gemma2", Limits(plausible=0.001, fresh=2)), ("mamba", NO_LIMITS)]
)
def test_a_window_is_written_as_its_strengths_token_by_token(make_lm, family, limits):
    lm = make_lm(family)
    steers = {"a": random_steer(lm), "b": random_steer(lm, "offset", name="b")}
    whole = [row_of(lm, "It was", {"a": 6.0, "b": 2.0}, steers, place, limits) for place in range(len(WINDOWS))]
    pairs = [*zip(whole, WINDOWS, strict=True)]
    pairs, unlike = pairs if family == "llama" else pairs[2:4], 0
    for row, notation in pairs:
        window = Window.parse(notation)
        (found,) = written(lm, replace(row, strengths={"a": Windowed(6.0, window), "b": 2.0}))
        assert found == by_hand(lm, row, lambda token, w=window: {"a": at(6.0, w, token), "b": 2.0})
        unlike += found != written(lm, row)[0]
    assert unlike >= len(pairs) / 2


def test_rows_of_unlike_windows_limits_and_prompts_share_a_batch_and_come_and_go(llama):
    steers = {"a": random_steer(llama), "b": random_steer(llama, "add", name="b")}
    strengths = [
        {"a": 4.0, "b": 0.0},
        {"a": Windowed(5.0, Window(2)), "b": Windowed(-3.0, Window(0, 4))},
        {"a": Windowed(5.0, Window(0, 6, "rise")), "b": 1.0},
        {"a": Windowed(-5.0, Window(1, 5, "fall")), "b": 0.0},
    ]
    limits = [Limits(), Limits(), Limits(kl=0.5), Limits(0.01, 2)]
    prompts = ["It was", "the longest day", "a", "day"]
    rows = [
        row_of(llama, *each[:2], steers, k, each[2])
        for k, each in enumerate(zip(prompts, strengths, limits, strict=True))
    ]
    alone = [written(llama, row)[0] for row in rows]
    assert written(llama, *rows) == alone
    decoder = Decoder(llama)
    decoder.admit(rows[:2])
    for _ in range(3):
        decoder.step()
    first = decoder.look().tokens
    decoder.remove(0)
    # The row that left continues later, after what it has written; the others join.
    ids = [*rows[0].start.ids, *first[0]]
    again = replace(rows[1], start=Start([*rows[1].start.ids, *first[1]]), noise=rows[1].noise[3:], written=first[1])
    decoder.admit([replace(rows[0], start=Start(ids), noise=rows[0].noise[3:], written=first[0]), *rows[2:], again])
    for _ in range(5):
        decoder.step()
    second = decoder.look().tokens
    assert first[1] + second[0] == alone[1] == first[1] + second[4]
    assert first[0] + second[1] == alone[0]
    assert second[2:4] == [tokens[:5] for tokens in alone[2:]]


def test_windows_leave_the_logits_of_other_rows_as_they_are_to_the_bit(llama):
    steers, logits = {"a": random_steer(llama)}, []
    for strength in (4.0, Windowed(4.0, Window(0, 9, "rise"))):
        rows = [row_of(llama, "abc", {"a": each}, steers, k) for k, each in enumerate((4.0, strength, -0.3))]
        decoder = Decoder(llama)
        decoder.admit(rows)
        decoder.step()
        logits.append(decoder.step().logits)
    assert torch.equal(logits[0][::2], logits[1][::2])
    assert not torch.equal(logits[0][1], logits[1][1])


def test_a_look_says_on_which_tokens_a_steer_acted(llama):
    steers = {"a": random_steer(llama)}
    rows = [
        row_of(llama, "abc", {"a": each}, steers, k) for k, each in enumerate((2.0, Windowed(2.0, Window(2, 4)), 0.0))
    ]
    decoder = Decoder(llama)
    decoder.admit(rows)
    for _ in range(5):
        decoder.step()
    assert decoder.look().acting == [[True] * 5, [False, False, True, True, False], [False] * 5]


def thinking_lm(opens):
    """A model that thinks; one of its marks is a token, the other one is cut into several."""
    return chat_lm(THINKING if opens else THINKING.replace("<think>\n{% endif", "{% endif"), ["<think>"])


@pytest.mark.parametrize("part", ["answer", "thinking"])
@pytest.mark.parametrize("opens", [False, True], ids=["the model opens it", "the template opens it"])
def test_parts_of_an_answer_are_steered_alone(part, opens):
    lm = thinking_lm(opens)
    text = lm.encode(["cd</think>ef" if opens else "ab<think>cd</think>ef"], special=False)[0]
    inside = [opens or place > 2 for place in range(len(text) - 2)] + [False, False]
    row = row_of(lm, "xyz", {"a": Windowed(2.0, Window(part=part))}, {"a": random_steer(lm)})
    row = replace(row, noise=torch.zeros(len(text)), is_thinking=opens)
    decoder = Decoder(lm)
    decoder.admit([row])
    for token in text:  # as if they were drawn
        done = decoder.pass_over(range(1))
        decoder.keep([(range(1), done._replace(tokens=torch.tensor([token])))])
    expected = [each == (part == "thinking") for each in inside]
    assert decoder.look().acting == [expected]
    decoder = Decoder(lm)
    decoder.admit([replace(row, start=Start([*row.start.ids, *text[:k]]), written=text[:k]) for k in range(len(text))])
    decoder.step()
    assert decoder.look().acting == [[each] for each in expected]


def test_parts_are_refused_where_there_are_none(llama):
    config, chat = GenerationConfig(max_new_tokens=3), Chat.of_user("hello")
    for lm, prompt, part, message in (
        (chat_lm(), chat, "answer", "has no thinking part"),
        (llama, "hello", "answer", "has no thinking part"),
        (thinking_lm(True), "hello", "answer", "a plain prompt"),
        (chat_lm(THINKING.replace("<think>", "<think></think>")), chat, "thinking", "no token for @thinking to act on"),
    ):
        strengths = {"a": Windowed(2.0, Window(part=part))}
        steers = {"a": random_steer(lm)}
        with pytest.raises(DataError, match=message):
            list(generate(lm, [prompt], steers, [strengths], config))
        with pytest.raises(DataError, match=message):
            next(stream(lm, prompt, steers, strengths, config))


def test_generate_and_stream_know_where_an_answer_begins():
    lm, chat = thinking_lm(True), Chat.of_user("hello")
    steers, config = {"a": random_steer(lm)}, GenerationConfig(max_new_tokens=TOKENS)
    settings = [
        {"a": 6.0},
        {"a": Windowed(6.0, Window(part="thinking"))},
        {"a": Windowed(6.0, Window(part="answer"))},
        {"a": 0.0},
    ]
    texts = [each.text for each in generate(lm, [chat], steers, settings, config)]
    assert texts[0] == texts[1] != texts[2] == texts[3]  # the model never ends its thoughts
    assert ["".join(stream(lm, chat, steers, setting, config)) for setting in settings] == texts


@pytest.mark.parametrize("window", ["8..", "rise7..9"])
def test_a_window_that_begins_after_the_last_token_is_refused(llama, window):
    steers, strengths = {"s": random_steer(llama)}, {"s": Windowed(1.0, Window.parse(window))}
    config = GenerationConfig(max_new_tokens=TOKENS)
    for write in (
        lambda: list(generate(llama, ["a"], steers, [strengths], config)),
        lambda: list(stream(llama, "a", steers, strengths, config)),
    ):
        with pytest.raises(SteerError, match="never acts"):
            write()
    longer = replace(config, max_new_tokens=TOKENS + 1)
    assert len(list(generate(llama, ["a"], steers, [strengths], longer))) == 1
