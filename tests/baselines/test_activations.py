"""A direction is half the difference of means, and a control vector file is what llama.cpp and repeng make of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from lmsteer.baselines.activations import difference_of_means
from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.control_vector import export_control_vector, import_control_vector
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError, ModelError, SteerError, WrongBaseError
from lmsteer.steer.sites import model_layers
from lmsteer.util.provenance import provenance_of
from tiny import FAMILIES, chat_lm, styled

TEXTS = styled(40)


def card_of(lm):
    return BaselineCard(method="activations", **provenance_of(lm))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_strength_1_goes_from_the_middle_to_an_end(make_lm, family):
    """Read text by text, without padding."""
    lm = make_lm(family)
    found = difference_of_means(lm, TEXTS, card_of(lm))
    seen: list[torch.Tensor] = []

    def look(_, __, output):
        seen.append((output[0] if isinstance(output, tuple) else output)[0])

    ends = {1: [], -1: []}
    for text in TEXTS:
        with model_layers(lm.model)[0].register_forward_hook(look):
            lm.model(torch.tensor(lm.encode([text.text])))
        ends[1 if text.label > 0 else -1].append((abs(text.label), seen.pop()[1:].mean(0)))
    means = {end: sum(w * h for w, h in rows) / sum(w for w, _ in rows) for end, rows in ends.items()}
    (direction,) = found.tensors.values()
    torch.testing.assert_close(direction, (means[1] - means[-1]) / 2, rtol=1e-4, atol=1e-4)  # float32: padded
    for strength in (0.0, 2.0):
        with found.at(lm, [strength]), model_layers(lm.model)[0].register_forward_hook(look):
            lm.model(torch.tensor(lm.encode(["some text"])))
    torch.testing.assert_close(seen[1] - seen[0], (2 * direction).expand_as(seen[0]), rtol=1e-4, atol=1e-4)


def test_a_control_vector_goes_out_and_comes_back(llama, tmp_path):
    baseline = difference_of_means(llama, TEXTS, card_of(llama), layer=1)
    file = export_control_vector(llama, baseline, tmp_path / "style.gguf")
    reader = GGUFReader(file)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 1
    assert [tensor.name for tensor in reader.tensors] == ["direction.1"]  # as llama.cpp and repeng count, from 0
    loaded = import_control_vector(llama, file)
    assert loaded.fingerprint == baseline.fingerprint
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        with baseline.at(llama, [1.5]):
            expected = llama.model(ids).logits
        with loaded.at(llama, [1.5]):
            assert torch.equal(llama.model(ids).logits, expected)


def written(file, architecture, hint, directions):
    writer = GGUFWriter(file, architecture)
    if hint:
        writer.add_string("controlvector.model_hint", hint)
    for name, direction in directions.items():
        writer.add_tensor(name, direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_files_that_repeng_writes_are_read(llama, tmp_path):
    """It has a direction for every layer, and no hint of more than the model's kind."""
    rows = {f"direction.{number}": np.full(32, number, dtype=np.float32) for number in (1, 2)}
    found = import_control_vector(llama, written(tmp_path / "c.gguf", "controlvector", "llama", rows))
    assert {name: float(row[0]) for name, row in found.tensors.items()} == {"direction.1": 1.0, "direction.2": 2.0}


def test_what_is_no_control_vector_of_the_model_is_refused(llama, make_lm, tmp_path):
    row = np.ones(32, dtype=np.float32)
    for number, (architecture, hint, rows, error, message) in enumerate(
        [
            ("llama", None, {"direction.1": row}, DataError, "is no control vector"),
            ("controlvector", None, {"output.weight": row}, DataError, "is no control vector"),
            ("controlvector", "mistral", {"direction.1": row}, SteerError, "for mistral models"),
            ("controlvector", "llama", {"direction.1": row[:8]}, SteerError, "of another length than 32"),
        ]
    ):
        file = written(tmp_path / f"{number}.gguf", architecture, hint, rows)
        with pytest.raises(error, match=message):
            import_control_vector(llama, file)
    (tmp_path / "text.gguf").write_text("no such thing")
    with pytest.raises(DataError, match="no control vector, or damaged"):
        import_control_vector(llama, tmp_path / "text.gguf")
    with pytest.raises(DataError, match="no such file"):
        import_control_vector(llama, tmp_path / "none.gguf")
    far = import_control_vector(llama, written(tmp_path / "f.gguf", "controlvector", None, {"direction.9": row}))
    with pytest.raises(WrongBaseError, match="for layer 9; tiny-llama has 2"), far.at(llama, [1.0]):
        pass
    with pytest.raises(WrongBaseError):
        export_control_vector(make_lm("qwen2"), far, tmp_path / "x.gguf")


def test_what_has_no_direction_is_refused(llama):
    with pytest.raises(DataError, match="both ends"):
        difference_of_means(llama, [LabelledText("a text", 1.0)], card_of(llama))
    with pytest.raises(ModelError, match="no layer 2"):
        difference_of_means(llama, TEXTS, card_of(llama), layer=2)
    assert len(model_layers(llama.model)) == 2
    first = difference_of_means(llama, [*TEXTS, LabelledText("", 1.0)], card_of(llama), layer=0)
    assert torch.isfinite(first.tensors["direction.0"]).all()
    with pytest.raises(SteerError, match="after the first layer"):
        export_control_vector(llama, first, "x.gguf")


def test_labels_weigh_texts(llama):
    light = [LabelledText(text.text, text.label / 4) for text in TEXTS[20:]]
    (found,) = difference_of_means(llama, [*TEXTS[:20], *light], card_of(llama)).tensors.values()
    often = [text for text in TEXTS[:20] for _ in range(4)]
    (counted,) = difference_of_means(llama, [*often, *TEXTS[20:]], card_of(llama)).tensors.values()
    torch.testing.assert_close(found, counted, rtol=1e-4, atol=1e-5)  # float32


@torch.no_grad()
def test_states_of_prompts_do_not_count():
    lm = chat_lm()
    texts = [LabelledText("good", 1.0, "It is "), LabelledText("bad", -1.0, "It is ")]
    (direction,) = difference_of_means(lm, texts, card_of(lm)).tensors.values()
    seen: list[torch.Tensor] = []

    def look(_, __, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    with model_layers(lm.model)[0].register_forward_hook(look):
        for text in texts:
            lm.model(torch.tensor(lm.encode([f"It is {text.text}"])))
    means = [states[0, len("It is ") :].mean(0) for states in seen]
    torch.testing.assert_close(direction, (means[0] - means[1]) / 2, rtol=1e-4, atol=1e-4)  # float32: padded
