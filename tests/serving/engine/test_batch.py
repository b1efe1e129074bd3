import pytest
import torch

from lmsteer.model.lm import LM
from lmsteer.serving.engine.backends import backend_for
from lmsteer.serving.engine.batch import SPARE, Batch
from tiny import FAMILIES, tiny_lm

# float32 sums in another order, over two layers.
TOLERANCE = 1e-5


def test_room_is_for_the_rows_that_there_are():
    lm = tiny_lm("llama")
    rows = Batch(lm)
    list(rows.join([[5, 6, 7]] * 32))
    many = rows.bytes
    for _ in range(31):
        rows.leave(0)
    list(rows.join([[5] * 300]))
    # Two rows, of columns in use and room on both sides, in place of thirty-two.
    a_column = many // (32 * (2 + 2 * SPARE + 1))
    assert rows.bytes <= 2 * (300 + 2 * SPARE) * a_column * 1.1
    rows.leave(0)
    rows.leave(0)
    assert (rows.bytes, len(rows)) == (0, 0)
    list(rows.join([[5, 6, 7, 8]]))
    with torch.inference_mode():
        alone = lm.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[:, -1]
    torch.testing.assert_close(rows.step([8]), alone, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "gpt_neo"])
def test_windows_of_layers_are_kept_to(family, monkeypatch):
    lm = windowed(family)
    rows, texts = Batch(lm, piece=7), [[5 + k % 90 for k in range(length)] for length in (30, 9, 3)]
    for text in texts:
        list(rows.join([text]))
    for _ in range(12):
        found = rows.step([text[-1] for text in texts])
        with torch.inference_mode():
            alone = torch.cat([lm.model(input_ids=torch.tensor([text])).logits[:, -1] for text in texts])
        torch.testing.assert_close(found, alone, atol=TOLERANCE, rtol=TOLERANCE)
        for text in texts:
            text.append(7 + len(text) % 50)


def windowed(family):
    """A tiny model whose layers see six tokens."""
    lm = tiny_lm(family)
    size = "window_size" if family == "gpt_neo" else "sliding_window"
    kinds = {"layer_types": ["sliding_attention"] * 2} if family.startswith("gemma") else {}
    config = type(lm.model.config)(**{**lm.model.config.to_dict(), size: 6, **kinds})
    model = type(lm.model)(config).eval()
    model.load_state_dict(lm.model.state_dict(), strict=False)
    return LM(model, lm.tokenizer, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_come_and_go_get_the_logits_of_their_texts_alone(family):
    lm = tiny_lm(family)
    rows, most = backend_for(lm)
    if most is None:
        rows = Batch(lm, piece=4)  # so that prompts are read in pieces
    random, texts = torch.Generator().manual_seed(0), []
    for turn in range(12):
        for length in (9, 2, 1, 14) if turn in (0, 5) else (30,) if turn == 8 else ():
            if most is None or not texts:
                texts.append(torch.randint(3, 200, (length,), generator=random).tolist())
                list(rows.join([texts[-1]]))
        found = rows.step([text[-1] for text in texts])
        with torch.inference_mode():
            alone = torch.cat([lm.model(input_ids=torch.tensor([text])).logits[:, -1] for text in texts])
        torch.testing.assert_close(found, alone, atol=TOLERANCE, rtol=TOLERANCE)
        for text, token in zip(texts, found.argmax(-1).tolist(), strict=True):
            text.append(max(3, token))
        if turn % 4 == 3:
            place = turn % len(texts)
            texts[place] = texts[-1]
            texts.pop()
            rows.leave(place)
        assert len(rows) == len(texts)
        if not texts:
            break
