"""Programs that people point at the server: LiteLLM, LangChain, and lm-eval, each as it is installed.

They are in one file, so that their packages are imported once: that takes seconds.
"""

import asyncio
import json
from functools import partial
from inspect import isawaitable

import httpx
import pytest
import yaml

from lmsteer import load_steer
from lmsteer.reading.likelihood import log_likelihoods, steered_log_likelihoods

# What LiteLLM's types and streams warn of, which it silences itself when it is imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class '.*' is using the `ReadOnly` qualifier"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*' attribute on the instance is deprecated"),
]

ASKED = "<user>Hi\n<assistant>"
SAID = [{"role": "user", "content": "Hi"}]
STRENGTH = 1.5


@pytest.fixture
def litellm(monkeypatch):
    """LiteLLM with the prices that it was shipped with, and without a .env file; what it leaves open is closed."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("LITELLM_MODE", "PRODUCTION")
    import litellm

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # which it makes itself for a stream, and leaves
    yield litellm
    clients = litellm.in_memory_llm_clients_cache
    for client in clients.cache_dict.values():
        if isawaitable(closing := client.close()):
            loop.run_until_complete(closing)
    clients.flush_cache()
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def options(address):
    return {"api_base": f"{address}/v1", "api_key": "none", "temperature": 0, "max_tokens": 6}


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_litellm_chats_with_steers(litellm, options, greedy, lm, provider):
    in_body = litellm.completion(
        model=f"{provider}/{lm.name}", messages=SAID, extra_body={"steers": {"style": STRENGTH}}, **options
    )
    in_name = litellm.completion(model=f"{provider}/style@{STRENGTH}", messages=SAID, drop_params=True, **options)
    assert in_body.choices[0].message.content == in_name.choices[0].message.content == greedy(ASKED)
    assert in_body.steers == {"style": STRENGTH}
    assert in_body.usage.total_tokens == len(lm.encode([ASKED])[0]) + in_body.usage.completion_tokens
    history = [*SAID, in_body.choices[0].message, {"role": "user", "content": "And?"}]
    after = litellm.completion(model=f"{provider}/style@{STRENGTH}", messages=history, **options)
    assert after.choices[0].message.content == greedy(f"<user>Hi\n<assistant>{greedy(ASKED)}\n<user>And?\n<assistant>")


def test_litellm_streams_chats_and_continues_texts(litellm, options, greedy, lm):
    chunks = litellm.completion(
        model=f"openai/style@{STRENGTH}", messages=SAID, stream=True, stream_options={"include_usage": True}, **options
    )
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == greedy(ASKED)
    whole = litellm.text_completion(
        model=f"text-completion-openai/style@{STRENGTH}", prompt=["Hi", "It was"], echo=True, logprobs=2, **options
    )
    assert [choice.text for choice in whole.choices] == [each + greedy(each) for each in ("Hi", "It was")]
    assert whole.choices[1].logprobs.text_offset[:7] == [0, 1, 2, 3, 4, 5, 6]
    chunks = litellm.text_completion(
        model=f"text-completion-openai/style@{STRENGTH}", prompt="Hi", stream=True, **options
    )
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == greedy("Hi")


def test_litellm_is_told_what_is_wrong(litellm, options, lm, monkeypatch):
    monkeypatch.setattr(litellm, "suppress_debug_info", True)
    with pytest.raises(litellm.BadRequestError, match="unknown steer 'nobody'"):
        litellm.completion(model=f"openai/{lm.name}", messages=SAID, extra_body={"steers": "nobody=1"}, **options)
    with pytest.raises(litellm.NotFoundError, match="unknown model"):
        litellm.completion(model="openai/gpt-9", messages=SAID, **options)


@pytest.fixture
def langchain(address):
    """Makes LangChain's models, which share a connection."""
    import langchain_openai

    with httpx.Client() as client:
        fixed = {"base_url": f"{address}/v1", "api_key": "none", "http_client": client}

        def make(kind, **settings):
            settings = {"model": f"style@{STRENGTH}", "temperature": 0, "max_tokens": 6, **settings}
            return getattr(langchain_openai, kind)(**fixed, **settings)

        yield make


@pytest.fixture
def chat(langchain):
    """Makes LangChain's chat models."""
    return partial(langchain, "ChatOpenAI")


def test_langchain_chats_with_steers(chat, greedy, lm):
    answer = chat(model=lm.name, extra_body={"steers": {"style": STRENGTH}}).invoke("Hi")
    assert answer.content == chat().invoke("Hi").content == greedy(ASKED)
    used = answer.usage_metadata
    assert used["input_tokens"] == len(lm.encode([ASKED])[0])
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]
    both = chat().batch(["Hi", "It was"])
    assert [each.content for each in both] == [greedy(ASKED), greedy("<user>It was\n<assistant>")]
    scored = chat().bind(logprobs=True, top_logprobs=2).invoke("Hi").response_metadata["logprobs"]["content"]
    assert "".join(each["token"] for each in scored).removesuffix("</s>") == greedy(ASKED)


def test_langchain_streams_and_sends_histories_back(chat, greedy):
    from langchain_core.messages import HumanMessage, SystemMessage

    said = [SystemMessage("Be brief."), HumanMessage("Hi", name="anna")]
    text = "<system>Be brief.\n" + ASKED
    (first, *rest) = chat(stream_usage=True).stream(said)
    streamed = sum(rest, first)
    assert streamed.content == greedy(text)
    assert streamed.usage_metadata["output_tokens"] > 0
    for answer in (streamed, chat().invoke(said)):
        after = chat().invoke([*said, answer, HumanMessage([{"type": "text", "text": "And?"}])])
        assert after.content == greedy(f"{text}{greedy(text)}\n<user>And?\n<assistant>")


def test_langchain_continues_texts(langchain, greedy, lm):
    model = langchain("OpenAI")
    assert model.invoke("Hi") == "".join(model.stream("Hi")) == greedy("Hi")
    steered = langchain("OpenAI", model=lm.name, extra_body={"steers": {"style": STRENGTH}})
    result = steered.generate(["Hi", "It was"])
    assert [each[0].text for each in result.generations] == [greedy("Hi"), greedy("It was")]
    assert result.llm_output["token_usage"]["prompt_tokens"] == len("HiIt was")


QUESTIONS = [
    {"question": "It was", "choices": ["good", "a bad one", "so so"], "answer": 0, "text": "The naïve café, fine."},
    {"question": "They say", "choices": ["yes", "no"], "answer": 1, "text": "Another text, and a longer one."},
]
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n", "t"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    },
}


@pytest.fixture(scope="module")
def harness(address, lm, tmp_path_factory):
    """Runs tasks of lm-eval on the questions; gives the responses of each task.

    What lm-eval says of the machine is left out: it lists all packages, which takes seconds.
    """
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("harness")
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS), "utf-8")
    data = {"data_files": {"test": str(folder / "questions.jsonl")}, "cache_dir": str(folder / "cache")}
    for name, task in TASKS.items():
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole), "utf-8")
    lm.tokenizer.save_pretrained(folder / "tokenizer")
    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def run(*tasks, model="local-completions", path="/v1/completions", **settings):
        found = evaluator.simple_evaluate(
            model=model,
            model_args={
                "model": f"style@{STRENGTH}",
                "base_url": address + path,
                "tokenizer": str(folder / "tokenizer"),
                "tokenizer_backend": "huggingface",
                "max_length": 128,
                "max_retries": 1,
                **settings,
            },
            tasks=[*tasks],
            task_manager=manager,
            bootstrap_iters=0,
            apply_chat_template=model == "local-chat-completions",
        )
        samples = found["samples"]
        return {task: [sample["filtered_resps"] for sample in samples[task]] for task in tasks}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "add_env_info", lambda results: None)
        yield run


@pytest.fixture
def likelihoods(lm, steers):
    """What this package gives for the choices and the texts, in lm-eval's form."""
    steer = load_steer(steers / "style")

    def lines(texts, start=()):
        ids = [[*start, *each] for each in lm.encode(texts)]
        return [line[0, 0] for line in steered_log_likelihoods(lm, ids, [steer], [STRENGTH])]

    choices = [
        [
            float(line[len(row["question"]) - 1 :].sum())
            for line in lines([f"{row['question']} {choice}" for choice in row["choices"]])
        ]
        for row in QUESTIONS
    ]
    texts = [float(line.sum()) for line in lines([row["text"] for row in QUESTIONS], [lm.tokenizer.bos_token_id])]
    return {"choices": choices, "texts": texts}


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch_size": 4, "num_concurrent": 2}, {"tokenized_requests": False}],
    ids=["ids", "batches at once", "texts"],
)
def test_lm_eval_scores_and_generates_as_this_package_does(harness, likelihoods, greedy, settings):
    found = harness(*TASKS, **settings)
    for row, expected in zip(found["choices"], likelihoods["choices"], strict=True):
        assert [log_p for log_p, _ in row] == pytest.approx(expected, abs=1e-3)
    assert [log_p for (log_p,) in found["texts"]] == pytest.approx(likelihoods["texts"], abs=1e-3)
    answers = [greedy(row["question"]).split("\n")[0].split("t")[0] for row in QUESTIONS]
    assert [text for (text,) in found["answers"]] == answers


def test_lm_eval_chats(harness, greedy):
    found = harness("answers", model="local-chat-completions", path="/v1/chat/completions")
    expected = [greedy(f"<user>{row['question']}\n<assistant>") for row in QUESTIONS]
    assert [text for (text,) in found["answers"]] == [text.split("\n")[0].split("t")[0] for text in expected]


def test_lm_eval_finds_a_continuation_by_its_place_in_the_text(address, lm):
    """Its client for llama.cpp's server: it goes by ``text_offset``, and by the names of the likeliest tokens."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.gguf import GGUFLM

    (ids,) = lm.encode(["The naïve café"])
    requests = [Instance("loglikelihood", {}, ("The naïve café", each), 0) for each in ("s", " was 😀")]
    found = GGUFLM(address).loglikelihood(requests, disable_tqdm=True)
    for request, (log_p, _) in zip(requests, found, strict=True):
        (whole,) = lm.encode(["".join(request.args)])
        (line,) = log_likelihoods(lm, [whole])
        assert log_p == pytest.approx(float(line[len(ids) - 1 :].sum()), abs=1e-3)
