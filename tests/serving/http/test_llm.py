"""The program ``llm``, pointed at the server as its manual says: by a file in its folder."""

import pytest
import yaml

STRENGTH = 1.5
ASKED = "<user>Hi\n<assistant>"
# The class of llm's for each kind of model that its file may name.
KINDS = {"own-chat": {}, "own-responses": {"responses": True}, "own-completion": {"completion": True}}


@pytest.fixture(scope="module")
def llm(address, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    models = [
        {"model_id": kind, "model_name": f"style@{STRENGTH}", "api_base": f"{address}/v1", **fields}
        for kind, fields in KINDS.items()
    ]
    (folder / "extra-openai-models.yaml").write_text(yaml.safe_dump(models), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_USER_PATH", str(folder))
        import llm
        from llm.default_plugins import openai_models

        made, get = [], openai_models.Chat.get_client
        for kind in (openai_models.Chat, openai_models.Responses):
            patch.setattr(kind, "get_client", lambda *args: made.append(get(*args)) or made[-1])
        yield llm
        for client in made:  # which llm leaves open
            client.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_answered_under_the_steer(llm, greedy, lm, kind, stream):
    answer = llm.get_model(kind).prompt("Hi", stream=stream, temperature=0, max_tokens=6)
    assert answer.text() == greedy("Hi" if kind == "own-completion" else ASKED)
    if not (kind == "own-responses" and stream):  # it counts the tokens of streams that are not cut, alone
        assert answer.usage().output in (6, None)


@pytest.mark.parametrize("kind", ["own-chat", "own-responses"])
def test_conversations_go_on(llm, greedy, kind):
    talk = llm.get_model(kind).conversation()
    first = talk.prompt("Hi", system="Be brief.", temperature=0, max_tokens=6).text()
    assert first == greedy(f"<system>Be brief.\n{ASKED}")
    second = talk.prompt("And?", temperature=0, max_tokens=6).text()
    assert second in (
        greedy(f"<system>Be brief.\n{ASKED}{first}\n<user>And?\n<assistant>"),
        greedy(f"{ASKED}{first}\n<user>And?\n<assistant>"),
    )
