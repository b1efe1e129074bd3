import pytest
import torch

from lmsteer.serving.rows import rows_for
from tiny import FAMILIES, tiny_lm

# float32 sums in another order, over two layers.
TOLERANCE = 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_come_and_go_get_the_logits_of_their_texts_alone(family):
    lm = tiny_lm(family)
    rows, most = rows_for(lm)
    random, texts = torch.Generator().manual_seed(0), []
    for turn in range(12):
        for length in (9, 2, 1, 14) if turn in (0, 5) else (30,) if turn == 8 else ():
            if most is None or not texts:
                texts.append(torch.randint(3, 200, (length,), generator=random).tolist())
                rows.join([texts[-1]])
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
