"""Chats on the command line: prompts are answered in the model's template, steers are fitted on pairs and verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.data.chats import Chat
from lmsteer.evaluation.compare.run import run_in_process
from lmsteer.model.chat import encode_chat
from lmsteer.steer.files import load_steer
from tiny import chat_lm, styled

SHORT = ("--max-new-tokens", "6", "--num-samples", "2")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "chat"
    lm = chat_lm()
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def pairs(count: int) -> None:
    texts = styled(2 * count)
    rows = [
        {"prompt": [{"role": "user", "content": "Well?"}], **dict(zip(("chosen", "rejected"), both, strict=True))}
        for both in zip(*([t.text for t in texts if t.label == label] for label in (1, -1)), strict=True)
    ]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_prompts_are_answered_as_the_template_writes_them(run, lm):
    chat = Chat.of_user("How?", "Be nice.")
    text = lm.codec.decode(encode_chat(lm.codec, chat), skip_special=False)
    _, expected, _ = run("generate", text, "--steer", "one=2", *SHORT, "--json")
    status, out, _ = run("generate", "How?", "--chat", "--system", "Be nice.", "--steer", "one=2", *SHORT, "--json")
    assert status == 0
    assert json.loads(out) == {**json.loads(expected), "prompt": {"messages": chat.to_json()}}
    Path("chats.jsonl").write_text(json.dumps({"messages": chat.to_json()}))
    for arguments in (["chats.jsonl"], ["chats.jsonl", "--chat"], ["chats.jsonl", "--chat", "--system", "No."]):
        assert run("generate", "--prompts", *arguments, "--steer", "one=2", *SHORT, "--json")[1] == out
    assert run("generate", "--prompts", "chats.jsonl", "--steer", "one=2", *SHORT, "--out", "o.jsonl")[0] == 0
    assert json.loads(Path("o.jsonl").read_text())["generations"] == json.loads(out)["generations"]
    status, shown, _ = run("generate", "How?", "--chat", "--stream", "--max-new-tokens", "6")
    assert status == 0
    assert shown.startswith("How?\n\n")
    assert "  How?\n" in run("generate", "How?", "--chat", "--max-new-tokens", "6")[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [{"role": "bot", "content": "a"}]},
            "chats.jsonl, line 1: message 1 of the messages has the role",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "ends before its ans",
        ),
        ({"messages": [], "prompt": "a"}, "there are messages and another prompt"),
        ({"prompt": [{"role": "user"}]}, "message 1 of the prompt has 'role'; a message is"),
    ],
)
def test_what_is_no_chat_is_refused_with_its_place(run, row, message):
    Path("chats.jsonl").write_text(json.dumps(row))
    status, out, err = run("generate", "--prompts", "chats.jsonl")
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "--system", "b"], "--system is the system message of chats: add --chat"),
        (["analyse", "a", "--steer", "one", "--chat"], "--chat and --system say how --prompt is written"),
        (["mix", "one=1", "two=1", "--chat"], "--chat is for --evaluate"),
        (
            ["transfer", "one", "--to", "x", "--out", "y", "--texts", "chats.jsonl"],
            "line 1: there are the messages of a",
        ),
        (["analyse", "--texts", "chats.jsonl", "--steer", "one"], "the last message is of the role 'user'"),
        (["analyse", "--texts", "answers.jsonl", "--prompt", "a", "--steer", "one"], "have prompts of their own"),
        (["fit", "answers.jsonl", "--name", "x"], "line 1: no column 'label'"),
    ],
)
def test_options_without_effect_and_rows_of_another_kind_are_refused(run, lm, arguments, message):
    Path("chats.jsonl").write_text(json.dumps({"messages": Chat.of_user("a").to_json()}))
    Path("answers.jsonl").write_text(json.dumps({"prompt": "a", "completion": " b"}))
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err


def test_a_model_without_a_template_cannot_answer(run, tmp_path, monkeypatch, llama):
    llama.model.save_pretrained("plain")
    llama.tokenizer.save_pretrained("plain")
    status, _, err = run("generate", "a", "--chat", "--model", "plain", model=False)
    assert status == 2
    assert "plain has no chat template" in err


def test_a_steer_of_pairs_is_verified_analysed_evaluated_and_calibrated(run):
    pairs(120)
    assert run("fit", "pairs.jsonl", "--name", "letters")[0] == 0
    status, out, _ = run("verify", "letters", "--json")
    assert status == 0
    held_out = load_steer("steers/letters").card.held_out
    assert json.loads(out)["held_out"] == pytest.approx(held_out, rel=1e-3, abs=1e-3)
    arguments = ["analyse", "abcd", "--prompt", "Well?", "--chat", "--steer", "letters"]
    status, out, _ = run(*arguments, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["prompt"] == [{"role": "user", "content": "Well?"}]
    assert [word["text"] for word in found["dimensions"]["letters"]["words"]] == ["abcd"]
    messages = [*found["prompt"], {"role": "assistant", "content": "abcd"}]
    Path("answers.jsonl").write_text(json.dumps({"messages": messages}))
    assert run("analyse", "--texts", "answers.jsonl", "--steer", "letters", "--json")[1] == out
    Path("prompts.txt").write_text("How?\nWhy?\n")
    scored = ["--scorer", "sentiment-vader", *SHORT]
    status, out, _ = run(
        "evaluate",
        "prompts.txt",
        "--chat",
        "--steer",
        "letters=2",
        *scored,
        "--out",
        "e",
        "--json",
        "--baseline",
        "prompting",
        "--negative-prompt",
        "Bad.",
        "--positive-prompt",
        "Good.",
    )
    assert status == 0
    assert len(json.loads(out)["conditions"]) == 5
    assert "user: How?" in "".join(file.read_text() for file in Path("e/rows").iterdir())
    assert "holds an evaluation" in run("evaluate", "prompts.txt", "--steer", "letters=2", *scored, "--out", "e")[2]
    status, out, _ = run("calibrate", "letters", "--chat", "--prompts", "prompts.txt", *SHORT, "--json")
    assert status == 0
    assert json.loads(out)["trials"]


def test_methods_are_compared_on_pairs_and_chats(run, monkeypatch):
    monkeypatch.setattr("lmsteer.evaluation.compare.run.run_in_subprocess", run_in_process)
    pairs(60)
    methods = "activations,few-shot,prompting"
    line = ["compare", "pairs.jsonl", "--quick", "--chat", "--out", "c", "--scorer", "sentiment-vader"]
    more = ["--methods", methods, "--negative-prompt", "Bad.", "--positive-prompt", "Good.", "--max-new-tokens", "6"]
    status, out, _ = run(*line, *more, "--json")
    assert status == 0
    result = json.loads(out)
    assert [each["method"] for each in result["summary"]] == methods.split(",")
    assert result["failures"] == {}
