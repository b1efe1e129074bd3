import pytest
import torch

from lmsteer.generation.backends import backend_for
from lmsteer.generation.batch import SPARE, Batch
from lmsteer.generation.single import SingleRow
from lmsteer.model.kv_cache import KVSlice, Start
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix
from tiny import FAMILIES, random_steer, tiny_lm

# float32 sums in another order, over two layers.
TOLERANCE = 1e-5


def step(backend, ids):
    """The logits after one more token for each row, which stays."""
    logits = backend.forward(torch.tensor(ids))
    backend.advance()
    return logits


def read(backend, *prompts):
    """The prompts become rows."""
    for _ in backend.prefill([Start(ids) for ids in prompts]):
        pass


def test_a_model_is_checked_without_the_steers_of_the_caller():
    lm = tiny_lm("llama")
    with lm.steered(Mix({"s": random_steer(lm)}, {"s": [1.0, 2.0]})):  # strengths for two rows
        assert backend_for(lm)[1] is None


def test_buffers_shrink_with_the_number_of_rows():
    lm = tiny_lm("llama")
    batch = Batch(lm)
    read(batch, *[[5, 6, 7]] * 32)
    many = batch.bytes
    for _ in range(31):
        batch.remove(0)
    read(batch, [5] * 300)
    # Two rows in place of thirty-two, each with the columns in use and free ones on both sides.
    column_bytes = many // (32 * (2 + 2 * SPARE + 1))
    assert batch.bytes <= 2 * (300 + 2 * SPARE) * column_bytes * 1.1
    batch.remove(0)
    batch.remove(0)
    assert (batch.bytes, len(batch)) == (0, 0)
    read(batch, [5, 6, 7, 8])
    with torch.inference_mode():
        alone = lm.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[:, -1]
    torch.testing.assert_close(step(batch, [8]), alone, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "gpt_neo"])
def test_sliding_windows_are_kept(family):
    lm = windowed(family)
    batch, texts = Batch(lm, prefill_chunk=7), [[5 + k % 90 for k in range(length)] for length in (30, 9, 3)]
    for text in texts:
        read(batch, text)
    for _ in range(12):
        logits = step(batch, [text[-1] for text in texts])
        with torch.inference_mode():
            alone = torch.cat([lm.model(input_ids=torch.tensor([text])).logits[:, -1] for text in texts])
        torch.testing.assert_close(logits, alone, atol=TOLERANCE, rtol=TOLERANCE)
        for text in texts:
            text.append(7 + len(text) % 50)


def windowed(family):
    """A tiny model with a sliding window of six tokens."""
    lm = tiny_lm(family)
    size = "window_size" if family == "gpt_neo" else "sliding_window"
    kinds = {"layer_types": ["sliding_attention"] * 2} if family.startswith("gemma") else {}
    config = type(lm.model.config)(**{**lm.model.config.to_dict(), size: 6, **kinds})
    model = type(lm.model)(config).eval()
    model.load_state_dict(lm.model.state_dict(), strict=False)
    return LM(model, lm.tokenizer, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_added_and_removed_rows_get_the_logits_of_their_texts_alone(family):
    lm = tiny_lm(family)
    _, limit = backend_for(lm)
    batch = Batch(lm, prefill_chunk=4) if limit is None else SingleRow(lm)
    random, texts = torch.Generator().manual_seed(0), []
    for turn in range(12):
        for length in (9, 2, 1, 14) if turn in (0, 5) else (30,) if turn == 8 else ():
            if limit is None or not texts:
                texts.append(torch.randint(3, 200, (length,), generator=random).tolist())
                read(batch, texts[-1])
        logits = step(batch, [text[-1] for text in texts])
        with torch.inference_mode():
            alone = torch.cat([lm.model(input_ids=torch.tensor([text])).logits[:, -1] for text in texts])
        torch.testing.assert_close(logits, alone, atol=TOLERANCE, rtol=TOLERANCE)
        for text, token in zip(texts, logits.argmax(-1).tolist(), strict=True):
            text.append(max(3, token))
        if turn % 4 == 3:
            place = turn % len(texts)
            texts[place] = texts[-1]
            texts.pop()
            batch.remove(place)
        assert len(batch) == len(texts)
        if not texts:
            break


@torch.inference_mode()
def test_kept_tokens_are_taken_in_the_precision_of_the_model():
    """A soft prompt is stored in float32; of a prompt of one token after it nothing is read."""
    lm, found = tiny_lm("llama", torch.bfloat16), []
    parts = tuple(torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(k)) for k in range(4))
    for dtype in (torch.float32, torch.bfloat16):
        kept, batch = [part.to(dtype) for part in parts], Batch(lm)
        list(batch.prefill([Start([5], KVSlice(tuple(kept[:2]), tuple(kept[2:])), 3)]))
        found.append(step(batch, [5]))
    assert torch.equal(*found)
