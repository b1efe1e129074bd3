"""An error names the field, the value that was sent, and the type that was meant."""

import json

import pytest

LONG = [f"stop {k}" for k in range(17)]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"stop": 17}, "stop: must be a string or an array of strings, not 17."),
        ({"stop": True}, "stop: must be a string or an array of strings, not true."),
        ({"stop": {}}, "stop: must be a string or an array of strings, not {}."),
        ({"stop": ["a", None]}, "stop.1: must be a string, not null (in an array of strings)."),
        ({"stop": [["a"]]}, 'stop.0: must be a string, not ["a"] (in an array of strings).'),
        ({"stop": LONG}, "stop: must have at most 16 entries, not 17."),
        ({"stop": ""}, "stop: must have at least 1 character."),
        ({"stop": ["a", ""]}, "stop.1: must have at least 1 character (in an array of strings)."),
        ({"prompt": []}, "prompt: must have at least 1 entry, not 0."),
        ({"prompt": 5}, "prompt: must be a string, an array of strings, or token ids, not 5."),
        ({"prompt": {"text": "a"}}, 'prompt: must be a string, an array of strings, or token ids, not {"text": "a"}.'),
        ({"prompt": ["a", 5]}, "prompt.1: must be a string, not 5 (in an array of strings)."),
        ({"prompt": ["a", [5]]}, "prompt.1: must be a string, not [5] (in an array of strings)."),
        ({"prompt": [5, "a"]}, 'prompt.1: must be a whole number, not "a" (in an array of token ids).'),
        ({"prompt": [5, 5.5]}, "prompt.1: must be a whole number, not 5.5 (in an array of token ids)."),
        ({"prompt": [5, -1]}, "prompt.1: must be 0 or more, not -1 (in an array of token ids)."),
        ({"prompt": [[5], "a"]}, 'prompt.1: must be an array, not "a" (in an array of arrays of token ids).'),
        ({"prompt": [[5], []]}, "prompt.1: must have at least 1 entry, not 0 (in an array of arrays of token ids)."),
        ({"prompt": [None]}, "prompt.0: must be a whole number, not null (in an array of token ids)."),
        ({"prompt": None}, "prompt: is missing."),
        ({"temperature": "0.7"}, 'temperature: must be a number, not "0.7".'),
        ({"temperature": True}, "temperature: must be a number, not true."),
        ({"temperature": float("nan")}, "temperature: must be a finite number, not NaN."),
        ({"max_tokens": "20"}, 'max_tokens: must be a whole number, not "20".'),
        ({"max_tokens": 20.5}, "max_tokens: must be a whole number, not 20.5."),
        ({"max_tokens": False}, "max_tokens: must be a whole number, not false."),
        ({"max_tokens": -2}, "max_tokens: must be -1 or more, not -2."),
        ({"top_k": -2}, "top_k: must be -1 or more, not -2."),
        ({"top_p": 0}, "top_p: must be more than 0, not 0."),
        ({"plausible": 1}, "plausible: must be less than 1, not 1."),
        ({"fresh": -1}, "fresh: must be 0 or more, not -1."),
        ({"kl": 0}, "kl: must be more than 0, not 0."),
        ({"stream": "true"}, 'stream: must be true or false, not "true".'),
        ({"stream_options": []}, "stream_options: must be an object, not []."),
        ({"stream_options": {"use": 1}}, "stream_options.use: unknown field."),
        ({"steers": ["style"]}, "steers: must be an object like {'sentiment': 2.5}, or a string, not [\"style\"]."),
        ({"steers": {"style": None}}, "steers.style: must be a number, or a string like '50%', not null."),
        ({"steers": {"style": [1]}}, "steers.style: must be a number, or a string like '50%', not [1]."),
        ({"model": 5}, "model: must be a string, not 5."),
        ({"stop": {"a" * 99: 1}}, 'stop: must be a string or an array of strings, not {"' + "a" * 58 + " ...."),
    ],
)
def test_error_says_what_was_sent_and_what_was_meant(client, field, message):
    answer = client.post("/v1/completions", content=json.dumps({"prompt": "It was", **field}))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"] == message
    assert error["param"] == message.partition(":")[0]
